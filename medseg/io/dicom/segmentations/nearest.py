"""Volumes from one grid to another whose planes and rows are parallel, by nearest neighbour."""

from __future__ import annotations

import numpy as np

from medseg.errors import GeometryError
from medseg.geometry import FloatArray, Grid
from medseg.volume import Volume

__all__ = ["nearest_on"]

_LARGEST_DRIFT_VOXELS = 0.1
"""How far the last voxel of an axis may lie from where whole steps put it."""


def nearest_on(volume: Volume, grid: Grid) -> Volume:
    """The values of the nearest voxels, 0 where there is none.

    What a tilted gantry's slices and the orthogonal grid that they were resampled onto have in common is that
    their slices are parallel, and so are their rows and columns: each slice is shifted within its plane.

    Args:
        volume: Label values, or fractions.
        grid: Where they are wanted.

    Raises:
        GeometryError: The two grids' axes are turned or scaled against each other.

    Example:
        >>> upright = Grid((4, 1, 2), np.eye(4))
        >>> sheared = Grid((4, 1, 2), np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> labels = np.array([[1, 2, 3, 4], [1, 2, 3, 4]]).T.reshape(1, 4, 1, 2)
        >>> nearest_on(Volume(labels, upright), sheared).array[0, :, 0].T.tolist()
        [[1, 2, 3, 4], [2, 3, 4, 0]]
    """
    change = np.linalg.inv(volume.grid.affine) @ grid.affine
    drift = np.abs(change[:3, :3] - np.eye(3))
    drift[:2, 2] = 0.0  # slices may be shifted within their planes, each by as much more
    if (drift @ (np.array(grid.shape) - 1)).max() > _LARGEST_DRIFT_VOXELS:
        raise GeometryError("its slices are turned or scaled against those of the other grid")
    array = np.zeros((volume.channels, *grid.shape[::-1]), volume.dtype).transpose(0, 3, 2, 1)
    for plane in range(grid.shape[2]):
        starts: FloatArray = change[:3, 2] * plane + change[:3, 3]
        source = round(float(starts[2]))
        if 0 <= source < volume.grid.shape[2]:
            column, x = _overlap(float(starts[0]), grid.shape[0], volume.grid.shape[0])
            row, y = _overlap(float(starts[1]), grid.shape[1], volume.grid.shape[1])
            array[:, column, row, plane] = volume.array[:, x, y, source]
    return Volume(array, grid)


def _overlap(start: float, length: int, source_length: int) -> tuple[slice, slice]:
    """Indices of an axis, and the nearest ones of the source's axis, on which it starts at ``start``."""
    shift = int(np.floor(start + 0.5))
    first = max(0, -shift)
    last = max(min(length, source_length - shift), first)
    return slice(first, last), slice(first + shift, last + shift)
