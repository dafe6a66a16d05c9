"""Scores of overlapping windows, added up by weight until no later window touches them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor

from medseg.inference.sliding_window.layout import OutputGrid

__all__ = ["Coverage", "Sums", "slab_thickness"]

_SLAB_BYTES = 64 << 20
_FEWEST_SLICES_OF_LAST_AXIS = 16


def slab_thickness(channels: int, size: Sequence[int], axis: int, item_bytes: int) -> int:
    """How many finished slices to take out at a time: as many as 64 MiB hold.

    Along the last axis, along which neighbours in memory lie, at least a cache line's worth.
    """
    slice_bytes = channels * item_bytes
    for other, length in enumerate(size):
        slice_bytes *= length if other != axis else 1
    fewest = _FEWEST_SLICES_OF_LAST_AXIS if axis == len(size) - 1 else 1
    return max(fewest, _SLAB_BYTES // max(1, slice_bytes))


class Coverage:
    """The sum of all windows' weights at each voxel.

    All layers of windows along the axis are alike, so that one layer's sum serves them all.

    Args:
        grid: Where the windows lie.
        axis: Spatial axis along which they are layered.
        weights: Of one window's voxels, shape (1, *window).
    """

    def __init__(self, grid: OutputGrid, axis: int, weights: Tensor) -> None:
        self._axis = axis
        self._starts = grid.starts[axis]
        size = [*grid.size]
        size[axis] = grid.window[axis]
        self._layer = weights.new_zeros(1, *size)
        in_plane = [(0,) if other == axis else starts for other, starts in enumerate(grid.starts)]
        for corner in itertools.product(*in_plane):
            _part(self._layer, corner, grid.window).add_(weights)

    def between(self, start: int, stop: int) -> Tensor:
        """The sum of weights on slices [start, stop), shape (1, X, Y[, Z]) with that axis cut."""
        dim = 1 + self._axis
        thickness = self._layer.shape[dim]
        shape = [*self._layer.shape]
        shape[dim] = stop - start
        total = self._layer.new_zeros(shape)
        for layer in self._starts:
            first, last = max(start, layer), min(stop, layer + thickness)
            if first < last:
                covered = self._layer.narrow(dim, first - layer, last - first)
                total.narrow(dim, first - start, last - first).add_(covered)
        return total


class Sums:
    """Weighted scores of one image.

    Slice i lies at place i modulo the thickness of the storage: a storage as thick as a window serves
    windows that come layer by layer, if finished slices are taken out after each layer.

    Args:
        grid: Where the windows lie.
        axis: Spatial axis along which they are layered.
        coverage: The sum of their weights.
        storage: Zeros of shape (K, X, Y[, Z]), cut along the axis unless it is to keep everything.
        slab: Slices taken out at a time.
    """

    def __init__(self, grid: OutputGrid, axis: int, coverage: Coverage, storage: Tensor, slab: int) -> None:
        self._grid = grid
        self._axis = axis
        self._coverage = coverage
        self._storage = storage
        self._slab = slab
        self._taken = 0

    @property
    def _thickness(self) -> int:
        return self._storage.shape[1 + self._axis]

    def add(self, corner: Sequence[int], scores: Tensor, weights: Tensor) -> None:
        """Add a window.

        Args:
            corner: Its first voxel on the output.
            scores: Shape (K, *window).
            weights: Shape (1, *window).
        """
        start, dim = corner[self._axis], 1 + self._axis
        length = scores.shape[dim]
        for first, last in self._unbroken(start, start + length):
            place = list(corner)
            place[self._axis] = first % self._thickness
            piece = scores.narrow(dim, first - start, last - first)
            weight = weights.narrow(dim, first - start, last - first)
            _part(self._storage, place, piece.shape[1:]).addcmul_(piece, weight)

    def take(self, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Take out what is finished and not yet taken, up to slice ``stop`` of the padded output.

        Yields:
            First slice, without padding, and weighted means (K, X, Y[, Z]) without padding, which may be
            kept and changed.
        """
        dim = 1 + self._axis
        for first, last in self._unbroken(self._taken, stop):
            for start in range(first, last, self._slab):
                end = min(start + self._slab, last)
                held = self._storage.narrow(dim, start % self._thickness, end - start)
                weights = self._coverage.between(start, end)
                if self._thickness == self._grid.size[self._axis]:  # no later slice takes this place
                    means = held.div_(weights)
                else:
                    means = held / weights
                    held.zero_()
                yield from self._without_padding(start, means)
        self._taken = stop

    def _unbroken(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Ranges of slices that lie one behind the other in the storage."""
        while start < stop:
            end = min(stop, start - start % self._thickness + self._thickness)
            yield start, end
            start = end

    def _without_padding(self, start: int, means: Tensor) -> Iterator[tuple[int, Tensor]]:
        for axis, (first, last) in enumerate(self._grid.inside):
            offset = start if axis == self._axis else 0
            lowest = max(first - offset, 0)
            highest = min(last - offset, means.shape[1 + axis])
            if lowest >= highest:
                return
            means = means.narrow(1 + axis, lowest, highest - lowest)
        yield max(start - self._grid.inside[self._axis][0], 0), means


def _part(tensor: Tensor, corner: Sequence[int], size: Sequence[int]) -> Tensor:
    places = (slice(start, start + length) for start, length in zip(corner, size, strict=True))
    return tensor[(slice(None), *places)]
