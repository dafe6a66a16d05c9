"""Dice, intersection over union and volumes, of any number of classes from one pass over the voxels.

All of them are read from one table of counts: how many voxels are class r in the reference and class p in
the prediction. Counts are exact integers; nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.labels import LabelScheme

__all__ = ["Overlap", "confusion", "overlap_metrics", "overlaps_of"]

_CHUNK_VOXELS = 1 << 22
"""Voxels counted at once: ``np.bincount`` works on eight-byte integers, so this bounds its memory."""


@dataclass(frozen=True)
class Overlap:
    """How one class of a prediction and of its reference cover each other.

    Attributes:
        value: The class's value in label maps.
        name: The class's name.
        n_both: Voxels that are this class in both.
        n_pred: Voxels that are this class in the prediction.
        n_ref: Voxels that are this class in the reference.
    """

    value: int
    name: str
    n_both: int
    n_pred: int
    n_ref: int

    @property
    def dice(self) -> float:
        """Twice the common voxels over the sum of both (Dice 1945).

        0 where only one of the two has the class, NaN where neither has: there is nothing to agree on.
        """
        total = self.n_pred + self.n_ref
        return 2 * self.n_both / total if total else math.nan

    @property
    def iou(self) -> float:
        """The common voxels over those of either (Jaccard 1912); 0 and NaN as for ``dice``."""
        either = self.n_pred + self.n_ref - self.n_both
        return self.n_both / either if either else math.nan


def confusion(
    pred: npt.NDArray[Any],
    ref: npt.NDArray[Any],
    labels: LabelScheme,
    *,
    pred_where: str | None = None,
    ref_where: str | None = None,
) -> npt.NDArray[np.int64]:
    """Count voxels by their class in the reference (rows) and in the prediction (columns).

    Args:
        pred: Label values of the prediction, of any shape, such as (X, Y, Z).
        ref: Label values of the reference, of the same shape.
        labels: The classes; rows and columns follow their indices, background first.
        pred_where: The prediction's file, for errors.
        ref_where: The reference's file, for errors.

    Returns:
        Shape (K, K), where K = ``len(labels)``. Its sum is the number of voxels.

    Raises:
        GeometryError: The shapes differ.
        InputError: A value is not declared.

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
    classes = len(labels)
    counts = np.zeros(classes * classes, dtype=np.int64)
    for pred_part, ref_part in zip(_chunks(pred), _chunks(ref), strict=True):
        pairs = labels.to_indices(ref_part, where=ref_where).astype(np.int64)
        pairs *= classes
        pairs += labels.to_indices(pred_part, where=pred_where)
        counts += np.bincount(pairs.ravel(), minlength=classes * classes)
    return counts.reshape(classes, classes)


def overlaps_of(counts: npt.NDArray[np.int64], labels: LabelScheme) -> tuple[Overlap, ...]:
    """Read the overlap of each foreground class from the counts that ``confusion`` gave.

    Example:
        >>> labels = LabelScheme.from_names({1: "liver"})
        >>> overlaps_of(np.array([[1, 1], [0, 1]]), labels)[0].dice
        0.6666666666666666
    """
    return tuple(
        Overlap(
            value=entry.value,
            name=entry.name,
            n_both=int(counts[index, index]),
            n_pred=int(counts[:, index].sum()),
            n_ref=int(counts[index, :].sum()),
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


def _chunks(array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Consecutive parts along the first axis, each of about ``_CHUNK_VOXELS``; views, nothing is copied."""
    array = np.atleast_1d(array)
    parts = min(math.ceil(array.size / _CHUNK_VOXELS), max(len(array), 1))
    return np.array_split(array, max(parts, 1))
