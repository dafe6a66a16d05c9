"""Files of instance ids against references: how well single objects are found, case by case."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.evaluation.case import CaseNotes, read_pair
from medseg.evaluation.grids import check_pairs
from medseg.evaluation.orientation import POOR_DICE, find_flip
from medseg.evaluation.overlays import Pictures, draw_overlays, rank_cases
from medseg.evaluation.pairs import Pair, Pairing, find_pairs
from medseg.evaluation.pool import workers_for
from medseg.evaluation.score import Status, status_of
from medseg.evaluation.summary import describe, number, summary_of_notes, versions
from medseg.evaluation.tables import INSTANCES_CSV, SUMMARY_JSON, remove_former, require_own_folder, write_csv
from medseg.files import output_folder, write_json
from medseg.labels import LabelScheme
from medseg.metrics import aggregated_jaccard, match_instances_at, overlap_metrics
from medseg.progress import Progress
from medseg.volume import Volume
from medseg.workers import for_each

__all__ = [
    "THRESHOLDS",
    "InstanceEvaluation",
    "InstanceRow",
    "InstanceTable",
    "ThresholdScore",
    "evaluate_instance_folders",
    "score_instances",
]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Two instances are the same above such an intersection over union; panoptic quality takes the first."""

OBJECTS = LabelScheme.from_names({1: "objects"})


@dataclass(frozen=True)
class ThresholdScore:
    """How many instances are found at one threshold; NaN where there are none to count."""

    threshold: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class InstanceRow:
    """The instances of one case.

    Attributes:
        case: The case's id.
        n_ref: Instances in the reference.
        n_pred: Instances in the prediction.
        n_matched: Pairs of them at the first threshold.
        pq: Panoptic quality at the first threshold; NaN where neither file has an instance.
        sq: Segmentation quality: the mean intersection over union of matched instances.
        rq: Recognition quality: their F1.
        aji: Aggregated Jaccard index.
        dice: Of foreground, whatever the instances.
        at: F1, precision and recall at each threshold.
        status: Where there are instances at all.
        notes: What else there is to say.
    """

    case: str
    n_ref: int
    n_pred: int
    n_matched: int
    pq: float
    sq: float
    rq: float
    aji: float
    dice: float
    at: tuple[ThresholdScore, ...]
    status: Status
    notes: CaseNotes

    def numbers(self) -> dict[str, float]:
        """Each measure by its column's name, such as ``pq`` or ``f1_0.5``."""
        measures = {name: getattr(self, name) for name in ("pq", "sq", "rq", "aji", "dice")}
        for found in self.at:
            for name in ("f1", "precision", "recall"):
                measures[f"{name}_{found.threshold:g}"] = getattr(found, name)
        return measures


@dataclass(frozen=True)
class InstanceTable:
    """The instances of all cases.

    Attributes:
        rows: One for each case, in order.
    """

    rows: tuple[InstanceRow, ...]

    def cases(self) -> tuple[str, ...]:
        """The cases' ids, in order."""
        return tuple(row.case for row in self.rows)

    def measures(self) -> dict[str, dict[str, float]]:
        """For each measure its number by case."""
        names = self.rows[0].numbers() if self.rows else ()
        return {name: {row.case: row.numbers()[name] for row in self.rows} for name in names}

    def worst_first(self) -> tuple[InstanceRow, ...]:
        """By panoptic quality, then Dice; cases without any instance come last."""
        return tuple(sorted(self.rows, key=lambda row: (_last(row.pq), _last(row.dice), row.case)))


@dataclass(frozen=True)
class InstanceEvaluation:
    """What ``evaluate_instance_folders`` found.

    Attributes:
        table: The scores.
        pairing: Which files belong together, and which stand alone.
        summary: What ``summary.json`` holds.
    """

    table: InstanceTable
    pairing: Pairing
    summary: dict[str, Any]


