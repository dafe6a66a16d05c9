"""How far each voxel is from the two instances that are nearest to it, summed, as far as a reach.

A distance transform of the whole volume for each instance would do, and take minutes for a few hundred of
them. Squared distances can be found axis by axis instead: the two nearest instances of a voxel are among the
two nearest ones of each voxel on its line. So one pass an axis, over the offsets within reach, serves any
number of instances; and only where instances are so near each other that it matters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["summed_distances_mm"]

_BLOCK_VOXELS = 1 << 15
"""Voxels of a pass that are worked on at a time: few enough to stay in the processor's cache."""

_PIECE_VOXELS = 1 << 25
"""Voxels that are held at a time, their surroundings not counted: 12 bytes each."""

_KEY_BITS = 50
"""Of a squared distance and an instance in one number: integers up to 2^53 are exact in double precision,
and a voxel beyond every reach is twice, a sum over axes is up to four times as far as the reach."""

Box = tuple[slice, ...]
Keys = npt.NDArray[np.float64]
Squares = npt.NDArray[np.float32]


def summed_distances_mm(
    instances: npt.NDArray[np.int32], count: int, spacing_mm: Sequence[float], reach_mm: float
) -> npt.NDArray[np.float32]:
    """Distance to the nearest instance plus distance to the second nearest, where it is within reach.

    Distances are those between voxel centres, 0 within an instance.

    Args:
        instances: Ids 1 to ``count``, each of which is there, and 0 for the background; shape (X, Y[, Z]).
        count: How many instances there are.
        spacing_mm: Spacing along each axis.
        reach_mm: The largest sum of interest.

    Returns:
        Millimetres, of the shape of ``instances``, correct to 1e-5 of the reach; infinite beyond it.

    Example:
        >>> ids = np.array([[1, 0, 0, 2]], dtype=np.int32)
        >>> summed_distances_mm(ids, 2, (1.0, 1.5), reach_mm=10.0)
        array([[4.5, 4.5, 4.5, 4.5]], dtype=float32)

    References:
        Distance transforms axis by axis: Saito and Toriwaki, Pattern Recognition 27 (1994).
    """
    summed = np.full(instances.shape, np.inf, dtype=np.float32)
    boxes = ndimage.find_objects(instances, max_label=count)
    for members in _neighbourhoods(boxes, spacing_mm, reach_mm):
        # Within reach the nearer of two distances is at most half of it.
        area = _grown(_hull([boxes[member] for member in members]), instances.shape, spacing_mm, reach_mm / 2)
        number = np.zeros(count + 1, dtype=np.int32)
        number[members + 1] = np.arange(1, len(members) + 1)
        for piece in _pieces(area):
            around = _grown(piece, instances.shape, spacing_mm, reach_mm)
            found = _two_nearest(number[instances[around]], len(members), spacing_mm, reach_mm)
            inner = tuple(
                slice(part.start - whole.start, part.stop - whole.start)
                for part, whole in zip(piece, around, strict=True)
            )
            target = summed[piece]
            np.minimum(target, found[inner], out=target)
    return summed


def _neighbourhoods(
    boxes: Sequence[Box], spacing_mm: Sequence[float], reach_mm: float
) -> Iterator[npt.NDArray[np.intp]]:
    """Groups of instances between which nothing is within reach; those that are alone are left out.

    The two distances of a voxel add up to no less than the gap between the two instances, and that is no
    less than the gap between their boxes.
    """
    if not boxes:
        return
    low = np.array([[part.start for part in box] for box in boxes]) * np.asarray(spacing_mm)
    high = np.array([[part.stop - 1 for part in box] for box in boxes]) * np.asarray(spacing_mm)
    rows, columns = [], []
    for index in range(len(boxes)):
        gaps = np.maximum(0.0, np.maximum(low[index] - high[index + 1 :], low[index + 1 :] - high[index]))
        near = index + 1 + np.flatnonzero((gaps**2).sum(axis=1) <= reach_mm**2)
        rows.append(np.full(len(near), index))
        columns.append(near)
    links = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.ones(len(links[0]), dtype=bool), links), shape=(len(boxes), len(boxes)))
    groups, group_of = connected_components(graph, directed=False)
    sizes = np.bincount(group_of, minlength=groups)
    for group in np.flatnonzero(sizes > 1):
        yield np.flatnonzero(group_of == group)


def _hull(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*boxes, strict=True)
    )


def _grown(box: Box, shape: Sequence[int], spacing_mm: Sequence[float], margin_mm: float) -> Box:
    grown = []
    for part, size, length in zip(box, shape, spacing_mm, strict=True):
        margin = math.floor(margin_mm / length)
        grown.append(slice(max(0, part.start - margin), min(size, part.stop + margin)))
    return tuple(grown)


