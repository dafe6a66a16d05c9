"""A plan: what the data decides. JSON, with a reason beside each decision."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medseg.labels import LabelScheme
from medseg.runs.fingerprint import Fingerprint
from medseg.runs.part import Part
from medseg.runs.preprocessing import PreprocessingSpec

__all__ = ["NetworkPlan", "Plan"]


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
        network: What is built.
        class_sampling: For each class but the background, how often a patch that shall show a structure is
            to show this one; they sum to 1. Empty: all alike.
        inference_mode: How images are best segmented, as far as the network's layers tell; ``None`` where
            nothing is segmented. The recipe's ``inference.mode`` goes before it.
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
    network: NetworkPlan
    class_sampling: tuple[Annotated[float, Field(ge=0.0)], ...] = ()
    inference_mode: Literal["streaming", "sliding-window", "overlap-tile"] | None = None
    reasons: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if self.preprocessing.channels != len(self.channel_names):
            raise ValueError("preprocessing and channel_names differ in the number of channels")
        if self.class_sampling and len(self.class_sampling) != len(self.labels.foreground):
            raise ValueError("class_sampling has not one number for each class but the background")
        if self.class_sampling and not math.isclose(sum(self.class_sampling), 1.0, abs_tol=1e-6):
            raise ValueError("class_sampling does not sum to 1")
        return self
