"""Watersheds of a field on a grid: basins by steepest ascent, then joined where nothing divides them.

F. Meyer, "Topographic distance and watershed lines", Signal Processing 38, 1994: a voxel belongs to the
maximum that the way of steepest ascent leads to. Here a step's slope is counted per millimetre, so voxels
need not be cubes. Small maxima are joined by their dynamics (M. Grimaud, "A new measure of contrast: the
dynamics", SPIE 1769, 1992): how far one has to go down from one to reach a higher one.

All of it is numpy over whole arrays: a flooding voxel by voxel takes ten times as long, and twice the memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import BoolArray

__all__ = ["Passes", "ascend", "assign", "dominant_peaks", "find_passes"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
_READ_AT_A_TIME = 1 << 16
_SLAB_VOXELS = 1 << 20
_PAIR = 1 << 31


@dataclass(frozen=True)
class Passes:
    """Where basins touch, from the highest to the lowest pass.

    Attributes:
        first: Number of one basin.
        second: Number of the other, a higher one.
        height: Of the field, at the highest place where one can go over.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    height: FloatArray

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        for start in range(0, self.height.size, _READ_AT_A_TIME):  # Python's numbers take eight times as much
            part = slice(start, start + _READ_AT_A_TIME)
            parts = (self.first[part], self.second[part], self.height[part])
            yield from zip(*(array.tolist() for array in parts), strict=True)


def ascend(
    field: FloatArray, mask: BoolArray, spacing_mm: Sequence[float], seeds: IntArray | None = None
) -> tuple[IntArray, FloatArray]:
    """Send each voxel to the top that it reaches by the steepest steps.

    Args:
        field: Heights, lower outside of the mask than anywhere inside.
        mask: Where basins lie; same shape.
        spacing_mm: Distance between voxels along each axis.
        seeds: Tops that are given, numbered from 1, 0 elsewhere: the field's highest places.

    Returns:
        The number of each voxel's basin, 0 outside the mask, seeds first; and the height of each basin's top.

    Example:
        >>> field = np.array([[1.0, 3.0, 1.0, 2.0, 5.0]], np.float32)
        >>> basins, heights = ascend(field, field > 0.0, (1.0, 1.0))
        >>> basins.tolist(), heights.tolist()
        ([[1, 1, 1, 2, 2]], [3.0, 5.0])
    """
    steps = [step for step in itertools.product((-1, 0, 1), repeat=field.ndim) if any(step)]
    steepest = np.zeros(field.shape, np.float32)
    chosen = np.zeros(field.shape, np.uint8)
    for number, step in enumerate(steps, start=1):
        here, there = _neighbours(step)
        length_mm = float(np.linalg.norm(np.multiply(step, spacing_mm)))
        slope = (field[there] - field[here]) / np.float32(length_mm)
        steeper = slope > steepest[here]
        np.copyto(steepest[here], slope, where=steeper)
        np.copyto(chosen[here], np.uint8(number), where=steeper)
    del steepest
    chosen[~mask] = 0
    # Tops that touch are equally high: a plateau is one top.
    tops = mask & (chosen == 0)
    if seeds is not None:
        tops &= seeds == 0
    numbers = np.empty(field.shape, np.int32)
    count = int(ndimage.label(tops, np.ones((3,) * field.ndim), output=numbers))
    if seeds is not None:
        given = int(seeds.max())
        numbers[tops] += given
        np.copyto(numbers, seeds, where=seeds > 0)
        count += given
    heights = np.zeros(count, np.float32)
    heights[numbers[numbers > 0] - 1] = field[numbers > 0]
    strides = np.array([np.prod(field.shape[axis + 1 :], dtype=np.int64) for axis in range(field.ndim)])
    ways = np.array([0, *(int(np.dot(step, strides)) for step in steps)])
    return np.where(mask, numbers.ravel()[_ends(chosen, ways)].reshape(field.shape), 0), heights


