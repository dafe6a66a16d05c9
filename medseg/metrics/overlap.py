"""Overlap of label maps: Dice, IoU and their kin, of any number of classes from one pass over the voxels.

All of them are read from one table of counts: how many voxels are class r in the reference and class p in
the prediction. Counts are exact integers; nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.labels import LabelScheme

__all__ = [
    "Overlap",
    "confusion",
    "frequency_weighted_iou",
    "mean_iou",
    "overlap_metrics",
    "overlaps_of",
    "pixel_accuracy",
]

_CHUNK_VOXELS = 1 << 18
"""Voxels counted at once: what is made of them fits the processor's cache, and bounds the memory."""

_VOXELS_A_RUN = 8
"""Runs of equal voxels are counted instead of voxels where they are, in the mean, at least this long."""

_BYTES = 256
"""How many values a byte has."""


@dataclass(frozen=True)
class Overlap:
    """How one class of a prediction and of its reference cover each other.

    What each number is where the class is missing from one of the two maps, or from both:

    ==================  ============  ===============  =============
    number              missed        invented         absent
                        (not in pred) (not in ref)     (in neither)
    ==================  ============  ===============  =============
    dice, iou           0             0                NaN
    sensitivity         0             NaN              NaN
    precision           0             0                NaN
    specificity         1             below 1          1
    volume difference   -n_ref        n_pred           0
    relative            -1            NaN              NaN
    ==================  ============  ===============  =============

    NaN means that there is nothing to judge. Precision is the one number that is 0 where its definition
    reads 0/0: were it NaN, missing the difficult cases would raise the mean precision.

    Attributes:
        value: The class's value in label maps.
        name: The class's name.
        n_both: Voxels that are this class in both.
        n_pred: Voxels that are this class in the prediction.
        n_ref: Voxels that are this class in the reference.
        n_voxels: Voxels of the image, of all classes.
    """

    value: int
    name: str
    n_both: int
    n_pred: int
    n_ref: int
    n_voxels: int

    @property
    def dice(self) -> float:
        """Twice the common voxels over the sum of both (Dice 1945)."""
        return _ratio(2 * self.n_both, self.n_pred + self.n_ref)

    @property
    def iou(self) -> float:
        """The common voxels over those of either (Jaccard 1912)."""
        return _ratio(self.n_both, self.n_pred + self.n_ref - self.n_both)

    @property
    def sensitivity(self) -> float:
        """How much of the reference was found; also called recall. NaN where there was nothing to find."""
        return _ratio(self.n_both, self.n_ref)

    @property
    def precision(self) -> float:
        """How much of what was found is right. 0 where the class was missed, NaN where it is absent."""
        return _ratio(self.n_both, self.n_pred) if self.n_pred else _ratio(0, self.n_ref)

    @property
    def specificity(self) -> float:
        """How many of the voxels outside the reference were left out; NaN where there are none.

        It depends on how much of the surroundings the image shows, and is close to 1 for every small
        structure, even a missed one: compare it between predictions of the same images only.
        """
        outside_both = self.n_voxels - self.n_pred - self.n_ref + self.n_both
        return _ratio(outside_both, self.n_voxels - self.n_ref)

    @property
    def volume_difference(self) -> int:
        """Voxels by which the prediction is larger than the reference; negative where it is smaller.

        Times the volume of a voxel (``Grid.voxel_volume_ml``), the difference in millilitres.
        """
        return self.n_pred - self.n_ref

    @property
    def relative_volume_difference(self) -> float:
        """The volume difference over the reference's volume: -1 where it was missed, NaN without any."""
        return _ratio(self.volume_difference, self.n_ref)


