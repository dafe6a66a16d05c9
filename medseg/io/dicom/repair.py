"""Slices brought onto an orthogonal, even grid: shifted in their plane, interpolated along the normal."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.geometry import GRID_TOLERANCE_VOXELS, Grid
from medseg.io.dicom.verdict import DicomVolume, Reason, Status

__all__ = ["repaired", "shifted"]

_IN_PLANE = {Reason.GANTRY_TILT, Reason.SHEARED}
_ALONG_NORMAL = {Reason.UNEVEN_SPACING, Reason.MISSING_SLICES}
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def repaired(stack: npt.NDArray[Any], volume: DicomVolume) -> npt.NDArray[Any]:
    """Resample the slices of a volume onto its grid, as far as its verdict says that they are repaired.

    Slices of a tilted gantry lie in the grid's planes, each displaced within its own: they are shifted by
    linear interpolation. Where spacing is uneven or slices are missing, the grid's slices are interpolated
    linearly between the two nearest. What no slice reaches becomes the smallest value of the volume, which
    is air or padding in CT. Integers are rounded.

    Args:
        stack: Shape (slices, rows, columns), in the order of the volume's frames.
        volume: With the grid to reach.

    Returns:
        Shape (slices, rows, columns) of the grid, of the same type; ``stack`` itself if nothing is repaired.

    Raises:
        GeometryError: The slices cannot be brought onto the grid.
    """
    grid = _require_grid(volume)
    reasons = {finding.reason for finding in volume.verdict.findings if finding.status is Status.REPAIRED}
    in_plane, along_normal = bool(reasons & _IN_PLANE), bool(reasons & _ALONG_NORMAL)
    shape = grid.shape[::-1]
    comparable = [axis for axis in range(3) if not (along_normal if axis == 0 else in_plane)]
    if any(stack.shape[axis] != shape[axis] for axis in comparable):
        raise _mismatch(stack.shape, shape)
    if not in_plane and not along_normal:
        return stack
    places = _places(volume, grid)
    shifts = places[:, 1::-1]
    heights = places[:, 2] if along_normal else np.arange(len(stack), dtype=np.float64)
    fill = stack.min()

    @lru_cache(maxsize=2)
    def plane(index: int) -> npt.NDArray[Any]:
        stored: npt.NDArray[Any] = stack[index]
        if not in_plane:
            return stored
        return shifted(stored, tuple(shifts[index]), shape[1:], fill)

    out = np.empty(shape, stack.dtype)
    for number in range(shape[0]):
        out[number] = _between(plane, heights, number, fill)
    return out


def shifted(
    plane: npt.NDArray[Any], shift: tuple[float, float], shape: tuple[int, int], fill: Any
) -> npt.NDArray[Any]:
    """Move a plane by fractions of a voxel, by linear interpolation.

    Args:
        plane: Shape (rows, columns).
        shift: By how many rows and columns; what lay at row ``r`` comes to lie at ``r + shift[0]``.
        shape: Rows and columns of the result.
        fill: The value where the plane does not reach.

    Returns:
        Floating point: the caller rounds.

    Example:
        >>> shifted(np.array([[1.0], [3.0], [5.0]]), (0.5, 0.0), (4, 1), 0.0).ravel().tolist()
        [0.0, 2.0, 4.0, 0.0]
    """
    working = plane.astype(_working_dtype(plane.dtype), copy=False)
    down = _shifted_rows(working, shift[0], shape[0], fill)
    return _shifted_rows(down.T, shift[1], shape[1], fill).T


def _shifted_rows(plane: npt.NDArray[Any], shift: float, length: int, fill: Any) -> npt.NDArray[Any]:
    first = int(np.floor(-shift + GRID_TOLERANCE_VOXELS))
    weight = -shift - first
    if weight <= GRID_TOLERANCE_VOXELS:  # whole voxels: rounding noise must not blur
        weight = 0.0
    neighbours = 1 if weight else 0
    start, stop = max(0, -first), min(length, len(plane) - first - neighbours)
    out = np.full((length, plane.shape[1]), fill, plane.dtype)
    if start < stop:
        out[start:stop] = plane[first + start : first + stop]
        if weight:
            out[start:stop] *= plane.dtype.type(1.0 - weight)
            out[start:stop] += plane.dtype.type(weight) * plane[first + start + 1 : first + stop + 1]
    return out


def _between(
    plane: Callable[[int], npt.NDArray[Any]], heights: npt.NDArray[np.float64], number: int, fill: Any
) -> npt.NDArray[Any]:
    """Slice ``number`` of the grid, from slices that lie at ``heights`` of it, rounded if need be."""
    above = int(np.searchsorted(heights, number - GRID_TOLERANCE_VOXELS))
    if above < len(heights) and abs(heights[above] - number) <= GRID_TOLERANCE_VOXELS:
        return _rounded(plane(above), fill)
    if above in (0, len(heights)):
        return np.full_like(plane(0), fill)
    below = above - 1
    weight = (number - heights[below]) / (heights[above] - heights[below])
    lower, upper = plane(below), plane(above)
    working = _working_dtype(lower.dtype)
    mixed = lower.astype(working) * working.type(1.0 - weight) + upper.astype(working) * working.type(weight)
    return _rounded(mixed, fill)


def _rounded(values: npt.NDArray[Any], like: Any) -> npt.NDArray[Any]:
    rounds = values.dtype.kind == "f" and np.asarray(like).dtype.kind != "f"
    return np.rint(values) if rounds else values


def _working_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Single precision holds 16 bits and their weights; more needs double."""
    return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)


def _places(volume: DicomVolume, grid: Grid) -> npt.NDArray[np.float64]:
    """Where on the grid each frame's first voxel lies: (frames, 3), in fractional (column, row, slice)."""
    positions = [frame.position for frame in volume.frames]
    if None in positions:
        raise GeometryError("a slice has no position", fix="read the series without repairs")
    return grid.to_index(np.array(positions, dtype=np.float64) * _LPS_TO_RAS)


def _require_grid(volume: DicomVolume) -> Grid:
    if volume.grid is None:
        raise GeometryError("the volume has no grid", fix="see its verdict")
    return volume.grid


def _mismatch(found: tuple[int, ...], wanted: tuple[int, ...]) -> GeometryError:
    return GeometryError(
        f"slices, rows and columns are {found}, the grid has {wanted}", fix="scan the folder again"
    )