def _neighbours(step: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of all voxels that have a neighbour one step away, and of those neighbours."""
    here = tuple(slice(max(0, -way), -way if way > 0 else None) for way in step)
    there = tuple(slice(max(0, way), way if way < 0 else None) for way in step)
    return here, there


def _ends(chosen: npt.NDArray[np.uint8], ways: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Flat index of the voxel at which the way from each voxel ends."""
    kind = np.int32 if chosen.size < 2**31 else np.int64
    ends: npt.NDArray[Any] = np.arange(chosen.size, dtype=kind)
    ends += ways.astype(kind)[chosen.ravel()]
    while True:
        further = ends[ends]  # twice as far each time
        if np.array_equal(further, ends):
            return ends
        ends = further


def find_passes(field: FloatArray, basins: IntArray) -> Passes:
    """Where one can go from basin to basin, and how far down.

    Args:
        field: Heights.
        basins: Numbers from 1, 0 outside; same shape.

    Example:
        >>> field = np.array([[3.0, 1.0, 2.0, 5.0]], np.float32)
        >>> list(find_passes(field, np.array([[1, 1, 2, 2]], np.int32)))
        [(1, 2, 1.0)]
    """
    slices = max(1, _SLAB_VOXELS * field.shape[0] // max(field.size, 1))
    slabs = [slice(start, start + slices + 1) for start in range(0, field.shape[0], slices)]
    found = [_passes_of_a_slab(field[slab], basins[slab]) for slab in slabs]
    pairs, heights = _highest(*map(np.concatenate, zip(*found, strict=True)))
    order = np.lexsort((pairs, -heights))
    return Passes(pairs[order] // _PAIR, pairs[order] % _PAIR, heights[order])


def _passes_of_a_slab(field: FloatArray, basins: IntArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Pairs of basins, each as one number, and the highest pass between them."""
    pairs, heights = np.empty(0, np.int64), np.empty(0, np.float32)
    half = [step for step in itertools.product((-1, 0, 1), repeat=field.ndim) if step > (0,) * field.ndim]
    for step in half:
        here, there = _neighbours(step)
        differ = (basins[here] != basins[there]) & (basins[here] > 0) & (basins[there] > 0)
        one, other = basins[here][differ].astype(np.int64), basins[there][differ].astype(np.int64)
        height = np.minimum(field[here][differ], field[there][differ])
        pair = np.minimum(one, other) * _PAIR + np.maximum(one, other)
        pairs, heights = _highest(np.concatenate([pairs, pair]), np.concatenate([heights, height]))
    return pairs, heights


def _highest(pairs: npt.NDArray[np.int64], heights: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Each pair once, with its highest pass."""
    unique, where = np.unique(pairs, return_inverse=True)
    highest = np.full(unique.size, -np.inf, np.float32)
    np.maximum.at(highest, where, heights)
    return unique, highest


def dominant_peaks(heights: FloatArray, passes: Passes, depth: float) -> BoolArray:
    """Which basins' tops stand out: one has to go down more than ``depth`` from them to reach a higher one.

    Of equally high tops the first counts as the higher one. The highest top of all always stands out.

    Args:
        heights: Of the tops of basins 1, 2, ….
        passes: Between the basins.
        depth: In the field's units.

    Example:
        >>> passes = Passes(np.array([2, 1]), np.array([3, 2]), np.array([1.8, 0.5], np.float32))
        >>> dominant_peaks(np.array([2.0, 5.0, 2.0], np.float32), passes, depth=1.0).tolist()
        [True, True, False]
    """
    stands = np.ones(heights.size, np.bool_)
    height = [np.inf, *heights.tolist()]
    region = _Regions(heights.size)
    for first, second, over in passes:
        higher, lower = region.of(first), region.of(second)
        if higher == lower:
            continue
        if (height[higher], -higher) < (height[lower], -lower):
            higher, lower = lower, higher
        stands[lower - 1] = height[lower] - over > depth
        region.join(lower, into=higher)
    return stands


def assign(passes: Passes, kept: BoolArray) -> IntArray:
    """Let each basin that is not kept join the kept one that is reached over the highest passes.

    Args:
        passes: Between basins 1, 2, ….
        kept: Which of these are kept.

    Returns:
        For each basin, and 0 before them, the number of its object: kept ones are numbered from 1; 0 for a
        basin from which none can be reached.

    Example:
        >>> passes = Passes(np.array([2, 1]), np.array([3, 2]), np.array([1.8, 0.5], np.float32))
        >>> assign(passes, np.array([True, True, False])).tolist()
        [0, 1, 2, 2]
    """
    objects = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)
    region = _Regions(kept.size)
    owner = objects.tolist()  # of the region that each basin stands for
    for first, second, _ in passes:
        one, other = region.of(first), region.of(second)
        if one == other or (owner[one] and owner[other]):
            continue
        region.join(other, into=one)
        owner[one] = owner[one] or owner[other]
    return np.array([0, *(owner[region.of(basin)] for basin in range(1, kept.size + 1))], np.int32)


class _Regions:
    """Basins that have been joined (union-find); each region is known by one of them."""

    def __init__(self, count: int) -> None:
        self._next = list(range(count + 1))

    def of(self, basin: int) -> int:
        while self._next[basin] != basin:
            self._next[basin] = self._next[self._next[basin]]
            basin = self._next[basin]
        return basin

    def join(self, region: int, *, into: int) -> None:
        self._next[region] = into
