"""Which instances of two maps meet, and in how many voxels: one sparse table from one pass.

Instance maps consist of long runs of equal voxels. The table is therefore made of runs, not of voxels: only
where a value changes is anything sorted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError

__all__ = ["Contingency", "compact_ids", "contingency"]

_TABLE_ENTRIES = 1 << 20
"""Values below this are looked up in a table that fits the cache; sorting them takes several times longer."""


@dataclass(frozen=True, eq=False)
class Contingency:
    """The sizes of P predicted and R reference instances, and the N pairs of them that share voxels.

    Attributes:
        pred_ids: Shape (P,), the predicted ids, increasing.
        pred_voxels: Shape (P,), their sizes.
        ref_ids: Shape (R,), the reference's ids, increasing.
        ref_voxels: Shape (R,), their sizes.
        pairs: Shape (N, 2), positions in ``pred_ids`` and ``ref_ids``, ordered by the reference.
        pair_voxels: Shape (N,), the voxels that each pair shares, at least 1.
    """

    pred_ids: npt.NDArray[np.int64]
    pred_voxels: npt.NDArray[np.int64]
    ref_ids: npt.NDArray[np.int64]
    ref_voxels: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int64]
    pair_voxels: npt.NDArray[np.int64]

    @property
    def union_voxels(self) -> npt.NDArray[np.int64]:
        """Shape (N,): the voxels of either of each pair."""
        pred, ref = self.pairs.T
        union: npt.NDArray[np.int64] = self.pred_voxels[pred] + self.ref_voxels[ref] - self.pair_voxels
        return union

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """Shape (N,): intersection over union of each pair, above 0."""
        return self.pair_voxels / self.union_voxels

    def swapped(self) -> Contingency:
        """The same table with prediction and reference exchanged."""
        order = np.lexsort((self.pairs[:, 1], self.pairs[:, 0]))
        return Contingency(
            pred_ids=self.ref_ids,
            pred_voxels=self.ref_voxels,
            ref_ids=self.pred_ids,
            ref_voxels=self.pred_voxels,
            pairs=self.pairs[order, ::-1],
            pair_voxels=self.pair_voxels[order],
        )

    def only(self, pairs: npt.NDArray[np.int64]) -> Contingency:
        """The same instances, of which no others share voxels than these pairs, shape (K, 2)."""
        codes, kept_codes = (
            rows[:, 1] * max(len(self.pred_ids), 1) + rows[:, 0] for rows in (self.pairs, pairs)
        )
        kept = np.isin(codes, kept_codes)
        return replace(self, pairs=self.pairs[kept], pair_voxels=self.pair_voxels[kept])


def contingency(pred: npt.NDArray[Any], ref: npt.NDArray[Any]) -> Contingency:
    """Count the voxels that each predicted instance shares with each instance of the reference.

    Memory is that of the runs of equal voxels, plus three bytes a voxel.

    Args:
        pred: Instance ids of the prediction, of any shape, such as (X, Y, Z); 0 is background. Ids need
            not follow each other; an id is one instance, connected or not.
        ref: Instance ids of the reference, of the same shape.

    Raises:
        GeometryError: The shapes differ.
        InputError: An id is negative or not a whole number.

    Example:
        >>> found = contingency(np.array([0, 7, 7, 7]), np.array([2, 2, 7, 7]))
        >>> found.pairs.tolist(), found.pair_voxels.tolist(), found.iou.round(2).tolist()
        ([[0, 0], [0, 1]], [1, 2], [0.25, 0.67])
    """
    if pred.shape != ref.shape:
        raise GeometryError(
            f"shape {pred.shape} of the prediction is not the reference's {ref.shape}",
            where="pred",
            fix="compare instance maps of the same image",
        )
    first, second = _flat(pred, ref)
    starts, lengths = _runs(first, second)
    pred_ids, pred_runs = _ids_of_runs(first[starts], "pred")
    ref_ids, ref_runs = _ids_of_runs(second[starts], "ref")
    codes, code_runs = _distinct(ref_runs * len(pred_ids) + pred_runs)
    voxels = _sum_by(code_runs, lengths, len(codes))
    ref_of, pred_of = np.divmod(codes, max(len(pred_ids), 1))
    real = (ref_ids[ref_of] != 0) & (pred_ids[pred_of] != 0)
    # The background is an id like the others until here; leaving it out shifts the positions by one.
    pred_first, ref_first = (int(ids[:1].tolist() == [0]) for ids in (pred_ids, ref_ids))
    return Contingency(
        pred_ids=pred_ids[pred_first:],
        pred_voxels=_sum_by(pred_runs, lengths, len(pred_ids))[pred_first:],
        ref_ids=ref_ids[ref_first:],
        ref_voxels=_sum_by(ref_runs, lengths, len(ref_ids))[ref_first:],
        pairs=np.stack([pred_of[real] - pred_first, ref_of[real] - ref_first], axis=1),
        pair_voxels=voxels[real],
    )


def compact_ids(
    instances: npt.NDArray[Any], *, where: str = "instances"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Number the instances of a map from 1, in the order of their ids.

    Args:
        instances: Instance ids, of any shape, such as (X, Y, Z); 0 is background.
        where: What to call it in an error.

    Returns:
        The N ids, increasing, and a map of the same shape with the numbers 0 to N.

    Raises:
        InputError: An id is negative or not a whole number.

    Example:
        >>> ids, numbers = compact_ids(np.array([0, 900, 900, 30]))
        >>> ids.tolist(), numbers.tolist()
        ([30, 900], [0, 2, 2, 1])
    """
    (flat,) = _flat(instances)
    starts, lengths = _runs(flat)
    ids, runs = _ids_of_runs(flat[starts], where)
    has_background = ids[:1].tolist() == [0]
    numbers = np.repeat((runs + (not has_background)).astype(np.int32), lengths)
    if _is_transposed(instances):
        return ids[int(has_background) :], numbers.reshape(instances.shape[::-1]).T
    return ids[int(has_background) :], numbers.reshape(instances.shape)


