"""Score label maps against references: many cases, one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medseg.errors import InputError
from medseg.evaluation.case import CaseNotes, CaseResult, CaseTask, score_case
from medseg.evaluation.grids import check_pairs
from medseg.evaluation.lesions import LesionRow
from medseg.evaluation.options import ScoringOptions
from medseg.evaluation.pairs import Pair
from medseg.evaluation.pool import workers_for
from medseg.evaluation.score import Score, Status
from medseg.labels import LabelScheme
from medseg.progress import Progress
from medseg.workers import for_each

__all__ = ["ScoreTable", "evaluate", "score_checked"]


@dataclass(frozen=True)
class ScoreTable:
    """All scores of an evaluation.

    Attributes:
        scores: A score for each case and foreground class, by case, then class.
        labels: The classes.
        options: What was measured.
        notes: What else there is to say, case by case.
        lesions: For each case and each class whose lesions are counted, how they were found.
    """

    scores: tuple[Score, ...]
    labels: LabelScheme
    options: ScoringOptions = field(default_factory=ScoringOptions)
    notes: tuple[CaseNotes, ...] = ()
    lesions: tuple[LesionRow, ...] = ()

    def of_label(self, value: int) -> tuple[Score, ...]:
        """The scores of one class, by case."""
        return tuple(score for score in self.scores if score.label == value)

    def of_case(self, case: str) -> tuple[Score, ...]:
        """The scores of one case, by class."""
        return tuple(score for score in self.scores if score.case == case)

    def cases(self) -> tuple[str, ...]:
        """The cases' ids, in order."""
        return tuple(dict.fromkeys(score.case for score in self.scores))

    def worst(self, count: int) -> tuple[Score, ...]:
        """The lowest scores by Dice, lowest first; absent classes are left out."""
        scored = (score for score in self.scores if not math.isnan(score.dice))
        return tuple(sorted(scored, key=lambda score: (score.dice, score.case, score.label))[:count])

    def case_means(self, metric: str) -> dict[str, float]:
        """For each case, the mean of an attribute of ``Score`` over the classes that have it; else NaN."""
        numbers: dict[str, list[float]] = {}
        for score in self.scores:
            number = getattr(score, metric)
            numbers.setdefault(score.case, []).extend([] if math.isnan(number) else [number])
        return {case: float(np.mean(found)) if found else math.nan for case, found in numbers.items()}

    def worst_cases(self) -> tuple[str, ...]:
        """All cases, worst first: by mean Dice over the classes, then by mean robust Hausdorff distance.

        Cases without any structure, in which there is nothing to score, come last.
        """
        dice, distance = self.case_means("dice"), self.case_means("hd95_bound_mm")

        def badness(case: str) -> tuple[float, float, str]:
            return (
                math.inf if math.isnan(dice[case]) else dice[case],
                0.0 if math.isnan(distance[case]) else -distance[case],
                case,
            )

        return tuple(sorted(dice, key=badness))


def evaluate(
    pairs: Sequence[Pair],
    labels: LabelScheme | None = None,
    *,
    options: ScoringOptions | None = None,
    jobs: int | None = 1,
    progress: Progress | None = None,
) -> ScoreTable:
    """Score predictions against references.

    All headers are compared before the first voxel is read. Files may differ in format and, within
    ``medseg.geometry.GRID_TOLERANCE_VOXELS``, in how their affines are rounded, but not in their grid,
    unless the options allow to resample.

    Args:
        pairs: What to compare; ``find_pairs`` finds them in folders.
        labels: The classes; ``None`` for the values that the files hold, named "label 1" and so on.
        options: What is measured; by default overlap, and surfaces by area.
        jobs: Cases at a time, each in a process of its own, for which a script must start its work under
            ``if __name__ == "__main__":``; 1 for one after the other in this process; ``None`` for as many
            as there are cores, as far as the work is worth it.
        progress: Shows how far it is.

    Returns:
        One score for each case and foreground class. Where a reference leaves voxels unlabelled
        (``labels.ignore``), they do not count, and no surface is measured in that case.

    Raises:
        GeometryError: The grids of a pair differ.
        InputError: A file is damaged, is no label map, or holds an undeclared value; or lesions are to be
            counted and references may leave voxels unlabelled.
    """
    options = options or ScoringOptions()
    voxels = check_pairs(pairs, resample_prediction=options.resample_prediction)
    return score_checked(pairs, voxels, labels, options=options, jobs=jobs, progress=progress)


def score_checked(
    pairs: Sequence[Pair],
    voxels: Sequence[int],
    labels: LabelScheme | None,
    *,
    options: ScoringOptions,
    jobs: int | None,
    progress: Progress | None,
) -> ScoreTable:
    """Score pairs of which ``check_pairs`` has seen the headers, and told the sizes; else as ``evaluate``."""
    if options.lesions and labels is not None and labels.ignore is not None:
        raise InputError(
            f"references may leave voxels unlabelled ({labels.ignore}), in which lesions may go on",
            where="lesions",
            fix="count lesions on references that are labelled throughout, without 'ignore' among the labels",
        )
    tasks = [CaseTask(pair, labels, options) for pair in pairs]
    workers = workers_for(voxels, jobs)
    results = for_each(score_case, tasks, workers=workers, description="scoring", progress=progress)
    if labels is None:
        labels = _union(results, pairs)
    return ScoreTable(
        scores=tuple(score for result in results for score in _completed(result, labels)),
        labels=labels,
        options=options,
        notes=tuple(result.notes for result in results),
        lesions=tuple(row for result in results for row in result.lesions),
    )


def _union(results: Sequence[CaseResult], pairs: Sequence[Pair]) -> LabelScheme:
    """The classes of all cases, none of which were declared."""
    names = {entry.value: entry.name for result in results for entry in result.labels.foreground}
    if not names:
        where = pairs[0].reference.parent if pairs else None
        raise InputError("no label map holds any class", where=where, fix="check the files, or give --labels")
    return LabelScheme.from_names(names)


def _completed(result: CaseResult, labels: LabelScheme) -> list[Score]:
    """A case's scores, and the classes that are in other cases alone."""
    scored = {score.label: score for score in result.scores}
    return [
        scored.get(entry.value) or _absent(result.notes.case, entry.value, entry.name)
        for entry in labels.foreground
    ]


def _absent(case: str, value: int, name: str) -> Score:
    return Score(
        case=case,
        label=value,
        name=name,
        dice=math.nan,
        iou=math.nan,
        volume_ref_ml=0.0,
        volume_pred_ml=0.0,
        status=Status.ABSENT,
        specificity=1.0,
        volume_difference_ml=0.0,
    )