def evaluate_instance_folders(
    pred: str | os.PathLike[str],
    ref: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    require_all: bool = False,
    resample_prediction: bool = False,
    pictures: Pictures | None = None,
    jobs: int | None = 1,
    progress: Progress | None = None,
) -> InstanceEvaluation:
    """Score a folder of instance maps against references; write ``instances.csv`` and ``summary.json``.

    Instance maps hold a number for each object, 0 for none; which number does not matter.

    Args:
        pred: Folder of instance maps, or one file.
        ref: Folder of instance maps of the same names, or one file.
        out: Folder for the tables; if scoring fails, it is not made.
        require_all: Score each reference that has no prediction as a failure.
        resample_prediction: Accept predictions on other grids, see ``ScoringOptions``.
        pictures: Draw the worst, the median and the best case into ``overlays/``.
        jobs: Cases at a time; as for ``evaluate``.
        progress: Shows how far it is.

    Raises:
        InputError: Files are missing or damaged, or hold ids that are not whole numbers from 0.
        GeometryError: The grids of a pair differ.
        ResourceError: ``out`` cannot be written.
        ConfigError: Pictures cannot be drawn.
    """
    require_own_folder(out, pred, ref)
    pairing = find_pairs(pred, ref)
    pairs = pairing.complete() if require_all else pairing.pairs
    voxels = check_pairs(pairs, resample_prediction=resample_prediction)
    images = {} if pictures is None else pictures.find(pairs)
    with output_folder(out) as folder:
        rows = for_each(
            score_instances,
            pairs,
            workers=workers_for(voxels, jobs),
            description="scoring",
            progress=progress,
        )
        table = InstanceTable(tuple(rows))
        summary = _summary(table) | {
            "without_prediction": [] if require_all else [pair.case for pair in pairing.without_prediction],
            "without_reference": [path.name for path in pairing.without_reference],
            "predictions": str(pred),
            "references": str(ref),
        }
        summary["overlays"] = drawn = []
        if pictures is not None:
            scores = {row.case: row.pq for row in table.worst_first() if row.status is not Status.ABSENT}
            ranked = rank_cases(scores, pairs, "PQ")
            drawn += draw_overlays(ranked, OBJECTS, _outlined, images, folder)
        _write(table, folder, summary)
        remove_former(folder, {INSTANCES_CSV, SUMMARY_JSON, *(entry["file"] for entry in drawn)})
    return InstanceEvaluation(table, pairing, summary)


def score_instances(pair: Pair) -> InstanceRow:
    """Read a case's files and match their instances."""
    reference, prediction, resampled = read_pair(pair)
    pred, ref = prediction.array[0], reference.array[0]
    matches = match_instances_at(pred, ref, THRESHOLDS)
    first = matches[0]
    n_ref, n_pred = len(first.pairs) + len(first.missed), len(first.pairs) + len(first.invented)
    (foreground,) = overlap_metrics(pred != 0, ref != 0, OBJECTS)
    flip = None
    if pair.prediction is not None and foreground.dice < POOR_DICE:
        flip = find_flip((pred != 0).view(np.uint8), (ref != 0).view(np.uint8), [1], reference.grid.axcodes)
    return InstanceRow(
        case=pair.case,
        n_ref=n_ref,
        n_pred=n_pred,
        n_matched=len(first.pairs),
        pq=first.quality.pq,
        sq=first.quality.sq,
        rq=first.quality.rq,
        aji=aggregated_jaccard(pred, ref),
        dice=foreground.dice,
        at=tuple(
            ThresholdScore(found.iou_threshold, found.f1, found.precision, found.recall) for found in matches
        ),
        status=status_of(n_pred, n_ref, has_prediction=pair.prediction is not None),
        notes=CaseNotes(pair.case, resampled, flip=flip),
    )


def _summary(table: InstanceTable) -> dict[str, Any]:
    statuses = [row.status for row in table.rows]
    return {
        "n_cases": len(table.rows),
        "iou_thresholds": list(THRESHOLDS),
        "instances": {name: describe(numbers.values()) for name, numbers in table.measures().items()},
        **{f"n_{status}": statuses.count(status) for status in Status},
        "cases": [
            {
                "case": row.case,
                **{name: getattr(row, name) for name in ("n_ref", "n_pred", "n_matched")},
                **{name: number(value) for name, value in row.numbers().items()},
                "status": row.status,
            }
            for row in table.worst_first()
        ],
        **summary_of_notes([row.notes for row in table.rows]),
        "versions": versions(),
    }


def _write(table: InstanceTable, folder: Path, summary: dict[str, Any]) -> None:
    counts = ("n_ref", "n_pred", "n_matched")
    measures = tuple(table.measures())
    rows = (
        [row.case, *(getattr(row, name) for name in counts), *row.numbers().values(), row.status]
        for row in table.rows
    )
    write_csv(folder / INSTANCES_CSV, ("case", *counts, *measures, "status"), rows)
    write_json(summary, folder / SUMMARY_JSON)


def _outlined(pair: Pair) -> tuple[Volume, Volume]:
    """A case's instances as one class, with a gap where two of them touch, so that each has an outline."""
    reference, prediction, _ = read_pair(pair)
    return _with_gaps(reference), _with_gaps(prediction)


def _with_gaps(instances: Volume) -> Volume:
    ids = instances.array[0]
    inside = ids != 0
    for axis in range(3):
        before: Sequence[slice] = [slice(None)] * axis + [slice(None, -1)]
        after: Sequence[slice] = [slice(None)] * axis + [slice(1, None)]
        touching = (ids[tuple(before)] != ids[tuple(after)]) & (ids[tuple(after)] != 0)
        inside[tuple(before)] &= ~touching
    mask: npt.NDArray[np.uint8] = inside.view(np.uint8)
    return Volume(mask[None], instances.grid)


def _last(value: float) -> float:
    return np.inf if np.isnan(value) else value
