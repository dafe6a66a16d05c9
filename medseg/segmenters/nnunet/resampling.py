"""Resampling as nnU-Net v2 does it: splines over the whole array, thick slices apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.runs.nnunet import ResamplingOptions

__all__ = ["resampled", "resampled_shape", "thick_axis"]

Order: TypeAlias = Literal[0, 1, 2, 3, 4, 5]

_ANISOTROPIC = 3.0
"""Longest over shortest side of a voxel, above which slices are thick."""


def thick_axis(how: ResamplingOptions, before_mm: Sequence[float], after_mm: Sequence[float]) -> int | None:
    """The axis across thick slices, if there is one.

    Example:
        >>> how = ResamplingOptions()
        >>> thick_axis(how, (5.0, 1.0, 1.0), (1.0, 1.0, 1.0)), thick_axis(how, (1, 1, 1), (2, 1, 1))
        (0, None)
    """
    if how.force_separate_z is False:
        return None
    spacing = before_mm
    if how.force_separate_z is None:
        thick = [one for one in (before_mm, after_mm) if max(one) / min(one) > _ANISOTROPIC]
        if not thick:
            return None
        spacing = thick[0]
    longest = [axis for axis, length in enumerate(spacing) if max(spacing) / length == 1]
    return longest[0] if len(longest) == 1 else None


def resampled_shape(
    shape: Sequence[int], before_mm: Sequence[float], after_mm: Sequence[float]
) -> tuple[int, ...]:
    """Voxels along each axis after resampling.

    Example:
        >>> resampled_shape((10, 10, 5), (1.0, 1.0, 2.0), (2.0, 1.0, 1.0))
        (5, 10, 10)
    """
    sizes = zip(shape, before_mm, after_mm, strict=True)
    return tuple(round(old / new * size) for size, old, new in sizes)


def resampled(
    array: npt.NDArray[np.floating],
    shape: Sequence[int],
    before_mm: Sequence[float],
    after_mm: Sequence[float],
    how: ResamplingOptions,
) -> npt.NDArray[Any]:
    """Bring an array to another shape over the same extent, as nnU-Net's ``resample_data_or_seg_to_shape``.

    Args:
        array: (C, Z, Y, X).
        shape: (Z', Y', X').
        before_mm: Spacing of ``array``.
        after_mm: Spacing wanted; it decides on thick slices alone.
        how: Orders of the splines.

    Returns:
        (C, Z', Y', X') in the precision of ``array``; the array itself if it has that shape.
    """
    wanted = tuple(shape)
    if array.shape[1:] == wanted:
        return array
    axis = thick_axis(how, before_mm, after_mm)
    result = np.empty((array.shape[0], *wanted), array.dtype)
    for channel, values in enumerate(array):
        precise = values.astype(np.float64)
        if axis is None:
            result[channel] = _resized(precise, wanted, how.order)
        else:
            result[channel] = _by_slices(precise, wanted, axis, how)
    return result


def _by_slices(
    values: npt.NDArray[np.float64], shape: tuple[int, ...], axis: int, how: ResamplingOptions
) -> npt.NDArray[np.float64]:
    """Each slice in its plane, then across the slices."""
    plane = tuple(size for index, size in enumerate(shape) if index != axis)
    slices = [_resized(one, plane, how.order) for one in np.moveaxis(values, axis, 0)]
    stacked = np.stack(slices, axis=axis)
    if stacked.shape == shape:
        return stacked
    factor = stacked.shape[axis] / shape[axis]
    places = [np.arange(size, dtype=np.float64) for size in shape]
    places[axis] = factor * (places[axis] + 0.5) - 0.5
    coordinates = np.stack(np.meshgrid(*places, indexing="ij"))
    found: npt.NDArray[np.float64] = ndimage.map_coordinates(
        stacked, coordinates, order=how.order_z, mode="nearest"
    )
    return found


def _resized(
    values: npt.NDArray[np.float64], shape: tuple[int, ...], order: Order
) -> npt.NDArray[np.float64]:
    """Splines over voxels' extents, with the border's values beyond it, within the range of all values."""
    if values.shape == shape and order <= 1:
        return values
    zoom = [1.0 / (old / new) for old, new in zip(values.shape, shape, strict=True)]
    found: npt.NDArray[np.float64] = ndimage.zoom(values, zoom, order=order, mode="nearest", grid_mode=True)
    return np.clip(found, values.min(), values.max(), out=found)
