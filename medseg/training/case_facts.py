"""What one training case is like, while it is in memory: small numbers that outlive it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import BoolArray, component_sizes, connected_components
from medseg.geometry import Grid
from medseg.volume import Volume

__all__ = ["BODY_ABOVE_HU", "SAMPLES_PER_CASE", "CaseFacts", "ConstantValue", "facts_of", "is_ct"]

BODY_ABOVE_HU = -500.0
"""Between air, also that in lungs, and the least dense tissue."""

SAMPLES_PER_CASE = 10_000
_WHOLE = 1  # beside the case's number, so that both samples are drawn independently
_MM3_PER_ML = 1000.0


def is_ct(channel_name: str) -> bool:
    """Whether a channel's intensities are Hounsfield units, by its name."""
    return channel_name.strip().upper() == "CT"


@dataclass(frozen=True)
class ConstantValue:
    """How much of a channel is 0, and how much is its lowest value.

    Attributes:
        lowest: That value.
        at_lowest: Part of the voxels that have it.
        at_zero: Part of the voxels that are 0.
    """

    lowest: float
    at_lowest: float
    at_zero: float


@dataclass(frozen=True)
class CaseFacts:
    """What a fingerprint needs of one case.

    Attributes:
        grid: Oriented as the network sees it.
        class_voxels: By class, background first; none without labels.
        component_ml: For each class but the background, volumes of its connected components.
        foreground: Intensities (C, n) within labelled structures, or within the body.
        whole: Intensities (C, m) of the whole image.
        constants: One per channel.
    """

    grid: Grid
    class_voxels: npt.NDArray[np.int64]
    component_ml: tuple[npt.NDArray[np.float64], ...]
    foreground: npt.NDArray[np.float32]
    whole: npt.NDArray[np.float32]
    constants: tuple[ConstantValue, ...]


def facts_of(
    image: Volume, label: Volume | None, classes: int, channel_names: Sequence[str], axcodes: str, number: int
) -> CaseFacts:
    """Sum a case up.

    Args:
        image: Its channels.
        label: Class indices (1, X, Y, Z) on the same grid, where there are labels; ``classes`` where a voxel
            is ignored.
        classes: How many there are, background included.
        channel_names: One per channel.
        axcodes: Orientation of the grid that is kept.
        number: Of the case; what is drawn of it depends on this alone.
    """
    if label is None:
        inside = _body(image, channel_names)
    else:
        inside = (label.array[0] > 0) & (label.array[0] < classes)  # not what is ignored
    counts = np.zeros(0, np.int64)
    components: tuple[npt.NDArray[np.float64], ...] = ()
    if label is not None:
        # Plane by plane, since bincount makes eight bytes of each voxel.
        counts = np.sum(
            [np.bincount(plane.ravel(), minlength=classes)[:classes] for plane in label.array[0]], axis=0
        )
        components = _component_volumes_ml(label, classes)
    return CaseFacts(
        grid=image.grid.reoriented(axcodes),
        class_voxels=counts,
        component_ml=components,
        foreground=_samples(image.array[:, inside], np.random.default_rng(number)),
        whole=_anywhere(image, np.random.default_rng([number, _WHOLE])),
        constants=tuple(_constant(channel) for channel in image.array),
    )


def _body(image: Volume, channel_names: Sequence[str]) -> BoolArray:
    """Where the patient is, as far as intensities of a known unit tell; everywhere if none has one."""
    for name, channel in zip(channel_names, image.array, strict=True):
        if is_ct(name):
            return np.asarray(channel > BODY_ABOVE_HU)
    return np.ones(image.grid.shape, dtype=bool)


def _samples(voxels: npt.NDArray[np.generic], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    if voxels.shape[1] > SAMPLES_PER_CASE:
        voxels = voxels[:, generator.choice(voxels.shape[1], SAMPLES_PER_CASE, replace=False)]
    return voxels.astype(np.float32)


def _anywhere(image: Volume, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    chosen = min(image.grid.voxel_count, SAMPLES_PER_CASE)
    places = generator.choice(image.grid.voxel_count, chosen, replace=False)
    across, along, up = np.unravel_index(places, image.grid.shape)
    return np.asarray(image.array[:, across, along, up], dtype=np.float32)


def _constant(channel: npt.NDArray[np.generic]) -> ConstantValue:
    lowest = channel.min()
    return ConstantValue(
        lowest=float(np.float32(lowest)),
        at_lowest=np.count_nonzero(channel == lowest) / channel.size,
        at_zero=1.0 - np.count_nonzero(channel) / channel.size,
    )


def _component_volumes_ml(label: Volume, classes: int) -> tuple[npt.NDArray[np.float64], ...]:
    voxel_ml = math.prod(label.grid.spacing_mm) / _MM3_PER_ML
    boxes = ndimage.find_objects(label.array[0], max_label=classes - 1) if classes > 1 else []
    volumes: list[npt.NDArray[np.float64]] = []
    for index, box in enumerate(boxes, start=1):
        sizes = np.zeros(0, np.int64)
        if box is not None:
            sizes = component_sizes(*connected_components(label.array[0][box] == index))
        volumes.append(sizes.astype(np.float64) * voxel_ml)
    return tuple(volumes)
