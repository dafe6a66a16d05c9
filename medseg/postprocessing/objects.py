"""Objects of one class that touch, told apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medseg.components import (
    BoolArray,
    Box,
    Connectivity,
    component_sizes,
    connected_components,
    require_mask,
    require_spacing,
    voxels_at_least,
)
from medseg.errors import ConfigError, GeometryError
from medseg.postprocessing.watershed import ascend, assign, dominant_peaks, find_passes

__all__ = ["distance_to_outside_mm", "separate_objects"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
_SMOOTHING_SPACINGS = 1.0
_NECK_DEPTH_SPACINGS = 0.5
_REACH_DEVIATIONS = 3.0
_FEWEST_TO_DIVIDE = 3
_FEW_VOXELS = 1 << 17
"""Up to here SciPy's distances come sooner: ITK's take 2 ms to begin. Beyond, they take too much memory."""


def separate_objects(
    mask: BoolArray,
    spacing_mm: Sequence[float],
    *,
    markers: BoolArray | None = None,
    smoothing_mm: float | None = None,
    neck_depth_mm: float | None = None,
    smallest_volume_ml: float = 0.0,
    connectivity: Connectivity = "faces",
) -> IntArray:
    """Number the objects of a mask, also those that touch.

    An object is thick in its middle: where the distance to the outside, smoothed, has a maximum. Two maxima
    are two objects if one has to go down by more than ``neck_depth_mm`` between them; the border between them
    runs through the neck. With ``markers`` each of their components is an object instead, and the rest of the
    mask goes to the nearest on a way within the mask; where there is no way to one, voxels are no object's.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).
        spacing_mm: Distance between voxels along each axis.
        markers: A part of the mask, with a component for each object.
        smoothing_mm: Standard deviation of the Gaussian; by default the smallest spacing.
        neck_depth_mm: How much less half-thickness makes a neck; by default half the smallest spacing.
        smallest_volume_ml: Objects below are dropped.
        connectivity: Voxels belong together that share a face, an edge or a corner.

    Returns:
        Objects numbered from 1, 0 outside; shape of the mask.

    Raises:
        InputError: A mask is not boolean.
        GeometryError: A mask has neither two nor three axes, markers another shape, or there is not one
            positive spacing for each axis.
        ConfigError: A length or a volume is negative, or the connectivity is unknown.

    Example:
        >>> x, y = np.mgrid[:21, :33]
        >>> touching = (x - 10) ** 2 + (y - 9) ** 2 < 81
        >>> touching |= (x - 10) ** 2 + (y - 23) ** 2 < 81
        >>> objects = separate_objects(touching, (1.0, 1.0))
        >>> int(objects.max()), objects[10, [0, 5, 15, 17, 30]].tolist()
        (2, [0, 1, 1, 2, 2])
    """
    require_mask(mask)
    spacing = require_spacing(spacing_mm, mask.ndim)
    smoothing = _SMOOTHING_SPACINGS * min(spacing) if smoothing_mm is None else smoothing_mm
    depth = _NECK_DEPTH_SPACINGS * min(spacing) if neck_depth_mm is None else neck_depth_mm
    if min(smoothing, depth, smallest_volume_ml) < 0.0:
        raise ConfigError("lengths and volumes of objects cannot be negative", fix="use 0 or more")
    if markers is not None:
        require_mask(markers)
        if markers.shape != mask.shape:
            raise GeometryError(f"markers {markers.shape} and mask {mask.shape} differ in shape")
    smallest_voxels = voxels_at_least(smallest_volume_ml, spacing)
    objects, components = connected_components(mask, connectivity)
    sizes = component_sizes(objects, components)
    count = 0
    for number, box in enumerate(ndimage.find_objects(objects, components), start=1):
        around = _grown(box, mask.shape)
        component = np.ascontiguousarray(objects[around] == number)
        parts: IntArray
        if sizes[number - 1] < smallest_voxels:
            parts, found = np.zeros(component.shape, np.int32), 0
        elif markers is None:
            parts, found = _by_thickness(component, spacing, smoothing, depth)
        else:
            seeds, found = connected_components(component & markers[around], connectivity)
            parts, _ = _by_markers(component, seeds, found, spacing)
        # Numbers below 0 are those of objects, above 0 those of components that are still to come.
        np.copyto(objects[around], -(parts + count), where=component & (parts > 0))
        np.copyto(objects[around], 0, where=component & (parts == 0))
        count += found
    np.negative(objects, out=objects)
    return _without_small(objects, count, smallest_voxels)


def distance_to_outside_mm(mask: BoolArray, spacing_mm: Sequence[float]) -> FloatArray:
    """Distance of each voxel of a mask to the nearest voxel outside, centre to centre; 0 outside.

    What lies beyond the image's edge is not outside: an object that is cut by it counts as going on.

    Args:
        mask: Shape (X, Y) or (X, Y, Z), with a voxel outside.
        spacing_mm: Distance between voxels along each axis.

    Example:
        >>> distance_to_outside_mm(np.array([[False, True, True, True]]), (1.0, 2.0)).tolist()
        [[0.0, 2.0, 4.0, 6.0]]
    """
    if mask.size <= _FEW_VOXELS:
        return ndimage.distance_transform_edt(mask, sampling=spacing_mm).astype(np.float32)
    outside = sitk.GetImageFromArray((~mask).view(np.uint8))
    outside.SetSpacing(
        [float(length) for length in reversed(spacing_mm)]
    )  # ITK's axes run the other way round
    distance = sitk.SignedMaurerDistanceMap(
        outside, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    inside: FloatArray = np.maximum(sitk.GetArrayViewFromImage(distance), np.float32(0.0))
    return inside


def _grown(box: Box, shape: Sequence[int]) -> Box:
    """The box with a voxel more on each side, as far as the image goes."""
    return tuple(
        slice(max(side.start - 1, 0), min(side.stop + 1, length))
        for side, length in zip(box, shape, strict=True)
    )


def _by_thickness(
    component: BoolArray, spacing_mm: Sequence[float], smoothing_mm: float, neck_depth_mm: float
) -> tuple[IntArray, int]:
    """Objects of one component, numbered from 1, and how many there are."""
    if component.all() or np.count_nonzero(component) < _FEWEST_TO_DIVIDE:
        return component.astype(np.int32), 1
    field = distance_to_outside_mm(component, spacing_mm)
    deviations = [smoothing_mm / length for length in spacing_mm]
    field = ndimage.gaussian_filter(field, deviations, mode="nearest", truncate=_REACH_DEVIATIONS)
    field[~component] = -1.0
    basins, heights = ascend(field, component, spacing_mm)
    if heights.size == 1:
        return basins, 1
    passes = find_passes(field, basins)
    kept = dominant_peaks(heights, passes, neck_depth_mm)
    return assign(passes, kept)[basins], int(kept.sum())


def _by_markers(
    component: BoolArray, seeds: IntArray, count: int, spacing_mm: Sequence[float]
) -> tuple[IntArray, int]:
    """Objects of one component, one for each numbered seed, and how many there are."""
    if count < 2:
        return component.astype(np.int32) * count, count
    field = -distance_to_outside_mm(seeds == 0, spacing_mm)
    field[~component] = field.min() - 1.0
    basins, heights = ascend(field, component, spacing_mm, seeds)
    kept = np.arange(heights.size) < count
    return assign(find_passes(field, basins), kept)[basins], count


def _without_small(objects: IntArray, count: int, smallest_voxels: int) -> IntArray:
    """Drop objects of fewer voxels, and close the gaps that their numbers leave."""
    stays = component_sizes(objects, count) >= smallest_voxels
    if stays.all():
        return objects
    numbers = np.concatenate([[0], np.where(stays, np.cumsum(stays), 0)]).astype(np.int32)
    return np.asarray(numbers[objects])
