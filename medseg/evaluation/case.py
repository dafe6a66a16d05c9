"""One case from its two files to its scores: what a worker does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.evaluation.grids import coverage, onto_grid
from medseg.evaluation.label_maps import read_label_map, values_in
from medseg.evaluation.lesions import LesionRow, lesion_row
from medseg.evaluation.options import ScoringOptions
from medseg.evaluation.orientation import POOR_DICE, Flip, find_flip
from medseg.evaluation.pairs import Pair
from medseg.evaluation.score import Score, Status, status_of
from medseg.geometry import Grid
from medseg.labels import LabelScheme
from medseg.metrics import Overlap, SurfaceScore, confusion, overlaps_of, surface_metrics_of_labels
from medseg.volume import Volume

__all__ = ["CaseNotes", "CaseResult", "CaseTask", "found_labels", "read_pair", "score_case"]


@dataclass(frozen=True)
class CaseTask:
    """What a worker is told.

    Attributes:
        pair: The two files.
        labels: The classes; ``None`` for whatever values the two files hold.
        options: What is measured.
    """

    pair: Pair
    labels: LabelScheme | None
    options: ScoringOptions


@dataclass(frozen=True)
class CaseNotes:
    """What has to be said of a case beside its scores.

    Attributes:
        case: The case's id.
        resampled: How the prediction's grid differed, if it was resampled onto the reference's.
        sheared: Whether the grid's axes are not at right angles, so that distances, measured along them, are
            approximate.
        flip: The flip that explains a poor score.
        partly_labelled: Whether the reference leaves voxels unlabelled, so that scores are of the others, and
            surfaces, which may run through what nobody has labelled, are not measured.
    """

    case: str
    resampled: str | None = None
    sheared: bool = False
    flip: Flip | None = None
    partly_labelled: bool = False


@dataclass(frozen=True)
class CaseResult:
    """What a worker gives back.

    Attributes:
        scores: One for each foreground class of ``labels``.
        lesions: One for each class whose lesions are counted.
        notes: What else there is to say.
        labels: The classes that were scored.
    """

    scores: tuple[Score, ...]
    lesions: tuple[LesionRow, ...]
    notes: CaseNotes
    labels: LabelScheme


def score_case(task: CaseTask) -> CaseResult:
    """Read a case's files and score every class.

    Raises:
        InputError: A file is damaged, is no label map, or holds an undeclared value.
    """
    pair, options = task.pair, task.options
    reference, prediction, resampled = read_pair(pair)
    truth, guess, grid = reference.array[0], prediction.array[0], reference.grid
    labels = task.labels or found_labels(pair, reference, prediction, options.lesions)
    where = {"pred_where": str(pair.prediction or pair.reference), "ref_where": str(pair.reference)}
    overlaps = overlaps_of(confusion(guess, truth, labels, **where), labels)
    partly = labels.ignore is not None and bool((truth == labels.ignore).any())
    if partly:
        options = replace(options, surface=None)
    surfaces: dict[int, SurfaceScore] = {}
    if options.surface is not None:
        surfaces = surface_metrics_of_labels(
            guess,
            truth,
            [overlap.value for overlap in overlaps if overlap.n_pred and overlap.n_ref],
            grid.spacing_mm,
            percentile=options.percentile,
            tolerance_mm=options.tolerance_mm,
            surface=options.surface,
        )
    scores = tuple(_score(pair, grid, overlap, surfaces.get(overlap.value), options) for overlap in overlaps)
    flip, predicted = None, pair.prediction is not None
    if predicted and not partly and _mean_dice(overlaps) < POOR_DICE:
        flip = find_flip(guess, truth, [overlap.value for overlap in overlaps], grid.axcodes)
    return CaseResult(
        scores=scores,
        lesions=tuple(
            lesion_row(
                pair.case,
                guess if predicted else None,
                truth,
                entry.value,
                entry.name,
                grid.spacing_mm,
                options,
            )
            for entry in labels.foreground
            if entry.value in options.lesions
        ),
        notes=CaseNotes(pair.case, resampled, not grid.is_orthogonal, flip, partly),
        labels=labels,
    )


def read_pair(pair: Pair) -> tuple[Volume, Volume, str | None]:
    """Read a case's label maps onto the reference's grid.

    Returns:
        The reference; the prediction, empty if there is none; and how its grid differed, if it was resampled.
    """
    reference = read_label_map(pair.reference)
    if pair.prediction is None:
        return reference, Volume(np.zeros_like(reference.array, dtype=np.uint8), reference.grid), None
    prediction = read_label_map(pair.prediction)
    difference = reference.grid.difference(prediction.grid)
    if difference is None:
        return reference, prediction, None
    covered = coverage(prediction.grid, reference.grid)
    if covered < 1.0:
        difference += f"; covers {covered:.0%} of the reference"
    return reference, onto_grid(prediction, reference.grid), difference


def found_labels(pair: Pair, reference: Volume, prediction: Volume, also: Sequence[int] = ()) -> LabelScheme:
    """The values that a case's files hold, and those asked for, as classes named "label 1" and so on."""
    values = values_in(reference, pair.reference) | values_in(prediction, pair.prediction or pair.reference)
    return LabelScheme.from_names({value: f"label {value}" for value in values.union(also) - {0}})


def _mean_dice(overlaps: tuple[Overlap, ...]) -> float:
    """NaN if all classes are absent."""
    scored = [overlap.dice for overlap in overlaps if overlap.n_pred or overlap.n_ref]
    return float(np.mean(scored)) if scored else math.nan


def _score(
    pair: Pair, grid: Grid, overlap: Overlap, surface: SurfaceScore | None, options: ScoringOptions
) -> Score:
    status = status_of(overlap.n_pred, overlap.n_ref, has_prediction=pair.prediction is not None)
    one_sided = status not in (Status.OK, Status.ABSENT)
    distances: dict[str, float] = {}
    if surface is not None:
        distances = {
            "hd95_mm": surface.hd95_mm,
            "assd_mm": surface.assd_mm,
            "nsd": surface.nsd,
            "hd_mm": surface.hd_mm,
            "hd95_bound_mm": surface.hd95_mm,
            "assd_bound_mm": surface.assd_mm,
        }
    elif options.surface is not None and one_sided:
        diagonal_mm = float(np.linalg.norm(np.multiply(grid.shape, grid.spacing_mm)))
        distances = {"nsd": 0.0, "hd95_bound_mm": diagonal_mm, "assd_bound_mm": diagonal_mm}
    return Score(
        case=pair.case,
        label=overlap.value,
        name=overlap.name,
        dice=overlap.dice,
        iou=overlap.iou,
        volume_ref_ml=overlap.n_ref * grid.voxel_volume_ml,
        volume_pred_ml=overlap.n_pred * grid.voxel_volume_ml,
        status=status,
        sensitivity=overlap.sensitivity,
        precision=overlap.precision,
        specificity=overlap.specificity,
        volume_difference_ml=overlap.volume_difference * grid.voxel_volume_ml,
        **distances,
    )
