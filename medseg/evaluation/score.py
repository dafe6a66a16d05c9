"""Score label maps against references, one case in memory at a time."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medseg.errors import GeometryError, InputError
from medseg.evaluation.pairs import Pair
from medseg.io import read_header, read_volume
from medseg.labels import LabelScheme
from medseg.metrics import Overlap, confusion, overlaps_of
from medseg.progress import Progress, SilentProgress, track

__all__ = ["METRICS", "Score", "ScoreTable", "Status", "check_pairs", "evaluate"]

METRICS = ("dice", "iou")
"""The columns of a ``Score`` that are averaged over cases, in the order of the tables."""


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


@dataclass(frozen=True)
class Score:
    """One class in one case; a row of ``metrics.csv``, whose columns are these attributes.

    Attributes:
        case: The case's id.
        label: The class's value in label maps.
        name: The class's name.
        dice: 0 to 1; NaN where the class is absent.
        iou: Intersection over union, 0 to 1; NaN where the class is absent.
        volume_ref_ml: Volume in the reference, in millilitres.
        volume_pred_ml: Volume in the prediction, in millilitres.
        status: Where the class is.
    """

    case: str
    label: int
    name: str
    dice: float
    iou: float
    volume_ref_ml: float
    volume_pred_ml: float
    status: Status


@dataclass(frozen=True)
class ScoreTable:
    """All scores of an evaluation.

    Attributes:
        scores: A score for each case and foreground class, by case, then class.
        labels: The classes.
    """

    scores: tuple[Score, ...]
    labels: LabelScheme

    def of_label(self, value: int) -> tuple[Score, ...]:
        """The scores of one class, by case."""
        return tuple(score for score in self.scores if score.label == value)

    def cases(self) -> tuple[str, ...]:
        """The cases' ids, in order."""
        return tuple(dict.fromkeys(score.case for score in self.scores))

    def worst(self, count: int) -> tuple[Score, ...]:
        """The lowest scores by Dice, lowest first; absent classes are left out."""
        scored = (score for score in self.scores if not math.isnan(score.dice))
        return tuple(sorted(scored, key=lambda score: (score.dice, score.case, score.label))[:count])


def evaluate(pairs: Sequence[Pair], labels: LabelScheme, *, progress: Progress | None = None) -> ScoreTable:
    """Score predictions against references.

    All headers are compared before the first voxel is read. Files may differ in format and, within
    ``medseg.geometry.GRID_TOLERANCE_VOXELS``, in how their affines are rounded, but not in their grid.

    Args:
        pairs: What to compare; ``find_pairs`` finds them in folders.
        labels: The classes.
        progress: Shows how far it is.

    Returns:
        One score for each case and foreground class.

    Raises:
        GeometryError: The grids of a pair differ.
        InputError: A file is damaged, is no label map, or holds an undeclared value.
    """
    check_pairs(pairs)
    shown = track(pairs, "scoring", progress or SilentProgress())
    return ScoreTable(tuple(score for pair in shown for score in _scores(pair, labels)), labels)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Compare the headers of all pairs; no voxel is read.

    Raises:
        GeometryError: The grids of a pair differ.
        InputError: A file is damaged, or has several channels.
    """
    for pair in pairs:
        headers = [read_header(path) for path in (pair.reference, pair.prediction) if path is not None]
        for header in headers:
            if header.channels != 1:
                raise InputError(
                    f"has {header.channels} channels, a label map has one",
                    where=header.path,
                    fix="check the path",
                )
        if pair.prediction is None:
            continue
        difference = headers[0].grid.difference(headers[1].grid)
        if difference is not None:
            raise GeometryError(
                f"lies on another grid than its reference {pair.reference}: {difference}",
                where=pair.prediction,
                fix="segment the image that the reference was drawn on, or resample onto its grid",
            )


def _scores(pair: Pair, labels: LabelScheme) -> Iterator[Score]:
    reference = read_volume(pair.reference)
    if pair.prediction is None:
        counts = confusion(reference.array, reference.array, labels, ref_where=str(pair.reference))
    else:
        counts = confusion(
            read_volume(pair.prediction).array,
            reference.array,
            labels,
            pred_where=str(pair.prediction),
            ref_where=str(pair.reference),
        )
    voxel_ml = reference.grid.voxel_volume_ml
    for overlap in overlaps_of(counts, labels):
        if pair.prediction is None:
            overlap = Overlap(overlap.value, overlap.name, n_both=0, n_pred=0, n_ref=overlap.n_ref)
        yield Score(
            case=pair.case,
            label=overlap.value,
            name=overlap.name,
            dice=overlap.dice,
            iou=overlap.iou,
            volume_ref_ml=overlap.n_ref * voxel_ml,
            volume_pred_ml=overlap.n_pred * voxel_ml,
            status=_status(overlap, has_prediction=pair.prediction is not None),
        )


def _status(overlap: Overlap, *, has_prediction: bool) -> Status:
    if overlap.n_ref == 0:
        return Status.ABSENT if overlap.n_pred == 0 else Status.SPURIOUS
    if overlap.n_pred > 0:
        return Status.OK
    return Status.MISSED if has_prediction else Status.NO_PREDICTION
