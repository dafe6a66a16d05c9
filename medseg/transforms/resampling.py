"""Moving voxels from one grid to a parallel one, axis by axis.

Linear interpolation is separable: along each axis a target voxel is the weighted mean of two source voxels.
That needs no grid of coordinates in memory, and an axis that stays as it is costs nothing.

However a volume is cut into slabs and boxes, each voxel comes out the same to the last bit: every step is one
operation of IEEE arithmetic, which fused operations, as ``torch.lerp`` may use for some voxels of a block and
not for others, would not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from medseg.errors import GeometryError
from medseg.geometry import SlabMap

__all__ = ["BLOCK_VOXELS", "AxisTaps", "Interpolation", "axis_taps", "interpolate", "resample", "tile_ranges"]

Interpolation = Literal["linear", "nearest"]
FloatArray = npt.NDArray[np.float64]

BLOCK_VOXELS = 1 << 17
"""Voxels interpolated at a time: few enough for the cache, and for memory to be used again, not paged in."""

_BLOCK_SIDE = 64


def resample(
    source: torch.Tensor,
    maps: Sequence[SlabMap],
    interpolation: Interpolation = "linear",
    *,
    axis: int = 2,
    start: int = 0,
    stop: int | None = None,
    first: int = 0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Read a target grid, or a slab of it, from voxels on a parallel source grid, or from a slab of them.

    Positions beyond the outermost source voxels take the outermost value.

    Args:
        source: Shape (C, X, Y, Z), on the source grid; of floating point for ``"linear"``. Along the source
            axis that ``axis`` runs along, the slices that are needed are enough.
        maps: One map per target axis, as ``medseg.geometry.slab_maps(source_grid, target_grid)`` gives them.
        interpolation: ``"linear"``, or ``"nearest"`` for labels. A target voxel half-way between two source
            voxels takes the one nearer to the middle of the axis, so that flips do not move anything.
        axis: The target axis along which a slab is wanted.
        start: First target slice along it.
        stop: One past its last slice; the end of the axis if left out.
        first: Which slice of the source grid the first of ``source`` is.
        out: Where the result is written, of its shape; new memory if left out.

    Returns:
        Shape (C, X', Y', Z') on the target grid, with stop - start slices along ``axis``, in the type of
        ``source``. May share memory with ``source``.

    Raises:
        GeometryError: The shape of ``source`` is not the one that ``maps`` were made for, or slices that are
            needed are missing.

    Example:
        >>> from medseg.geometry import Grid, slab_maps
        >>> coarse = Grid((1, 1, 3), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> fine = Grid((1, 1, 5), np.eye(4))
        >>> resample(torch.tensor([0.0, 4.0, 6.0]).reshape(1, 1, 1, 3), slab_maps(coarse, fine)).ravel()
        tensor([0., 2., 4., 5., 6.])
    """
    end = maps[axis].target_length if stop is None else stop
    wanted = [(0, axis_map.target_length) for axis_map in maps]
    wanted[axis] = (start, end)
    _require_fit(source, maps, axis, wanted[axis], first)
    turned = source.permute(0, *(1 + axis_map.source_axis for axis_map in maps))
    if all(axis_map.is_identity for axis_map in maps):
        same = turned.narrow(1 + axis, start - first, end - start)
        return same if out is None else out.copy_(same)
    shape = (len(source), *(high - low for low, high in wanted))
    result = source.new_empty(shape) if out is None else out
    offsets = [first if target_axis == axis else 0 for target_axis in range(3)]
    for box in tile_ranges(wanted, axis, _BLOCK_SIDE):
        taps = [
            axis_taps(axis_map, *stretch, interpolation, source)
            for axis_map, stretch in zip(maps, box, strict=True)
        ]
        tile, place = turned, result
        for target_axis, (t, (low, high)) in enumerate(zip(taps, box, strict=True)):
            tile = tile.narrow(1 + target_axis, t.first - offsets[target_axis], t.last - t.first)
            place = place.narrow(1 + target_axis, low - wanted[target_axis][0], high - low)
        for channel, target in zip(tile, place, strict=True):
            target.copy_(interpolate(channel[None], taps)[0])
    return result


