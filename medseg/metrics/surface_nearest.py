"""How far each element of a surface is from another surface: exact, and quick where surfaces are near.

Surfaces of a segmentation and of its reference mostly lie within a few voxels of each other. So both are
kept as strings of bits, and the offsets between elements are tried in the order of their lengths: elements
of one surface that meet an element of the other, shifted by the offset, have found their distance. Bits are
compared 64 at a time. What is left is far away; a k-d tree, or a distance transform where elements are many,
finds its nearest elements. Which way is taken depends on counts of the work and changes no distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["DirectedDistances", "distances_between"]

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_WORD_BITS = 64
_OFFSETS = 4000
"""About how many offsets are known; in a volume, those within ten voxels."""

# Nanoseconds as once measured; their ratios decide how the work is done, never what comes out.
_OFFSET_COST = 2500
_WORD_COST = 1.5
_TREE_COST = 100_000
_TREE_ELEMENT_COST = 120
_USUAL_QUERY_COST = 2500
_TREE_QUERY_COST = 500
_TREE_LOOK_COST = 13
_TRANSFORM_PLACE_COST = 90

_SAMPLE = 64
_LEAF_VOXELS = 3


@dataclass(frozen=True)
class DirectedDistances:
    """From the elements of one surface to another surface, those at the same distance taken together.

    Attributes:
        mm: Ascending; infinite where there is no other surface. Shape (N,).
        area: How much of the surface is at each of these distances. Shape (N,).
    """

    mm: Floats
    area: Floats


def distances_between(
    first: Codes, second: Codes, areas: Floats, spacing_mm: Sequence[float]
) -> tuple[DirectedDistances, DirectedDistances]:
    """Measure from each surface to the other.

    Args:
        first: What each place of a grid holds of a surface: an index into ``areas``, 0 where there is none.
            Shape (X, Y) or (X, Y, Z).
        second: The other surface, of the same shape.
        areas: The area of each code, shape (K,).
        spacing_mm: Of the places, one for each axis.

    Returns:
        From the first to the second, and from the second to the first.

    Example:
        >>> first, second = np.array([[1, 0, 0]], np.uint8), np.array([[1, 0, 1]], np.uint8)
        >>> there, back = distances_between(first, second, np.array([0.0, 1.0]), (1.0, 2.0))
        >>> there.mm.tolist(), back.mm.tolist()
        ([0.0], [0.0, 4.0])
    """
    spacing = tuple(float(length) for length in spacing_mm)
    offsets, offset_mm = _offsets_by_length(spacing)
    possible = (np.abs(offsets) < first.shape).all(axis=1)
    layout = _Layout.of(first.shape, offsets[possible])
    shells = _Shells(layout.shifts_of(offsets[possible]), offset_mm[possible])
    one, other = _Surface(first, layout), _Surface(second, layout)
    if not one.elements or not other.elements:
        return _to_nothing(first, areas), _to_nothing(second, areas)
    return _directed(one, other, shells, areas, spacing), _directed(other, one, shells, areas, spacing)


def _to_nothing(codes: Codes, areas: Floats) -> DirectedDistances:
    total = np.bincount(codes[codes != 0], minlength=len(areas)) @ areas
    return (
        DirectedDistances(np.full(1, np.inf), np.full(1, total))
        if total
        else DirectedDistances(np.empty(0), np.empty(0))
    )


@lru_cache(maxsize=16)
def _offsets_by_length(spacing_mm: tuple[float, ...]) -> tuple[Integers, Floats]:
    """All offsets of voxels up to some length, shortest first, and their lengths."""
    spacing = np.asarray(spacing_mm)
    if len(spacing) == 2:
        radius_mm = (_OFFSETS * spacing.prod() / np.pi) ** (1 / 2)
    else:
        radius_mm = (_OFFSETS * spacing.prod() * 3 / (4 * np.pi)) ** (1 / 3)
    # Of a thin axis not more offsets than fit into a word's margin.
    reach = np.floor(min(radius_mm, _WORD_BITS * spacing.min()) / spacing).astype(np.int64)
    radius_mm = min(radius_mm, _WORD_BITS * spacing.min())
    offsets = np.indices(2 * reach + 1).reshape(len(spacing), -1).T - reach
    lengths = np.sqrt(((offsets * spacing) ** 2).sum(axis=1))
    order = np.argsort(lengths, kind="stable")[: np.count_nonzero(lengths <= radius_mm)]
    return offsets[order], lengths[order]


@dataclass(frozen=True)
class _Shells:
    """Offsets as shifts by words and by bits, and their lengths, ascending."""

    shifts: list[tuple[int, int]]
    mm: Floats

    def __iter__(self) -> Iterator[tuple[float, list[tuple[int, int]]]]:
        """Offsets of one length at a time."""
        starts = np.flatnonzero(np.diff(self.mm, prepend=-1.0)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(self.mm)], strict=True):
            yield float(self.mm[start]), self.shifts[start:stop]


@dataclass(frozen=True)
class _Layout:
    """How the places of a grid lie in a string of bits, such that an offset is a shift of the string.

    Attributes:
        shape: Of the grid, with a first axis of one place where it has two axes.
        rows: Rows in a plane, those in between planes included, which stay empty.
        row_bits: Bits of a row, those in between rows included.
        margin: Empty words before and after the string.
    """

    shape: tuple[int, int, int]
    rows: int
    row_bits: int
    margin: int

    @classmethod
    def of(cls, shape: tuple[int, ...], offsets: Integers) -> _Layout:
        """For shifts by these offsets."""
        planes, rows, columns = (1,) * (3 - len(shape)) + shape
        reach = [0] * (3 - len(shape)) + [int(most) for most in offsets.max(axis=0)]
        row_words = -(-(columns + reach[2]) // _WORD_BITS)
        margin = (reach[0] * (rows + reach[1]) + reach[1] + 1) * row_words + 1
        return cls((planes, rows, columns), rows + reach[1], row_words * _WORD_BITS, margin)

    def pack(self, codes: Codes) -> Words:
        """A bit for each place that holds something."""
        planes, rows, _ = self.shape
        string = np.zeros((planes, self.rows, self.row_bits // 8), dtype=np.uint8)
        packed = np.packbits(codes.reshape(self.shape), axis=-1, bitorder="little")
        string[:, :rows, : packed.shape[-1]] = packed
        return np.pad(string.reshape(-1).view("<u8"), self.margin)

    def shifts_of(self, offsets: Integers) -> list[tuple[int, int]]:
        """Offsets as shifts by words, from the string's start with its margin, and by bits."""
        strides = np.array([self.rows * self.row_bits, self.row_bits, 1])[-offsets.shape[1] :]
        words, bits = np.divmod(offsets @ strides, _WORD_BITS)
        return list(zip((self.margin + words).tolist(), bits.tolist(), strict=True))

    def places(self, bits: Integers) -> Integers:
        """Where bits of the string lie in the grid, as indices of its flat places."""
        rows, columns = np.divmod(bits, self.row_bits)
        planes, rows = np.divmod(rows, self.rows)
        return (planes * self.shape[1] + rows) * self.shape[2] + columns


