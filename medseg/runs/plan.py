"""A plan: what the data decides. JSON, with a reason beside each decision."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from medseg.labels import LabelScheme
from medseg.runs.part import Part
from medseg.runs.preprocessing import PreprocessingSpec

__all__ = ["Fingerprint", "NetworkPlan", "Plan"]


class Fingerprint(Part):
    """What the training data is like, on grids oriented as the network sees them.

    Attributes:
        cases: Number of training cases.
        median_shape: Median number of voxels per axis.
        largest_shape: Largest number of voxels per axis.
        median_spacing_mm: Median spacing per axis.
        foreground_intensity: Per channel: percentiles 0.5 and 99.5, mean and standard deviation of the
            intensities within labelled structures; without labels, within the body where a channel is CT,
            else within the whole image.
        class_voxels: Number of voxels of each class, background first; empty without labels.
    """

    cases: int
    median_shape: tuple[int, int, int]
    largest_shape: tuple[int, int, int]
    median_spacing_mm: tuple[float, float, float]
    foreground_intensity: tuple[dict[str, float], ...]
    class_voxels: tuple[int, ...]


class NetworkPlan(Part):
    """A network that can be built: a registered name and all its keyword arguments."""

    name: str
    options: dict[str, Any]


class Plan(Part):
    """All that the data decides about a training.

    Attributes:
        schema_version: Version of the document's form.
        dataset: The data set's name.
        channel_names: One per channel of the image, as the data set calls them.
        labels: The classes.
        fingerprint: What the decisions rest on.
        preprocessing: Orientation, normalisation, spacing.
        patch_size: Voxels per axis that the network sees in training, and in a window.
        batch_size: Patches per step.
        class_sampling: How often, relative to each other, patches are centred on each foreground class;
            equally often if empty.
        network: What is built.
        reasons: For each decision, why.
    """

    schema_version: Literal[1] = 1
    dataset: str
    channel_names: tuple[str, ...]
    labels: LabelScheme
    fingerprint: Fingerprint
    preprocessing: PreprocessingSpec
    patch_size: tuple[int, int, int]
    batch_size: int = Field(ge=1)
    class_sampling: tuple[float, ...] = ()
    network: NetworkPlan
    reasons: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if self.preprocessing.channels != len(self.channel_names):
            raise ValueError("preprocessing and channel_names differ in the number of channels")
        return self
