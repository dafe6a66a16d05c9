"""The score of one class in one case: its numbers, and what stands in for those that do not exist."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

__all__ = ["METRICS", "OVERLAP_METRICS", "SURFACE_METRICS", "Score", "Status", "status_of"]

OVERLAP_METRICS = ("dice", "iou", "sensitivity", "precision", "specificity", "volume_difference_ml")
"""What is read from counts of voxels."""

SURFACE_METRICS = ("hd95_mm", "hd95_bound_mm", "assd_mm", "assd_bound_mm", "nsd", "hd_mm")
"""What is measured between surfaces."""

METRICS = OVERLAP_METRICS + SURFACE_METRICS
"""The attributes of a ``Score`` that are summed up over cases."""


class Status(enum.StrEnum):
    """Where a class is, in one case."""

    OK = "ok"
    """In the reference and in the prediction (which says nothing about how well they agree)."""
    MISSED = "missed"
    """In the reference, not in the prediction: scores 0."""
    SPURIOUS = "spurious"
    """In the prediction, not in the reference: scores 0."""
    ABSENT = "absent"
    """In neither: there is nothing to score, so no number enters a mean."""
    NO_PREDICTION = "no_prediction"
    """In the reference of a case that has no prediction at all: scores 0."""


def status_of(n_pred: int, n_ref: int, *, has_prediction: bool = True) -> Status:
    """The status of what has so many voxels, or parts, in prediction and reference.

    Example:
        >>> str(status_of(0, 12))
        'missed'
    """
    if n_ref == 0:
        return Status.ABSENT if n_pred == 0 else Status.SPURIOUS
    if n_pred > 0:
        return Status.OK
    return Status.MISSED if has_prediction else Status.NO_PREDICTION


@dataclass(frozen=True, kw_only=True)
class Score:
    """One class in one case; a row of ``metrics.csv``, whose columns are these attributes.

    NaN means that there is no such number. A distance needs two surfaces, so it is NaN for all but ``OK``.
    Its bound is the distance where there is one, and the image's diagonal where a structure is missed,
    invented or not predicted: a mean of bounds gets worse with every failure, a mean of distances does not.

    Attributes:
        case: The case's id.
        label: The class's value in label maps.
        name: The class's name.
        dice: 0 to 1; NaN where the class is absent.
        iou: Intersection over union, 0 to 1; NaN where the class is absent.
        hd95_mm: Robust Hausdorff distance: the percentile, 95 unless another was asked for, of the distances
            between the surfaces.
        assd_mm: Average symmetric surface distance.
        nsd: Normalised surface distance, 0 to 1: the part of both surfaces within the tolerance of the
            other; 0 where only one of the two is there.
        volume_ref_ml: Volume in the reference, in millilitres.
        volume_pred_ml: Volume in the prediction, in millilitres.
        status: Where the class is.
        hd_mm: Hausdorff distance.
        hd95_bound_mm: ``hd95_mm``, or the image's diagonal.
        assd_bound_mm: ``assd_mm``, or the image's diagonal.
        sensitivity: The part of the reference that is found; NaN without a reference.
        precision: The part of the prediction that is right; 0 where the class is missed, NaN where absent.
        specificity: The part of what is not in the reference that is not in the prediction either.
        volume_difference_ml: Prediction minus reference, in millilitres.
    """

    case: str
    label: int
    name: str
    dice: float
    iou: float
    hd95_mm: float = math.nan
    assd_mm: float = math.nan
    nsd: float = math.nan
    volume_ref_ml: float
    volume_pred_ml: float
    status: Status
    hd_mm: float = math.nan
    hd95_bound_mm: float = math.nan
    assd_bound_mm: float = math.nan
    sensitivity: float = math.nan
    precision: float = math.nan
    specificity: float = math.nan
    volume_difference_ml: float = math.nan
