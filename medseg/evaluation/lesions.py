"""The lesions of a class, case by case: how many are found, missed and invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from medseg.errors import InputError, did_you_mean
from medseg.evaluation.options import ScoringOptions
from medseg.evaluation.score import Status, status_of
from medseg.labels import LabelScheme
from medseg.metrics import lesion_metrics

__all__ = ["LESION_COUNTS", "LESION_METRICS", "LesionRow", "lesion_classes", "lesion_row"]

LESION_COUNTS = ("n_ref", "n_pred", "n_found", "n_missed", "n_invented")
"""The attributes of a ``LesionRow`` that are added up over cases."""

LESION_METRICS = ("sensitivity", "precision", "f1", "mean_dice")
"""The attributes of a ``LesionRow`` that are summed up over cases."""


@dataclass(frozen=True, kw_only=True)
class LesionRow:
    """A class's lesions in one case; a row of ``lesions.csv``, whose columns are these attributes.

    A lesion is a connected component (voxels that share a face, an edge or a corner); it is found if it
    shares a voxel with the prediction, or as ``ScoringOptions.lesion_criterion`` says. See
    ``medseg.metrics.lesion_metrics``.

    Attributes:
        case: The case's id.
        label: The class's value in label maps.
        name: The class's name.
        n_ref: Lesions in the reference.
        n_pred: Components in the prediction.
        n_found: Reference lesions that are found.
        n_missed: Those that are not.
        n_invented: Predicted components that belong to no reference lesion.
        sensitivity: Found over all; NaN without a lesion in the reference.
        precision: Predicted components that are true over all; NaN where nothing is predicted.
        f1: Their harmonic mean; 0 where one of the two has no lesion, NaN where neither has.
        mean_dice: Over the reference's lesions, 0 for missed ones; NaN without any.
        status: Where there are lesions at all.
    """

    case: str
    label: int
    name: str
    n_ref: int
    n_pred: int
    n_found: int
    n_missed: int
    n_invented: int
    sensitivity: float
    precision: float
    f1: float
    mean_dice: float
    status: Status


def lesion_row(
    case: str,
    pred: npt.NDArray[Any] | None,
    ref: npt.NDArray[Any],
    label: int,
    name: str,
    spacing_mm: Sequence[float],
    options: ScoringOptions,
) -> LesionRow:
    """Count and match the lesions of one class in one case.

    Args:
        case: The case's id.
        pred: Label values, (X, Y, Z); ``None`` if there is no prediction, so that all lesions are missed.
        ref: Label values, (X, Y, Z).
        label: The class's value.
        name: The class's name.
        spacing_mm: The voxels' size.
        options: When a lesion counts as found, and how large it must be to count at all.
    """
    truth = ref == label
    found = lesion_metrics(
        truth & False if pred is None else pred == label,
        truth,
        spacing_mm,
        criterion=options.lesion_criterion,
        smallest_volume_ml=options.smallest_lesion_ml,
    )
    numbers = {number: getattr(found, number) for number in LESION_COUNTS + LESION_METRICS}
    status = status_of(found.n_pred, found.n_ref, has_prediction=pred is not None)
    return LesionRow(case=case, label=label, name=name, status=status, **numbers)


def lesion_classes(names: Sequence[str], labels: LabelScheme | None) -> tuple[int, ...]:
    """The values of classes that a user named.

    Args:
        names: Names, or values as text.
        labels: The classes; ``None`` if none are declared, so that values alone are understood.

    Raises:
        InputError: There is no such class.

    Example:
        >>> lesion_classes(["tumour", "2"], LabelScheme.from_names({1: "tumour", 2: "edema"}))
        (1, 2)
    """
    known = {} if labels is None else {entry.name: entry.value for entry in labels.foreground}
    values = []
    for name in names:
        value = known.get(name, int(name) if name.isdecimal() else None)
        if value is None or (labels is not None and value not in known.values()):
            raise InputError(
                f"'{name}' is no class",
                where="lesions",
                fix=did_you_mean(name, known) if known else "give its value; no names are declared",
            )
        values.append(value)
    return tuple(dict.fromkeys(values))
