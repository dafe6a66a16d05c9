"""Outlines of masks, and masks from outlines: exact inverses of each other.

An outline is a closed polygon, shape (N, 2), of (column, row) in voxels; voxel centres have whole numbers. It
runs midway between centres inside and outside (marching squares at one half), never closer than 0.35 voxels
to a centre: rounding in a file cannot change on which side a centre lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medseg.geometry import FloatArray

__all__ = ["fill_outlines", "outlines_of"]

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

# A cell has four centres as its corners: bit 0 top left, 1 top right, 2 bottom right, 3 bottom left. Its
# sides: 0 top, 1 right, 2 bottom, 3 left. For each pattern: from which side to which side the outline runs,
# the inside on its right. Where two opposite corners are inside, they stay apart: voxels that touch at a
# corner do not hang together.
_RUNS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((0, 3),), 2: ((1, 0),), 4: ((2, 1),), 8: ((3, 2),),
    3: ((1, 3),), 6: ((2, 0),), 12: ((3, 1),), 9: ((0, 2),),
    7: ((2, 3),), 14: ((3, 0),), 13: ((0, 1),), 11: ((1, 2),),
    5: ((0, 3), (2, 1)), 10: ((1, 0), (3, 2)),
}  # fmt: skip


def outlines_of(mask: Mask) -> list[FloatArray]:
    """The outlines of a mask, one for each part that hangs together by its voxels' sides.

    A hole is joined to the outline around it by a channel of no width ("keyhole", PS3.3 C.8.8.6.3). So every
    reader gets the hole, whether it fills each contour or takes several contours of a plane as exclusive.
    Channels run midway between rows of centres.

    Args:
        mask: Shape (rows, columns).

    Example:
        >>> outlines_of(np.array([[False, True, True, False]]))[0].tolist()
        [[0.5, 0.0], [1.0, -0.5], [2.0, -0.5], [2.5, 0.0], [2.0, 0.5], [1.0, 0.5]]
    """
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    chain = _Chain(padded)
    chain.join_holes()
    offset = np.array([left - 1.0, top - 1.0])
    return [_without_straight_points(chain.points(cycle)) + offset for cycle in chain.cycles()]


class _Chain:
    """Crossings between neighbouring centres, each knowing the next one along the outline.

    Crossings are numbered: those between (row, column) and (row, column + 1) first, then those between (row,
    column) and (row + 1, column), then what ``join_holes`` adds.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._columns = mask.shape[1]
        self._vertical = mask.size
        following = _following(mask)
        self._next: dict[int, int] = dict(following)
        self._added: list[tuple[float, float]] = []

    def cycles(self) -> list[list[int]]:
        """The closed outlines, from their lowest crossing each."""
        left, found = set(self._next), []
        for start in sorted(self._next):
            if start not in left:
                continue
            cycle, crossing = [start], self._next[start]
            while crossing != start:
                cycle.append(crossing)
                crossing = self._next[crossing]
            left.difference_update(cycle)
            found.append(cycle)
        return found

    def points(self, cycle: Sequence[int]) -> FloatArray:
        """Where crossings lie: (column, row), shape (N, 2)."""
        return np.array([self._point(crossing) for crossing in cycle])

    def _point(self, crossing: int) -> tuple[float, float]:
        if crossing >= 2 * self._vertical:
            return self._added[crossing - 2 * self._vertical]
        is_vertical, place = divmod(crossing, self._vertical)
        row, column = divmod(place, self._columns)
        return (float(column), row + 0.5) if is_vertical else (column + 0.5, float(row))

    def join_holes(self) -> None:
        """Join each hole to the outline that lies to the left of its top, from the top down.

        The outline to the left has its top higher, or as high and further left: it is no hole any more.
        """
        tops = []
        for cycle in self.cycles():
            if _signed_area(self.points(cycle)) < 0.0:
                before = dict(zip(cycle[1:] + cycle[:1], cycle, strict=True))
                top = min(crossing for crossing in cycle if self._vertical <= crossing < 2 * self._vertical)
                tops.append((top, before[top]))
        for top, previous in sorted(tops):
            self._join(top, previous)

    def _join(self, top: int, before: int) -> None:
        row, column = divmod(top - self._vertical, self._columns)
        both = self._mask[row, :column] & self._mask[row + 1, :column]
        end = int(np.flatnonzero(~both)[-1])  # the frame of the mask is empty: there is one
        if self._mask[row, end] or self._mask[row + 1, end]:
            meeting = self._vertical + row * self._columns + end
        else:
            meeting = self._split(row, end)
        top_again, meeting_again = self._add(self._point(top)), self._add(self._point(meeting))
        self._next[before] = top_again
        self._next[top_again] = meeting_again
        self._next[meeting_again] = self._next[meeting]
        self._next[meeting] = top

    def _split(self, row: int, column: int) -> int:
        """A point halfway along the outline between the centres of two rows, right of ``column``.

        No other channel meets the same side: of two holes in one row, the right one meets the left one first.
        """
        upper = row * self._columns + column
        lower = upper + self._columns
        start, stop = (upper, lower) if self._next.get(upper) == lower else (lower, upper)
        added = self._add((column + 0.5, row + 0.5))
        self._next[start], self._next[added] = added, stop
        return added

    def _add(self, point: tuple[float, float]) -> int:
        self._added.append(point)
        return 2 * self._vertical + len(self._added) - 1


