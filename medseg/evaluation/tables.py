"""What an evaluation leaves behind: ``metrics.csv`` and ``summary.json``."""

from __future__ import annotations

import csv
import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.evaluation.score import METRICS, Score, ScoreTable, Status
from medseg.files import atomic_path, write_json
from medseg.metrics import summarize

__all__ = ["summary_of", "write_metrics"]


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
        ``n_cases``; ``mean`` (for each metric, the mean over the classes' means); ``classes`` (for each
        class: its metrics' mean, median, sample standard deviation and minimum; ``n_valid``, the scores
        that these are of; and how many cases have each status); the two lists; ``versions``.
    """
    classes = [_summary_of_class(entry.value, entry.name, table) for entry in table.labels.foreground]
    return {
        "n_cases": len(table.cases()),
        "mean": {metric: _number(summarize(_means(classes, metric)).mean) for metric in METRICS},
        "classes": classes,
        "without_prediction": list(without_prediction),
        "without_reference": list(without_reference),
        "versions": {"medseg": __version__, "numpy": np.__version__, "python": platform.python_version()},
    }


def write_metrics(
    table: ScoreTable, out: str | os.PathLike[str], summary: dict[str, Any] | None = None
) -> None:
    """Write ``metrics.csv`` (one row per case and class, full precision) and ``summary.json``.

    Args:
        table: The scores. An undefined one is an empty field.
        out: The folder; made if need be. Each file is written whole or not at all.
        summary: What ``summary_of`` gave, perhaps with more; by default the summary of ``table``.

    Raises:
        ResourceError: The folder cannot be written.
    """
    folder = Path(out)
    with atomic_path(folder / "metrics.csv") as path, path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([field.name for field in fields(Score)])
        writer.writerows([_field(value) for value in asdict(score).values()] for score in table.scores)
    write_json(summary_of(table) if summary is None else summary, folder / "summary.json")


def _summary_of_class(value: int, name: str, table: ScoreTable) -> dict[str, Any]:
    scores = table.of_label(value)
    statuses = Counter(score.status for score in scores)
    summary: dict[str, Any] = {"label": value, "name": name}
    for metric in METRICS:
        numbers = summarize(getattr(score, metric) for score in scores)
        summary[metric] = {key: _number(getattr(numbers, key)) for key in ("mean", "median", "std", "min")}
        summary["n_valid"] = numbers.n_valid
    summary.update({f"n_{status}": statuses[status] for status in Status})
    for volume in ("volume_ref_ml", "volume_pred_ml"):
        summary[volume] = {"mean": _number(summarize(getattr(score, volume) for score in scores).mean)}
    return summary


def _means(classes: Sequence[dict[str, Any]], metric: str) -> list[float]:
    means = (entry[metric]["mean"] for entry in classes)
    return [math.nan if mean is None else mean for mean in means]


def _number(number: float) -> float | None:
    return None if math.isnan(number) else number


def _field(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)