def _pieces(box: Box) -> Iterator[Box]:
    """Cut a box across its longest axis, where it is large."""
    sizes = [part.stop - part.start for part in box]
    axis = int(np.argmax(sizes))
    step = max(1, _PIECE_VOXELS * sizes[axis] // math.prod(sizes))
    for start in range(box[axis].start, box[axis].stop, step):
        stop = min(start + step, box[axis].stop)
        yield (*box[:axis], slice(start, stop), *box[axis + 1 :])


def _two_nearest(
    instances: npt.NDArray[np.int32], count: int, spacing_mm: Sequence[float], reach_mm: float
) -> npt.NDArray[np.float64]:
    """As ``summed_distances_mm``, with passes over the whole array."""
    far = 2.0 * reach_mm**2
    packing = _Packing(count, far)
    keys: Keys = instances.astype(np.float64)
    keys[instances == 0] = packing.squares(far)
    second = np.full(instances.shape, far, dtype=np.float32)
    for axis, length in enumerate(spacing_mm):
        _spread(keys, second, axis, length, reach_mm, packing)
    summed = packing.squares_in_place(keys)
    np.sqrt(summed, out=summed)
    summed += np.sqrt(second, out=second)
    summed[summed > reach_mm * (1.0 + 1e-6)] = np.inf
    return summed


class _Packing:
    """A squared distance and the instance that is so far in one number, so that one minimum carries both.

    Squared distances are rounded, to 30 bits for up to a million instances.
    """

    def __init__(self, count: int, far: float) -> None:
        self._base = float(1 << count.bit_length())
        self._unit = far / float(1 << (_KEY_BITS - count.bit_length()))

    def squares(self, square: float) -> float:
        """What to add to a number that its squared distance grows by ``square``."""
        return round(square / self._unit) * self._base

    def squares_in_place(self, keys: Keys) -> npt.NDArray[np.float64]:
        """Squared distances, in the memory of ``keys``."""
        keys /= self._base
        np.floor(keys, out=keys)
        keys *= self._unit
        return keys

    def unpacked(self, keys: Keys) -> tuple[Squares, Squares]:
        """Squared distances, and the instances."""
        steps = np.floor(keys / self._base)
        return (steps * self._unit).astype(np.float32), (keys - steps * self._base).astype(np.float32)


def _spread(
    keys: Keys, second: Squares, axis: int, spacing_mm: float, reach_mm: float, packing: _Packing
) -> None:
    """Let the two nearest instances of each voxel be those of any voxel of its line along ``axis``, in place.

    Args:
        keys: The nearest instance's squared distance and number, packed.
        second: The squared distance of the second nearest.
        axis: Along which.
        spacing_mm: Spacing along it.
        reach_mm: Farther voxels are not looked at.
        packing: Of ``keys``.
    """
    lines, second_lines = np.moveaxis(keys, axis, 0), np.moveaxis(second, axis, 0)
    length, others = lines.shape[0], lines.shape[1:]
    steps = min(length - 1, math.floor(reach_mm / spacing_mm))
    for block in _bundles(others, max(1, _BLOCK_VOXELS // length)):
        shape = lines[block].shape
        here = np.ascontiguousarray(lines[block]).reshape(length, -1)
        rest = np.ascontiguousarray(second_lines[block]).reshape(length, -1)
        nearest = _nearest(here, steps, spacing_mm, packing)
        found = _second_nearest(here, rest, nearest, steps, spacing_mm, packing)
        lines[block] = nearest.reshape(shape)  # not before: the lines may lie in their own memory
        second_lines[block] = found.reshape(shape)


def _bundles(shape: Sequence[int], lines: int) -> Iterator[Box]:
    """Cut a plane of lines into bundles of about so many."""
    widths = [min(lines, size) for size in shape]
    widths[0] = max(1, lines // math.prod(widths[1:]))
    for starts in itertools.product(
        *(range(0, size, width) for size, width in zip(shape, widths, strict=True))
    ):
        parts = (slice(start, start + width) for start, width in zip(starts, widths, strict=True))
        yield (slice(None), *parts)


def _shifts(steps: int) -> Iterator[tuple[int, slice, slice]]:
    """Offsets along a line, nearest first: how many voxels, which voxels look, and at which ones."""
    for step in range(1, steps + 1):
        yield step, slice(step, None), slice(None, -step)
        yield step, slice(None, -step), slice(step, None)


def _nearest(here: Keys, steps: int, spacing_mm: float, packing: _Packing) -> Keys:
    nearest, candidate = here.copy(), np.empty_like(here)
    for step, to, origin in _shifts(steps):
        np.add(here[origin], packing.squares((step * spacing_mm) ** 2), out=candidate[to])
        np.minimum(nearest[to], candidate[to], out=nearest[to])
    return nearest


def _second_nearest(
    here: Keys, rest: Squares, nearest: Keys, steps: int, spacing_mm: float, packing: _Packing
) -> Squares:
    """Of the two instances of each voxel of a line, the nearer one that is not the nearest of all counts.

    Choosing by arithmetic is several times faster than by masks: with numbers of instances so far apart
    that their difference outweighs every distance, ``max(first, second - |difference|)`` is the second
    where both are the same, and the first elsewhere.
    """
    apart = np.float32(2.0 ** math.ceil(math.log2(4.0 * float(rest.max()) + 1.0)))
    squares, owners = packing.unpacked(here)
    owners *= apart
    winners = packing.unpacked(nearest)[1] * apart
    found = np.maximum(squares, rest - np.abs(owners - winners))
    candidate = np.empty_like(found)
    for step, to, origin in _shifts(steps):
        place = candidate[to]
        np.subtract(owners[origin], winners[to], out=place)
        np.abs(place, out=place)
        np.subtract(rest[origin], place, out=place)
        np.maximum(squares[origin], place, out=place)
        place += np.float32((step * spacing_mm) ** 2)
        np.minimum(found[to], place, out=found[to])
    return found
