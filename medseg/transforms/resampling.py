"""Moving voxels from one grid to a parallel one, axis by axis.

Linear interpolation is separable: along each axis a target voxel is the weighted mean of two source voxels.
That needs no grid of coordinates in memory, and an axis that stays as it is costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from medseg.errors import GeometryError
from medseg.geometry import SlabMap

__all__ = ["Interpolation", "resample"]

Interpolation = Literal["linear", "nearest"]
FloatArray = npt.NDArray[np.float64]

_BLOCK_VOXELS = 1 << 20
"""Voxels interpolated at a time: few enough to stay in the cache from one axis to the next."""


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
    first, second, third = maps
    axes = [axis_map.source_axis for axis_map in maps]
    if any(source.shape[1 + axis_map.source_axis] != axis_map.source_length for axis_map in maps):
        raise GeometryError(f"an array of shape {tuple(source.shape[1:])} does not fit its grid")
    end = third.target_length if stop is None else stop
    if all(axis_map.is_identity for axis_map in maps):
        return source.permute(0, *(1 + axis for axis in axes))[..., start:end]
    result = source.new_empty((len(source), first.target_length, second.target_length, end - start))
    rows_of_first = _rows(first, (0, first.target_length), interpolation, source)
    rows_of_second = _rows(second, (0, second.target_length), interpolation, source)
    thickness = max(1, _BLOCK_VOXELS // (first.target_length * second.target_length))
    for begin in range(start, end, thickness):
        stretch = (begin, min(begin + thickness, end))
        rows_of_third = _rows(third, stretch, interpolation, source)
        low, high = _needed(third, stretch)
        for channel, target in zip(source, result, strict=True):
            # Copied as it lies in memory first: to gather it in another order is quick in the cache only.
            block = channel.narrow(third.source_axis, low, high - low).contiguous().permute(axes)
            block = rows_of_third(block.permute(2, 1, 0))
            block = rows_of_second(block.permute(1, 2, 0))
            block = rows_of_first(block.transpose(0, 1))
            target[..., begin - start : stretch[1] - start] = block
    return result


@dataclass(frozen=True)
class _Rows:
    """Makes target rows, along the first axis, of the source rows that they need."""

    below: torch.Tensor | None
    above: torch.Tensor | None
    weight: torch.Tensor | None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self.below is None:
            return rows
        rows = rows.contiguous()  # whole rows are copied much faster than single voxels
        below = rows.index_select(0, self.below)
        if self.above is None or self.weight is None:
            return below
        return below.lerp_(rows.index_select(0, self.above), self.weight)


def _rows(
    axis_map: SlabMap, stretch: tuple[int, int], interpolation: Interpolation, like: torch.Tensor
) -> _Rows:
    if axis_map.is_identity:
        return _Rows(None, None, None)
    low, high = _needed(axis_map, stretch)
    positions = axis_map.source_positions(*stretch)
    if interpolation == "nearest":
        positions = _nearest(positions, axis_map.source_length)
    lower = np.floor(positions)
    weight = positions - lower
    below = torch.from_numpy(lower.astype(np.int64) - low).to(like.device)
    if not weight.any():
        return _Rows(below, None, None)
    return _Rows(
        below, (below + 1).clamp_(max=high - low - 1), torch.from_numpy(weight).to(like).reshape(-1, 1, 1)
    )


def _needed(axis_map: SlabMap, stretch: tuple[int, int]) -> tuple[int, int]:
    return stretch if axis_map.is_identity else axis_map.source_range(*stretch)


def _nearest(positions: FloatArray, length: int) -> FloatArray:
    beyond_middle = positions > (length - 1) / 2
    return np.where(beyond_middle, np.ceil(positions - 0.5), np.floor(positions + 0.5))