def _is_transposed(array: npt.NDArray[Any]) -> bool:
    return array.flags.f_contiguous and not array.flags.c_contiguous


def _flat(*arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """All voxels in one line, in the order of memory where all arrays share it (no copy then)."""
    if all(_is_transposed(array) for array in arrays):
        return tuple(array.T.ravel() for array in arrays)
    return tuple(array.ravel() for array in arrays)


def _runs(*arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where stretches begin in which no array changes, and how long they are."""
    size = arrays[0].size
    begins = np.zeros(size, dtype=bool)
    begins[:1] = True
    for array in arrays:
        begins[1:] |= array[1:] != array[:-1]
    starts = np.flatnonzero(begins)
    return starts, np.diff(starts, append=size)


def _ids_of_runs(values: npt.NDArray[Any], where: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct ids, and for each run the position of its own among them."""
    distinct, positions = _distinct(values)
    with np.errstate(invalid="ignore"):
        ids = distinct.astype(np.int64)  # what does not fit compares unequal, or negative
    if not np.array_equal(ids, distinct) or (ids < 0).any():
        raise InputError(
            "instance ids must be whole numbers from 0",
            where=where,
            fix="give each instance a positive id and the background 0",
        )
    return ids, positions.astype(np.int64, copy=False)


def _distinct(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """The distinct values, increasing, and for each value its position among them."""
    if values.size and values.dtype.kind in "iu" and values.min() >= 0 and values.max() < _TABLE_ENTRIES:
        present = np.zeros(int(values.max()) + 1, dtype=bool)
        present[values] = True
        return np.flatnonzero(present), (np.cumsum(present) - 1)[values]
    return np.unique(values, return_inverse=True)


def _sum_by(
    positions: npt.NDArray[np.intp] | npt.NDArray[np.int64], numbers: npt.NDArray[np.intp], size: int
) -> npt.NDArray[np.int64]:
    # The sums are those of voxel counts, which a double holds exactly up to 2**53.
    return np.bincount(positions, weights=numbers, minlength=size).astype(np.int64)
