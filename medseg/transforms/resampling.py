"""Moving voxels from one grid to a parallel one, axis by axis.

Linear interpolation is separable: along each axis a target voxel is the weighted mean of two source voxels.
That needs no grid of coordinates in memory, and an axis that stays as it is costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from medseg.errors import GeometryError
from medseg.geometry import SlabMap

__all__ = ["Interpolation", "resample"]

Interpolation = Literal["linear", "nearest"]


def resample(
    source: torch.Tensor,
    maps: Sequence[SlabMap],
    interpolation: Interpolation = "linear",
    *,
    start: int = 0,
    stop: int | None = None,
) -> torch.Tensor:
    """Read a target grid, or a slab of it, from voxels on a parallel source grid.

    Positions beyond the outermost source voxels take the outermost value.

    Args:
        source: Shape (C, X, Y, Z), on the source grid; of floating point for ``"linear"``.
        maps: One map per target axis, as ``medseg.geometry.slab_maps(source_grid, target_grid)`` gives them.
        interpolation: ``"linear"``, or ``"nearest"`` for labels. A target voxel half-way between two source
            voxels takes the one nearer to the middle of the axis, so that flips do not move anything.
        start: First target slice along the target's last axis.
        stop: One past its last slice; the end of the axis if left out.

    Returns:
        Shape (C, X', Y', stop - start) on the target grid, in the type of ``source``. May share memory
        with ``source``.

    Raises:
        GeometryError: The shape of ``source`` is not the one that ``maps`` were made for.

    Example:
        >>> from medseg.geometry import Grid, slab_maps
        >>> coarse = Grid((1, 1, 3), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> fine = Grid((1, 1, 5), np.eye(4))
        >>> resample(torch.tensor([0.0, 4.0, 6.0]).reshape(1, 1, 1, 3), slab_maps(coarse, fine)).ravel()
        tensor([0., 2., 4., 5., 6.])
    """
    for axis_map in maps:
        if source.shape[1 + axis_map.source_axis] != axis_map.source_length:
            raise GeometryError(f"an array of shape {tuple(source.shape[1:])} does not fit its grid")
    last = maps[2].target_length if stop is None else stop
    ranges = ((0, maps[0].target_length), (0, maps[1].target_length), (start, last))
    # Axes that shrink go first: what follows touches less memory.
    order = sorted(range(3), key=lambda axis: (ranges[axis][1] - ranges[axis][0]) / maps[axis].source_length)
    for axis in order:
        source = _along_axis(source, maps[axis], *ranges[axis], interpolation)
    return source.permute(0, *(1 + axis_map.source_axis for axis_map in maps))


def _along_axis(
    tensor: torch.Tensor, axis_map: SlabMap, start: int, stop: int, interpolation: Interpolation
) -> torch.Tensor:
    dim = 1 + axis_map.source_axis
    if axis_map.is_identity:
        return tensor.narrow(dim, start, stop - start)
    positions = axis_map.source_positions(start, stop)
    if interpolation == "nearest":
        return tensor.index_select(dim, _indices(_nearest(positions, axis_map.source_length), tensor))
    lower = np.floor(positions)
    weight = positions - lower
    below = tensor.index_select(dim, _indices(lower, tensor))
    if not weight.any():
        return below
    above = tensor.index_select(dim, _indices(np.minimum(lower + 1, axis_map.source_length - 1), tensor))
    shape = [1] * tensor.ndim
    shape[dim] = len(positions)
    return below.lerp_(above, torch.from_numpy(weight).to(tensor).reshape(shape))


def _nearest(positions: np.ndarray, length: int) -> np.ndarray:
    beyond_middle = positions > (length - 1) / 2
    return np.where(beyond_middle, np.ceil(positions - 0.5), np.floor(positions + 0.5))


def _indices(positions: np.ndarray, tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(positions.astype(np.int64)).to(tensor.device)