def _following(mask: Mask) -> Iterator[tuple[int, int]]:
    """For each crossing the next one, over all cells of two by two centres."""
    inside = mask.astype(np.uint8)
    pattern = inside[:-1, :-1] | inside[:-1, 1:] << 1 | inside[1:, 1:] << 2 | inside[1:, :-1] << 3
    columns, vertical = mask.shape[1], mask.size
    for code, runs in _RUNS.items():
        row, column = np.nonzero(pattern == code)
        corner = row * columns + column
        sides = (corner, vertical + corner + 1, corner + columns, vertical + corner)
        for entry, leave in runs:
            yield from zip(sides[entry].tolist(), sides[leave].tolist(), strict=True)


def _signed_area(points: FloatArray) -> float:
    """Positive for an outline around voxels, negative around a hole (columns to the right, rows down)."""
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2.0


def _without_straight_points(points: FloatArray) -> FloatArray:
    """Leave out points at which the direction does not change."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    before /= np.abs(before).max(axis=1, keepdims=True)
    after /= np.abs(after).max(axis=1, keepdims=True)
    turning: FloatArray = points[(before != after).any(axis=1)]
    return turning


def fill_outlines(outlines: Sequence[FloatArray], shape: tuple[int, int]) -> Mask:
    """The mask of the centres that lie within an odd number of outlines.

    Args:
        outlines: Closed polygons, shape (N, 2) each: (column, row).
        shape: Rows and columns of the mask. What lies outside is left out.

    Example:
        >>> square = np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]])
        >>> fill_outlines([square], (2, 4)).astype(int).tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0]]
    """
    rows, columns = shape
    mask = np.zeros(shape, dtype=np.bool_)
    crossings = [_row_crossings(outline, rows) for outline in outlines]
    row = np.concatenate([place for place, _ in crossings] or [np.zeros(0, np.int64)])
    column = np.concatenate([place for _, place in crossings] or [np.zeros(0)])
    first = np.clip(np.ceil(column), 0, columns).astype(np.int64)
    if not row.size:
        return mask
    (top, bottom), (left, right) = (row.min(), row.max() + 1), (first.min(), first.max())
    turns = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    np.bitwise_xor.at(turns, (row - top, first - left), 1)
    mask[top:bottom, left:right] = np.bitwise_xor.accumulate(turns, axis=1)[:, :-1]
    return mask


def _row_crossings(outline: FloatArray, rows: int) -> tuple[Indices, FloatArray]:
    """Where the sides of a polygon cross the rows of centres: (row, column) of each crossing."""
    start, stop = outline, np.roll(outline, -1, axis=0)
    down = start[:, 1] <= stop[:, 1]
    upper, lower = np.where(down[:, None], start, stop), np.where(down[:, None], stop, start)
    # A row that meets the lower end belongs to the next side: none is counted twice.
    first = np.clip(np.ceil(upper[:, 1]), 0, rows).astype(np.int64)
    after = np.clip(np.ceil(lower[:, 1]), 0, rows).astype(np.int64)
    count = np.maximum(after - first, 0)
    side = np.repeat(np.arange(len(outline)), count)
    row = np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count) + first[side]
    part = (row - upper[side, 1]) / (lower[side, 1] - upper[side, 1])
    return row, upper[side, 0] + part * (lower[side, 0] - upper[side, 0])
