"""Maximally stable extremal regions in 3D: what keeps its extent over many thresholds.

J. Matas, O. Chum, M. Urban, T. Pajdla, "Robust wide baseline stereo from maximally stable extremal regions",
BMVC 2002; in volumes M. Donoser, H. Bischof, "3D segmentation by maximally stable volumes (MSVs)", ICPR 2006.
The components of all thresholds make a tree; along each of its branches those are taken whose volume changes
least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import (
    BoolArray,
    Box,
    Connectivity,
    component_sizes,
    connected_components,
    require_spacing,
)
from medseg.errors import ConfigError, InputError

__all__ = ["StableRegion", "find_stable_regions"]

_CUBIC_MM_PER_ML = 1000.0
IntArray = npt.NDArray[np.int64]


class StableRegion(NamedTuple):
    """A component of a threshold that other thresholds change little.

    Attributes:
        box: Where it lies.
        mask: Its voxels within the box.
        threshold: The intensity that it begins at.
        volume_ml: Its volume.
        variation: By how much of its volume it grows while the threshold moves on by ``delta``.
    """

    box: Box
    mask: BoolArray
    threshold: float
    volume_ml: float
    variation: float


def find_stable_regions(
    image: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    delta: float,
    smallest_volume_ml: float,
    largest_volume_ml: float,
    levels: int = 64,
    regions_are: Literal["bright", "dark"] = "bright",
    largest_variation: float = 0.5,
    diversity: float = 0.2,
    connectivity: Connectivity = "faces",
) -> list[StableRegion]:
    """Candidates for structures of any shape that are brighter or darker than all around them.

    Args:
        image: Shape (X, Y) or (X, Y, Z).
        spacing_mm: Distance between voxels along each axis.
        delta: How far the threshold moves for the variation, in units of intensity.
        smallest_volume_ml: Of a region (in 2D for slices of 1 mm).
        largest_volume_ml: Of a region.
        levels: How many thresholds are tried, evenly spaced from the lowest to the highest intensity.
        regions_are: Brighter or darker than what is around them.
        largest_variation: Regions that vary more are left out.
        diversity: Of nested regions the inner one is left out if it is smaller by less than this part of the
            outer.
        connectivity: Voxels hang together that share a face, an edge or a corner.

    Returns:
        The regions, the most stable first.

    Raises:
        GeometryError: Not one positive spacing for each axis.
        InputError: Intensities are not finite.
        ConfigError: An option is out of range.

    Example:
        >>> image = np.zeros((9, 9)); image[2:5, 2:6] = 8.0; image[6, 8] = 3.0
        >>> limits = {"smallest_volume_ml": 0.005, "largest_volume_ml": 0.05}
        >>> region, = find_stable_regions(image, (1.0, 1.0), delta=2.0, levels=9, **limits)
        >>> region.box, region.volume_ml, region.variation
        ((slice(2, 5, None), slice(2, 6, None)), 0.012, 0.0)
    """
    spacing = require_spacing(spacing_mm, image.ndim)
    if not np.isfinite(image).all():
        raise InputError("the image holds NaN or infinite values", fix="replace them")
    if not 0.0 < smallest_volume_ml <= largest_volume_ml or levels < 2 or not delta > 0.0:
        raise ConfigError(
            f"volumes from {smallest_volume_ml} to {largest_volume_ml} ml, {levels} levels, delta {delta}",
            fix="give positive volumes in order, two levels at least, and a delta above 0",
        )
    values = np.asarray(image, np.float32) * np.float32(1.0 if regions_are == "bright" else -1.0)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return []
    # The lowest threshold takes the whole image: it is the tree's root.
    thresholds = np.linspace(low, high, levels)
    tree = _Tree.of(values, thresholds, connectivity)
    steps = max(1, round(delta / float(thresholds[1] - thresholds[0])))
    voxel_ml = math.prod(spacing) / _CUBIC_MM_PER_ML
    volumes = tree.sizes * voxel_ml
    variation = tree.variation(steps)
    chosen = tree.stable(variation)
    chosen &= (volumes >= smallest_volume_ml) & (volumes <= largest_volume_ml)
    chosen &= variation <= largest_variation
    kept = tree.diverse(chosen, diversity)
    order = sorted(np.flatnonzero(kept).tolist(), key=lambda region: (variation[region], -tree.sizes[region]))
    masks = _masks(values, thresholds, tree, order, connectivity)
    sign = 1.0 if regions_are == "bright" else -1.0
    return [
        StableRegion(
            *masks[region],
            threshold=sign * float(thresholds[tree.level[region]]),
            volume_ml=float(volumes[region]),
            variation=float(variation[region]),
        )
        for region in order
    ]


@dataclass(frozen=True)
class _Tree:
    """The components of all thresholds, from the lowest on.

    Attributes:
        parent: Of each component the one of the threshold below that holds it; -1 of those of the lowest.
        level: Number of its threshold.
        number: Its number among those of the same threshold, from 1.
        sizes: Its voxels.
    """

    parent: IntArray
    level: IntArray
    number: IntArray
    sizes: IntArray

    @classmethod
    def of(
        cls, values: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float64], connectivity: Connectivity
    ) -> _Tree:
        """Label the image at each threshold, and find what each component lies in."""
        parents, levels, numbers_of, sizes = [], [], [], []
        before: npt.NDArray[np.int32] | None = None
        first_before = first = 0
        for level, threshold in enumerate(thresholds):
            numbers, count = connected_components(values >= np.float32(threshold), connectivity)
            if before is None:
                parents.append(np.full(count, -1, np.int64))
            else:
                held_by = np.zeros(count + 1, np.int64)
                held_by[numbers] = before  # all voxels of a component lie in one
                parents.append(first_before + held_by[1:] - 1)
            levels.append(np.full(count, level, np.int64))
            numbers_of.append(np.arange(1, count + 1))
            sizes.append(component_sizes(numbers, count))
            first_before, first = first, first + count
            before = numbers
        return cls(*(np.concatenate(part) for part in (parents, levels, numbers_of, sizes)))

    def variation(self, steps: int) -> npt.NDArray[np.float64]:
        """By how much of its volume each component grows, ``steps`` thresholds lower; infinite beyond all."""
        ancestor = np.arange(self.parent.size)
        for _ in range(steps):
            ancestor = np.where(ancestor >= 0, self.parent[ancestor], -1)
        grown = (self.sizes[ancestor] - self.sizes) / self.sizes
        return np.where(ancestor >= 0, grown, np.inf)

    def stable(self, variation: npt.NDArray[np.float64]) -> BoolArray:
        """Components that vary less than those that they hold, and no more than the one that holds them."""
        inner = np.flatnonzero(self.parent >= 0)
        outer = self.parent[inner]
        varies_less = variation[inner] < variation[outer]
        stays = np.isfinite(variation)
        stays[outer[varies_less]] = False
        stays[inner[~varies_less]] = False
        return stays

    def diverse(self, chosen: BoolArray, diversity: float) -> BoolArray:
        """Leave out what the next chosen one around it is hardly larger than."""
        kept = chosen.copy()
        nearest = np.full(self.parent.size, -1, np.int64)  # the innermost kept one around each
        for region in range(self.parent.size):  # parents come first
            outer = int(self.parent[region])
            if outer >= 0:
                nearest[region] = outer if kept[outer] else nearest[outer]
            around = int(nearest[region])
            if kept[region] and around >= 0:
                larger = (self.sizes[around] - self.sizes[region]) / self.sizes[around]
                kept[region] = larger >= diversity
        return kept


def _masks(
    values: npt.NDArray[np.float32],
    thresholds: npt.NDArray[np.float64],
    tree: _Tree,
    regions: Sequence[int],
    connectivity: Connectivity,
) -> dict[int, tuple[Box, BoolArray]]:
    """Where each region is, threshold by threshold, so that one labelling is held at a time."""
    found: dict[int, tuple[Box, BoolArray]] = {}
    for level in sorted({int(tree.level[region]) for region in regions}):
        numbers, count = connected_components(values >= np.float32(thresholds[level]), connectivity)
        boxes = ndimage.find_objects(numbers, count)
        for region in regions:
            if tree.level[region] == level:
                number = int(tree.number[region])
                box = boxes[number - 1]
                found[region] = (box, numbers[box] == number)
    return found
