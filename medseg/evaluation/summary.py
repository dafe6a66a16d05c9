"""Many scores as a few numbers, in which no failure disappears."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import scipy

from medseg import __version__
from medseg.evaluation.case import CaseNotes
from medseg.evaluation.lesions import LESION_COUNTS, LESION_METRICS
from medseg.evaluation.options import ScoringOptions
from medseg.evaluation.score import OVERLAP_METRICS, SURFACE_METRICS, Score, Status
from medseg.evaluation.scoring import ScoreTable
from medseg.evaluation.statistics import bca_interval
from medseg.metrics import summarize

__all__ = [
    "NOT_APPLICABLE",
    "SCORED",
    "describe",
    "metrics_of",
    "number",
    "summary_of",
    "summary_of_notes",
    "versions",
]

SCORED = "scored"
NOT_APPLICABLE = "not applicable"
"""The status of a class that is in no reference and in no prediction: it has no score, not 0 and not 1."""

_INTERVAL = "bias-corrected and accelerated bootstrap of the mean, 95 %"


def summary_of(
    table: ScoreTable,
    *,
    without_prediction: Sequence[str] = (),
    without_reference: Sequence[str] = (),
) -> dict[str, Any]:
    """Sum the scores up, as ``summary.json`` holds them; what has no value is ``None``.

    Args:
        table: The scores.
        without_prediction: Cases that were not scored since they have no prediction.
        without_reference: Predictions that were not scored since they have no reference.

    Returns:
        ``n_cases``; ``options``; ``mean`` (for each metric, the mean over the classes' means);
        ``over_classes`` (for each metric, what ``describe`` says of each case's mean over its classes);
        ``classes`` (for each class: whether there is anything to score, what ``describe`` says of each
        metric, ``n_valid``, the Dice values that there are, and how many cases have each status); ``cases``
        (worst first); ``flipped``, ``resampled`` and ``sheared`` cases; ``lesions``, if they are counted;
        the two lists; ``versions``.
    """
    options, metrics = table.options, metrics_of(table.options)
    classes = [
        _summary_of_class(entry.value, entry.name, table.of_label(entry.value), options)
        for entry in table.labels.foreground
    ]
    columns = {metric: options.column(metric) for metric in metrics}
    summary: dict[str, Any] = {
        "n_cases": len(table.cases()),
        "options": asdict(options) | {"lesions": list(options.lesions), "interval": _INTERVAL},
        "mean": {column: number(summarize(_means(classes, column)).mean) for column in columns.values()},
        "over_classes": {
            column: describe(table.case_means(metric).values()) for metric, column in columns.items()
        },
        "classes": classes,
        "cases": _summary_of_cases(table),
        **summary_of_notes(table.notes),
    }
    if options.lesions:
        summary["lesions"] = _summary_of_lesions(table)
    return summary | {
        "without_prediction": list(without_prediction),
        "without_reference": list(without_reference),
        "versions": versions(),
    }


def metrics_of(options: ScoringOptions) -> tuple[str, ...]:
    """The attributes of a ``Score`` that were measured."""
    return OVERLAP_METRICS if options.surface is None else OVERLAP_METRICS + SURFACE_METRICS


def describe(numbers: Iterable[float]) -> dict[str, Any]:
    """Location, spread and certainty of the numbers that are not NaN.

    Returns:
        ``mean``, ``median``, ``std`` (sample standard deviation), ``min``, ``max``, ``interval`` (of the
        mean, at 95 %; for at least three numbers) and ``n_valid``; ``None`` for what does not exist.

    Example:
        >>> found = describe([0.5, 1.0, math.nan])
        >>> found["mean"], found["interval"], found["n_valid"]
        (0.75, None, 2)
    """
    valid = [float(value) for value in numbers if not math.isnan(value)]
    facts = summarize(valid)
    interval = bca_interval(valid)
    return {
        **{key: number(getattr(facts, key)) for key in ("mean", "median", "std", "min")},
        "max": max(valid, default=None),
        "interval": None if math.isnan(interval.low) else [interval.low, interval.high],
        "n_valid": facts.n_valid,
    }


def number(value: float) -> float | None:
    """A number as JSON knows it: NaN becomes ``None``."""
    return None if math.isnan(value) else value


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {
        "medseg": __version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
    }


def _summary_of_class(
    value: int, name: str, scores: Sequence[Score], options: ScoringOptions
) -> dict[str, Any]:
    statuses = Counter(score.status for score in scores)
    something = any(score.status is not Status.ABSENT for score in scores)
    summary: dict[str, Any] = {
        "label": value,
        "name": name,
        "status": SCORED if something else NOT_APPLICABLE,
    }
    for metric in metrics_of(options):
        described = describe(getattr(score, metric) for score in scores) if something else _NOTHING
        summary[options.column(metric)] = dict(described)
    summary["n_valid"] = summary["dice"]["n_valid"]
    summary.update({f"n_{status}": statuses[status] for status in Status})
    for volume in ("volume_ref_ml", "volume_pred_ml"):
        summary[volume] = {"mean": number(summarize(getattr(score, volume) for score in scores).mean)}
    return summary


_NOTHING = describe(())


def _means(classes: Sequence[dict[str, Any]], column: str) -> list[float]:
    means = (entry[column]["mean"] for entry in classes)
    return [math.nan if mean is None else mean for mean in means]


def _summary_of_cases(table: ScoreTable) -> list[dict[str, Any]]:
    """Each case's means over its classes and its failures, worst first."""
    shown = [metric for metric in ("dice", "hd95_bound_mm", "nsd") if metric in metrics_of(table.options)]
    means = {metric: table.case_means(metric) for metric in shown}
    statuses: dict[str, Counter[Status]] = {}
    lowest: dict[str, Score] = {}
    for score in table.scores:
        statuses.setdefault(score.case, Counter())[score.status] += 1
        former = lowest.get(score.case)
        if not math.isnan(score.dice) and (former is None or score.dice < former.dice):
            lowest[score.case] = score
    failures = (Status.MISSED, Status.SPURIOUS, Status.NO_PREDICTION)
    return [
        {
            "case": case,
            **{table.options.column(metric): number(means[metric][case]) for metric in shown},
            "lowest": None if case not in lowest else {"class": lowest[case].name, "dice": lowest[case].dice},
            **{f"n_{status}": statuses[case][status] for status in failures},
        }
        for case in table.worst_cases()
    ]


def summary_of_notes(notes: Sequence[CaseNotes]) -> dict[str, Any]:
    """What there is to say beside scores: ``flipped``, ``resampled``, ``sheared``, ``partly_labelled`` cases."""
    return {
        "flipped": [
            {
                "case": note.case,
                "description": note.flip.description,
                "flipped_axes": list(note.flip.flipped),
                "axes_order": list(note.flip.order),
                "dice": note.flip.dice,
                "dice_unflipped": note.flip.dice_unflipped,
            }
            for note in notes
            if note.flip is not None
        ],
        "resampled": [
            {"case": note.case, "prediction": note.resampled} for note in notes if note.resampled is not None
        ],
        "sheared": [note.case for note in notes if note.sheared],
        "partly_labelled": [note.case for note in notes if note.partly_labelled],
    }


def _summary_of_lesions(table: ScoreTable) -> list[dict[str, Any]]:
    summaries = []
    for entry in table.labels.foreground:
        rows = [row for row in table.lesions if row.label == entry.value]
        if rows:
            described = {metric: describe(getattr(row, metric) for row in rows) for metric in LESION_METRICS}
            totals = {count: sum(getattr(row, count) for row in rows) for count in LESION_COUNTS}
            summaries.append({"label": entry.value, "name": entry.name, **totals, **described})
    return summaries