def confusion(
    pred: npt.NDArray[Any],
    ref: npt.NDArray[Any],
    labels: LabelScheme,
    *,
    pred_where: str | None = None,
    ref_where: str | None = None,
) -> npt.NDArray[np.int64]:
    """Count voxels by their class in the reference (rows) and in the prediction (columns).

    Arrays may differ in type and in memory order; they are read once, in parts of fixed size. Voxels that
    the reference leaves unlabelled (``labels.ignore``) are not counted.

    Args:
        pred: Label values of the prediction, of any shape, such as (X, Y, Z).
        ref: Label values of the reference, of the same shape.
        labels: The classes; rows and columns follow their indices, background first.
        pred_where: The prediction's file, for errors.
        ref_where: The reference's file, for errors.

    Returns:
        Shape (K, K), where K = ``len(labels)``. Its sum is the number of voxels that count.

    Raises:
        GeometryError: The shapes differ.
        InputError: A value is not declared, or an array does not hold real numbers.

    Example:
        >>> labels = LabelScheme.from_names({1: "liver"})
        >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), labels).tolist()
        [[1, 1], [0, 1]]
    """
    if pred.shape != ref.shape:
        raise GeometryError(
            f"shape {pred.shape} of the prediction is not the reference's {ref.shape}",
            where=pred_where,
            fix="compare label maps of the same image",
        )
    for array, where in ((pred, pred_where), (ref, ref_where)):
        if array.dtype.kind not in "buif":
            raise InputError(f"{array.dtype} values are no labels", where=where, fix="give whole numbers")
    predicted = labels.without_ignore
    counts = np.zeros((len(labels) + (labels.ignore is not None), len(labels)), dtype=np.int64)
    of_bytes = np.zeros((_BYTES, _BYTES), dtype=np.int64)
    for pred_part, ref_part, lengths in _parts(pred, ref):
        pred_bytes, ref_bytes = _as_bytes(pred_part), _as_bytes(ref_part)
        if pred_bytes is not None and ref_bytes is not None:
            _count_pairs(ref_bytes, pred_bytes, lengths, into=of_bytes)
            continue
        rows = labels.to_indices(ref_part, where=ref_where)
        columns = predicted.to_indices(pred_part, where=pred_where)
        _count_pairs(rows, columns, lengths, into=counts)
    ref_values, pred_values = (np.flatnonzero(of_bytes.any(axis=axis)) for axis in (1, 0))
    rows = labels.to_indices(ref_values, where=ref_where)
    columns = predicted.to_indices(pred_values, where=pred_where)
    counts[np.ix_(rows, columns)] += of_bytes[np.ix_(ref_values, pred_values)]
    return counts[: len(labels)]


def overlaps_of(counts: npt.NDArray[np.int64], labels: LabelScheme) -> tuple[Overlap, ...]:
    """Read the overlap of each foreground class from the counts that ``confusion`` gave.

    Example:
        >>> labels = LabelScheme.from_names({1: "liver"})
        >>> overlaps_of(np.array([[1, 1], [0, 1]]), labels)[0].dice
        0.6666666666666666
    """
    n_voxels = int(counts.sum())
    return tuple(
        Overlap(
            value=entry.value,
            name=entry.name,
            n_both=int(counts[index, index]),
            n_pred=int(counts[:, index].sum()),
            n_ref=int(counts[index, :].sum()),
            n_voxels=n_voxels,
        )
        for index, entry in enumerate(labels.foreground, start=1)
    )


def overlap_metrics(
    pred: npt.NDArray[Any], ref: npt.NDArray[Any], labels: LabelScheme | Sequence[int]
) -> tuple[Overlap, ...]:
    """Compare a prediction with its reference, class by class.

    Args:
        pred: Label values, of any shape, such as (X, Y, Z).
        ref: Label values, of the same shape.
        labels: The classes, or the values of the foreground alone.

    Returns:
        One overlap for each foreground class, in the order of their values.

    Raises:
        GeometryError: The shapes differ.
        InputError: A value is not declared.

    Example:
        >>> only = overlap_metrics(np.array([0, 1, 1]), np.array([0, 0, 1]), labels=[1])[0]
        >>> only.n_pred, only.n_ref, only.iou
        (2, 1, 0.5)
    """
    if not isinstance(labels, LabelScheme):
        labels = LabelScheme.from_names({value: f"label {value}" for value in labels if value != 0})
    return overlaps_of(confusion(pred, ref, labels), labels)