def tile_ranges(
    ranges: Sequence[tuple[int, int]], axis: int, side: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
    """Cut a box into boxes of at most ``BLOCK_VOXELS``, with ``side`` voxels along each axis but ``axis``.

    Args:
        ranges: Voxels [start, stop) along each of the three axes.
        axis: The one that boxes follow first.
        side: Voxels along each of the others, at most.

    Example:
        >>> list(tile_ranges([(0, 3), (5, 6), (0, 1)], axis=2, side=2))
        [((0, 2), (5, 6), (0, 1)), ((2, 3), (5, 6), (0, 1))]
    """
    steps = [side, side, side]
    steps[axis] = max(1, BLOCK_VOXELS // side**2)
    cuts = [
        [(low, min(low + step, stop)) for low in range(start, stop, step)]
        for (start, stop), step in zip(ranges, steps, strict=True)
    ]
    for one in cuts[0]:
        for two in cuts[1]:
            for three in cuts[2]:
                yield one, two, three


@dataclass(frozen=True)
class AxisTaps:
    """Which source slices each slice of a stretch of a target axis is the weighted mean of.

    Attributes:
        first: First source slice that is read.
        last: One past the last one.
        below: For each target slice the lower of its two source slices, counted from ``first``; ``None``
            where each target slice is the source slice of the same index.
        above: The upper ones; ``None`` where the lower ones alone count.
        weight: Of the upper ones, from 0 to less than 1.
    """

    first: int
    last: int
    below: torch.Tensor | None = None
    above: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """Number of target slices."""
        return self.last - self.first if self.below is None else len(self.below)

    def apply(self, rows: torch.Tensor, dim: int) -> torch.Tensor:
        """Target slices along ``dim`` of the source slices [first, last) along it."""
        if self.below is None:
            return rows
        lower = rows.index_select(dim, self.below)
        if self.above is None or self.weight is None:
            return lower
        weight = self.weight.reshape(-1, *(1,) * (rows.ndim - 1 - dim))
        return rows.index_select(dim, self.above).sub_(lower).mul_(weight).add_(lower)


def axis_taps(
    axis_map: SlabMap, start: int, stop: int, interpolation: Interpolation, like: torch.Tensor
) -> AxisTaps:
    """The taps of target slices [start, stop), on the device and with weights of the type of ``like``."""
    if axis_map.is_identity:
        return AxisTaps(start, stop)
    first, last = axis_map.source_range(start, stop)
    positions = axis_map.source_positions(start, stop)
    if interpolation == "nearest":
        positions = _nearest(positions, axis_map.source_length)
    lower = np.floor(positions)
    weight = positions - lower
    below = torch.from_numpy(lower.astype(np.int64) - first).to(like.device)
    if not weight.any():
        return AxisTaps(first, last, below)
    return AxisTaps(
        first, last, below, (below + 1).clamp_(max=last - first - 1), torch.from_numpy(weight).to(like)
    )


def interpolate(box: torch.Tensor, taps: Sequence[AxisTaps]) -> torch.Tensor:
    """Interpolate boxes of a source grid at the boxes of a target grid that need them.

    What comes out lies between the smallest and the largest value of the box, to the last bit: positions
    keep 1e-6 away from source voxels unless they are at one (``SlabMap.source_positions``), so that weights
    leave room for rounding.

    Args:
        box: Shape (N, X, Y, Z), its axes in the order of the target's, cut as ``taps`` say.
        taps: One per axis.

    Returns:
        Shape (N, X', Y', Z').
    """
    first, second, third = taps
    if third.below is not None:
        # Whole rows are copied and added much faster than single voxels: the last axis goes to the front.
        box = third.apply(box.permute(0, 3, 1, 2).contiguous(), 1).permute(0, 2, 3, 1)
    return first.apply(second.apply(box.contiguous(), 2), 1)


def _require_fit(
    source: torch.Tensor, maps: Sequence[SlabMap], axis: int, wanted: tuple[int, int], first: int
) -> None:
    for target_axis, axis_map in enumerate(maps):
        given = source.shape[1 + axis_map.source_axis]
        if given != axis_map.source_length if target_axis != axis else given > axis_map.source_length - first:
            raise GeometryError(f"an array of shape {tuple(source.shape[1:])} does not fit its grid")
    low, high = wanted if maps[axis].is_identity else maps[axis].source_range(*wanted)
    end = first + source.shape[1 + maps[axis].source_axis]
    if low < first or high > end:
        raise GeometryError(
            f"slices {low} to {high - 1} of axis {maps[axis].source_axis} are needed, "
            f"{first} to {end - 1} are given"
        )


def _nearest(positions: FloatArray, length: int) -> FloatArray:
    beyond_middle = positions > (length - 1) / 2
    return np.where(beyond_middle, np.ceil(positions - 0.5), np.floor(positions + 0.5))