class _Surface:
    """A surface as codes and as a string of bits."""

    def __init__(self, codes: Codes, layout: _Layout) -> None:
        self.codes = codes
        self.layout = layout
        self.words = layout.pack(codes)
        self.elements = int(np.count_nonzero(np.unpackbits(self.words.view(np.uint8))))
        self._shifted: dict[int, Words] = {0: self.words}

    def shifted(self, words: int, bits: int) -> Words:
        """The string that holds, in each word's place, that word shifted."""
        if bits not in self._shifted:
            string = self.words >> np.uint64(bits)
            string[:-1] |= self.words[1:] << np.uint64(_WORD_BITS - bits)
            self._shifted[bits] = string
        return self._shifted[bits][words:]


class _Remaining:
    """The elements of a surface whose distance is not known yet."""

    def __init__(self, surface: _Surface) -> None:
        margin = surface.layout.margin
        string = surface.words[margin:-margin]
        self.layout = surface.layout
        self.where: Integers = np.flatnonzero(string)
        self.words = string[self.where]
        self.elements = surface.elements

    def take_meeting(self, target: _Surface, shifts: Sequence[tuple[int, int]]) -> Integers:
        """Take out those that meet the target after any of the shifts; their places."""
        met = np.zeros_like(self.words)
        shifted = np.empty_like(self.words)
        for words, bits in shifts:
            target.shifted(words, bits).take(self.where, out=shifted, mode="clip")
            met |= shifted
        met &= self.words
        hit = np.flatnonzero(met)
        if not hit.size:
            return hit
        places = self._places(self.where[hit], met[hit])
        self.words ^= met
        self.elements -= places.size
        left = self.words != 0
        self.where, self.words = self.where[left], self.words[left]
        return places

    def places(self) -> Integers:
        """Where they are, as indices of the grid's flat places."""
        return self._places(self.where, self.words)

    def _places(self, where: Integers, words: Words) -> Integers:
        bits = np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)
        found = np.flatnonzero(bits)
        return self.layout.places(where[found // _WORD_BITS] * _WORD_BITS + found % _WORD_BITS)


def _directed(
    source: _Surface, target: _Surface, shells: _Shells, areas: Floats, spacing_mm: tuple[float, ...]
) -> DirectedDistances:
    remaining = _Remaining(source)
    codes = source.codes.reshape(-1)
    mm: list[float] = []
    area: list[float] = []
    cost = 0.0
    for length_mm, shifts in shells:
        if not remaining.elements or cost > min(_tree_cost(remaining, target), _transform_cost(target)):
            break
        cost += len(shifts) * (_OFFSET_COST + _WORD_COST * remaining.words.size)
        places = remaining.take_meeting(target, shifts)
        if places.size:
            mm.append(length_mm)
            # Counting codes keeps the sum exact and the same in whichever order elements are met.
            area.append(float(np.bincount(codes[places], minlength=len(areas)) @ areas))
    if not remaining.elements:
        return DirectedDistances(np.array(mm), np.array(area))
    places = remaining.places()
    far_mm = _far_mm(places, target, spacing_mm)
    all_mm, which = np.unique(np.concatenate([mm, far_mm]), return_inverse=True)
    all_areas = np.concatenate([area, areas[codes[places]]])
    return DirectedDistances(all_mm, np.asarray(np.bincount(which, weights=all_areas), dtype=np.float64))


def _tree_cost(remaining: _Remaining, target: _Surface) -> int:
    return _TREE_COST + target.elements * _TREE_ELEMENT_COST + remaining.elements * _USUAL_QUERY_COST


def _transform_cost(target: _Surface) -> int:
    return int(target.codes.size) * _TRANSFORM_PLACE_COST


def _far_mm(places: Integers, target: _Surface, spacing_mm: tuple[float, ...]) -> Floats:
    """From places of the grid to the nearest element, however far."""
    shape, spacing = target.codes.shape, np.asarray(spacing_mm)
    here = np.stack(np.unravel_index(places, shape), axis=1)
    budget = _transform_cost(target) - _TREE_ELEMENT_COST * target.elements
    if budget > 0:
        there = np.stack(np.unravel_index(np.flatnonzero(target.codes), shape), axis=1)
        # Balancing the tree takes longer than it saves in one use.
        tree = cKDTree(there * spacing, leafsize=32, balanced_tree=False, compact_nodes=False)
        if len(here) * _query_cost(tree, here * spacing, spacing) < budget:
            return _lengths_mm(there[tree.query(here * spacing)[1]] - here, spacing)
    nearest = ndimage.distance_transform_edt(
        target.codes == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    return _lengths_mm(nearest.reshape(len(shape), -1)[:, places].T - here, spacing)


def _query_cost(tree: cKDTree, points_mm: Floats, spacing_mm: Floats) -> float:
    """What a query costs on average: it looks at all elements that are hardly farther than the nearest.

    These are few unless points lie near the centre of a round surface, where they are nearly all.
    """
    sample = points_mm[:: -(-len(points_mm) // _SAMPLE)]
    hardly_farther = tree.query(sample)[0] + _LEAF_VOXELS * np.exp(np.log(spacing_mm).mean())
    looked_at = tree.query_ball_point(sample, hardly_farther, return_length=True)
    return _TREE_QUERY_COST + _TREE_LOOK_COST * float(np.mean(looked_at))


def _lengths_mm(offsets: npt.NDArray[np.integer], spacing_mm: Floats) -> Floats:
    return np.asarray(np.sqrt(((offsets * spacing_mm) ** 2).sum(axis=1)))