def pixel_accuracy(counts: npt.NDArray[np.int64]) -> float:
    """The share of voxels whose class is right, the background's among them.

    Large classes decide it: where nine tenths are background, a prediction of nothing reaches 0.9.

    Args:
        counts: As ``confusion`` gives them, shape (K, K). Counts of several cases may be added up.

    Returns:
        0 to 1; NaN without any voxel.

    Example:
        >>> pixel_accuracy(np.array([[2, 1], [0, 1]]))
        0.75
    """
    return _ratio(int(np.trace(counts)), int(counts.sum()))


def mean_iou(counts: npt.NDArray[np.int64], *, include_background: bool = True) -> float:
    """The mean over the classes of intersection over union (mean IU of Long 2015).

    Args:
        counts: As ``confusion`` gives them, shape (K, K). Counts of several cases may be added up.
        include_background: Whether the background is one of the classes.

    Returns:
        0 to 1. A class that was missed or invented counts with 0; one that is in neither map has no IoU
        and is left out; NaN if all are.

    Example:
        >>> counts = np.array([[2, 1], [0, 1]])
        >>> mean_iou(counts), mean_iou(counts, include_background=False)
        (0.5833333333333333, 0.5)
    """
    ious = _ious(counts)[0 if include_background else 1 :]
    present = ious[~np.isnan(ious)]
    return float(present.mean()) if present.size else math.nan


def frequency_weighted_iou(counts: npt.NDArray[np.int64]) -> float:
    """The mean intersection over union, each class weighted by its voxels in the reference (Long 2015).

    Args:
        counts: As ``confusion`` gives them, shape (K, K). Counts of several cases may be added up.

    Returns:
        0 to 1. A class that the reference does not hold has no weight: where invented it shows in the
        IoU of the classes whose voxels it took. NaN without any voxel.

    Example:
        >>> frequency_weighted_iou(np.array([[2, 1], [0, 1]]))
        0.625
    """
    in_reference = counts.sum(axis=1)
    present = in_reference > 0
    if not present.any():
        return math.nan
    return float(np.average(_ious(counts)[present], weights=in_reference[present]))


def _ious(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The IoU of each class, background first; NaN where neither map has it."""
    both = np.diagonal(counts).astype(np.float64)
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    ious = np.full(len(counts), np.nan)
    np.divide(both, either, out=ious, where=either > 0)
    return ious


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _parts(
    pred: npt.NDArray[Any], ref: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.intp] | None]]:
    """Parts of both arrays in one order, flat: either all voxels, or one of each run and the runs' lengths.

    Views wherever memory order and byte order allow; only what has to be turned is copied, part by part.
    """
    walk = np.nditer(
        [pred, ref],
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly", "nbo", "aligned"]] * 2,
        order="K",
        buffersize=_CHUNK_VOXELS,
    )
    with walk:
        for pred_part, ref_part in walk:
            changes = pred_part[1:] != pred_part[:-1]
            changes |= ref_part[1:] != ref_part[:-1]
            if np.count_nonzero(changes) * _VOXELS_A_RUN > len(ref_part):
                yield pred_part, ref_part, None
                continue
            ends = np.append(np.flatnonzero(changes), len(ref_part) - 1)[: len(ref_part)]
            yield pred_part[ends], ref_part[ends], np.diff(ends, prepend=-1)


def _as_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """The same values as bytes; None if they are not whole numbers from 0 to 255."""
    if values.dtype == np.uint8 or values.dtype == np.bool_:
        return values.view(np.uint8)
    with np.errstate(invalid="ignore"):  # NaN and infinity have no byte; the comparison finds them
        as_bytes = values.astype(np.uint8)
    return as_bytes if np.array_equal(as_bytes, values) else None


def _count_pairs(
    rows: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    lengths: npt.NDArray[np.intp] | None,
    *,
    into: npt.NDArray[np.int64],
) -> None:
    """Add 1, or a run's length, to the entry of each pair of a row and a column."""
    cells = np.multiply(rows, into.shape[1], dtype=np.min_scalar_type(into.size - 1))
    cells += columns
    # Weighted sums are floating point, yet exact: no part has nearly as many as 2**53 voxels.
    found = np.bincount(cells, weights=lengths, minlength=into.size).astype(np.int64, copy=False)
    into += found.reshape(into.shape)
