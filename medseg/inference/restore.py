"""From class scores on the network grid to scores, or to the best class, on the native grid, slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from medseg.errors import InputError
from medseg.geometry import Grid, SlabMap, slab_maps
from medseg.inference.score_slabs import ScoreSlabs, WholeScores
from medseg.inference.slabs import Tile
from medseg.transforms.resampling import BLOCK_VOXELS, AxisTaps, axis_taps, interpolate, tile_ranges

__all__ = ["RestoredScores", "best_class"]

_TILE_SIDE = 64
"""Native voxels along each axis of the plane that compete for the best class together.

The smaller, the fewer classes are left in a tile; the larger, the less each operation costs. Of 32, 64 and
128 this is the fastest at 14 and at 105 classes, where leaving out classes makes it three times as fast.
"""

_TILE_SIDE_ELSEWHERE = 1024
"""On other devices than the CPU, where starting an operation takes longer than many voxels."""

_THICKNESS = 16
_SCORE_BYTES = 4
_BLOCKS_AT_WORK = 4


class RestoredScores:
    """Class scores of the native grid, interpolated from those of the network grid as these come.

    Interpolation is linear along each axis, hence exact for scores that are linear functions of position;
    scores of the native grid never exist for more than the slab that is read, and for the best class not
    even that: one class of a tile is compared with the best so far and forgotten. A tile of the plane leaves
    out the classes that cannot win in it, for an interpolated score lies between the smallest and the largest
    score of the tile: those whose largest is below some other class's smallest.

    Make one by :meth:`coming` or :meth:`of`.

    Args:
        slabs: The scores, on the network grid or on a tile of it.
        network_grid: Where they lie; parallel to the native grid.
        native_grid: Where they are wanted.
        tile: The part of the network grid's plane that ``slabs`` are of; the whole plane if left out.

    Attributes:
        axis: The native axis along which slabs are read.
        ascending: Whether native slices are read from the first to the last; where the network grid's axis
            runs against the native one, they are read from the last to the first.
        length: Number of slices along the axis.
        box: Native voxels [start, stop) along each axis that are restored: all, or what is within the tile.

    Raises:
        GeometryError: The grids are rotated against each other.

    Example:
        >>> coarse, fine = Grid((1, 1, 2), np.diag([1.0, 1.0, 2.0, 1.0])), Grid((1, 1, 3), np.eye(4))
        >>> scores = torch.tensor([[0.0, 4.0], [1.0, 2.0]]).reshape(2, 1, 1, 2)
        >>> stage = RestoredScores.coming([(0, scores)], coarse, fine, axis=2)
        >>> stage.read(0, 2)[0].ravel(), stage.best(2, 3).ravel()
        (tensor([0., 2.]), tensor([0], dtype=torch.uint8))
    """

    def __init__(
        self, slabs: ScoreSlabs, network_grid: Grid, native_grid: Grid, tile: Tile | None = None
    ) -> None:
        maps = list(slab_maps(network_grid, native_grid))
        self.axis = [axis_map.source_axis for axis_map in maps].index(slabs.axis)
        self.length = native_grid.shape[self.axis]
        self._slabs = slabs
        self._turned = maps[self.axis].scale < 0
        self.ascending = not (self._turned and slabs.needs_order)
        self._offsets = [0, 0, 0]
        self.box = [(0, size) for size in native_grid.shape]
        if tile is not None:
            self._offsets = [tile.scores[axis_map.source_axis][0] for axis_map in maps]
            self.box = [_within(axis_map, tile.own[axis_map.source_axis]) for axis_map in maps]
            self.box[self.axis] = (0, self.length)
        if self._turned:
            maps[self.axis] = _turned(maps[self.axis])
        self._maps = maps

    @classmethod
    def coming(
        cls,
        slabs: Iterable[tuple[int, torch.Tensor]],
        network_grid: Grid,
        native_grid: Grid,
        axis: int,
        *,
        tile: Tile | None = None,
        where: str = "the network",
        classes: int | None = None,
    ) -> RestoredScores:
        """Restore scores that come slab by slab, each read once.

        Args:
            slabs: First slice along the network grid's ``axis``, and scores (K, X', Y', Z') of as many as are
                done, from the first to the last.
            network_grid: Where they lie.
            native_grid: Where they are wanted.
            axis: The network grid's axis along which they come.
            tile: The part of its plane that they are of; the whole plane if left out.
            where: What computes them, for errors.
            classes: How many there must be; any number if left out.
        """
        shape = network_grid.shape if tile is None else [stop - start for start, stop in tile.scores]
        held = ScoreSlabs(slabs, shape, axis, where=where, classes=classes)
        return cls(held, network_grid, native_grid, tile)

    @classmethod
    def of(
        cls,
        scores: torch.Tensor,
        network_grid: Grid,
        native_grid: Grid,
        axis: int = 2,
        *,
        where: str = "the network",
        classes: int | None = None,
    ) -> RestoredScores:
        """Restore scores that are there as a whole, and may be read in any order.

        Args:
            scores: Shape (K, X', Y', Z').
            network_grid: Where they lie.
            native_grid: Where they are wanted.
            axis: The native grid's axis along which they are to be read.
            where: What computed them, for errors.
            classes: How many there must be; any number if left out.
        """
        network_axis = slab_maps(network_grid, native_grid)[axis].source_axis
        held = WholeScores(scores, network_grid.shape, network_axis, where=where, classes=classes)
        return cls(held, network_grid, native_grid)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Scores (K, X, Y, Z) of ``box``, cut to slices [start, stop) along ``axis``.

        Raises:
            BundleError: Scores that are not finite come, or another number of classes.
            GeometryError: Scores that do not fit the network grid come.
            InputError: The slices were read before.
        """
        return self._restored(start, stop, _interpolated)

    def best(self, start: int, stop: int) -> torch.Tensor:
        """What ``best_class(read(start, stop))`` gives, to the last bit, at a fraction of its cost.

        Returns:
            Shape (X, Y, Z) of ``box``, cut to slices [start, stop) along ``axis``.

        Raises:
            MedsegError: As ``read``.
        """
        return self._restored(start, stop, _best_class)

    def planned_bytes(self, classes: int) -> int:
        """Memory taken while the best class is found, besides the slab of scores as it comes and the result.

        Args:
            classes: How many there are.
        """
        plane = 1
        tile = 1
        for axis, axis_map in enumerate(self._maps):
            start, stop = self.box[axis]
            step = min(_THICKNESS if axis == self.axis else _TILE_SIDE, stop - start)
            if step == 0:
                return 0
            tile *= min(int(step * abs(axis_map.scale)) + 2, axis_map.source_length)
            if axis != self.axis:
                first, last = _needed(axis_map, start, stop)
                plane *= last - first
        kept = 0 if self._maps[self.axis].is_identity else 1
        blocks = _BLOCKS_AT_WORK * BLOCK_VOXELS
        return _SCORE_BYTES * (classes * (kept * plane + tile) + blocks)

    def _restored(
        self, start: int, stop: int, compute: Callable[[torch.Tensor, Sequence[AxisTaps]], torch.Tensor]
    ) -> torch.Tensor:
        """Fill native slices [start, stop) with what ``compute`` makes of the scores of each tile."""
        result: torch.Tensor | None = None
        wanted = [*self.box]
        wanted[self.axis] = (self.length - stop, self.length - start) if self._turned else (start, stop)
        for stretch in self._stretches(*wanted[self.axis]):
            ranges = [*self.box]
            ranges[self.axis] = stretch
            side = _TILE_SIDE if self._slabs.like.device.type == "cpu" else _TILE_SIDE_ELSEWHERE
            for box in tile_ranges(ranges, self.axis, side):
                piece = compute(*self._scores(box))
                if result is None:
                    result = piece.new_empty((*piece.shape[:-3], *(last - first for first, last in wanted)))
                place = result
                for axis, (low, high) in enumerate(box):
                    place = place.narrow(axis - 3, low - wanted[axis][0], high - low)
                place.copy_(piece)
        if result is None:
            raise InputError(f"slices {start} to {stop} hold no voxels of {self.box}", where="RestoredScores")
        return result.flip(self.axis - 3) if self._turned else result

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Let scores come, and give the slices that they are enough for before more of them come."""
        along = self._maps[self.axis]
        while start < stop:
            low, high = _needed(along, start, start + 1)
            self._slabs.release(low)
            self._slabs.require(low, high)
            end = start + 1
            while end < min(stop, start + _THICKNESS) and _needed(along, end, end + 1)[1] <= self._slabs.last:
                end += 1
            yield start, end
            start = end

    def _scores(self, box: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, list[AxisTaps]]:
        like = self._slabs.like
        taps = [
            axis_taps(axis_map, *stretch, "linear", like)
            for axis_map, stretch in zip(self._maps, box, strict=True)
        ]
        ranges = [(0, 0)] * 3
        for axis_map, tap, offset in zip(self._maps, taps, self._offsets, strict=True):
            ranges[axis_map.source_axis] = (tap.first - offset, tap.last - offset)
        order = [axis_map.source_axis for axis_map in self._maps]
        return self._slabs.box(ranges, order), taps


def best_class(scores: torch.Tensor) -> torch.Tensor:
    """The index of the highest score at each voxel; of equal ones, the first.

    One pass over the scores with a running maximum: on a CPU, torch's own ``argmax`` over the first axis
    takes ten times as long where scores lie class by class, and a third longer where they lie voxel by voxel.

    Args:
        scores: Shape (C, ...).

    Returns:
        Shape (...), unsigned 8 bit for up to 256 classes, else 32 bit.

    Example:
        >>> best_class(torch.tensor([[1.0, 5.0], [2.0, 5.0]])).tolist()
        [1, 0]
    """
    if scores.ndim < 3 or scores.device.type != "cpu":
        return _running_best(scores)
    best = torch.empty(scores.shape[1:], dtype=_index_type(len(scores)))
    # A slice stays in the processor's cache; classes that lie side by side in each voxel are parted first.
    for made, part in zip(best, scores.unbind(1), strict=True):
        made.copy_(_running_best(part.flatten(1).contiguous()).view(made.shape))
    return best


def _running_best(scores: torch.Tensor) -> torch.Tensor:
    highest = scores[0].clone()
    best = torch.zeros_like(highest, dtype=_index_type(len(scores)))
    for index in range(1, len(scores)):
        # Indices grow: the largest of those that were ever above is the last. Masked writes take far longer.
        torch.maximum(best, (scores[index] > highest).to(best.dtype).mul_(index), out=best)
        torch.maximum(highest, scores[index], out=highest)
    return best


def _index_type(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int32


def _interpolated(scores: torch.Tensor, taps: Sequence[AxisTaps]) -> torch.Tensor:
    groups = torch.split(scores, _classes_at_a_time(taps))
    return torch.cat([interpolate(group, taps) for group in groups])


def _best_class(scores: torch.Tensor, taps: Sequence[AxisTaps]) -> torch.Tensor:
    competing = _competing(scores)
    shape = [tap.count for tap in taps]
    best = scores.new_full(shape, int(competing[0]), dtype=_index_type(len(scores)))
    if len(competing) == 1:
        return best
    highest: torch.Tensor | None = None
    for group in torch.split(competing, _classes_at_a_time(taps)):
        restored = interpolate(scores.index_select(0, group), taps)
        for index, candidate in zip(group.tolist(), restored, strict=True):
            if highest is None:
                highest = candidate.clone()
                continue
            best.masked_fill_(candidate > highest, index)
            torch.maximum(highest, candidate, out=highest)
    return best


def _competing(scores: torch.Tensor) -> torch.Tensor:
    """The classes, in order, that may have the highest score somewhere between these voxels."""
    flat = scores.reshape(len(scores), -1)
    return (flat.amax(dim=1) >= flat.amin(dim=1).max()).nonzero().ravel()


def _classes_at_a_time(taps: Sequence[AxisTaps]) -> int:
    return max(1, BLOCK_VOXELS // (taps[0].count * taps[1].count * taps[2].count))


def _needed(axis_map: SlabMap, start: int, stop: int) -> tuple[int, int]:
    return (start, stop) if axis_map.is_identity else axis_map.source_range(start, stop)


def _turned(axis_map: SlabMap) -> SlabMap:
    """The same axis, its target slices counted from the other end."""
    end = axis_map.offset + axis_map.scale * (axis_map.target_length - 1)
    return replace(axis_map, scale=-axis_map.scale, offset=end)


def _within(axis_map: SlabMap, own: tuple[int, int]) -> tuple[int, int]:
    """Target slices that lie at source slice own[0] or behind it, and before own[1]."""
    count = axis_map.target_length
    positions = np.arange(count) if axis_map.is_identity else axis_map.source_positions(0, count)
    inside = np.flatnonzero((positions >= own[0]) & (positions < own[1]))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
