"""What the jobs of a comparison gave, method by method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medseg.comparison.jobs import JobFolder, Key
from medseg.comparison.journal import finished_cases
from medseg.evaluation import Measure, ScoreTable, ScoringOptions
from medseg.evaluation.tables import METRICS_CSV, read_metrics
from medseg.files import read_json
from medseg.labels import LabelScheme

__all__ = ["OVER_CLASSES", "JobResult", "MethodResult", "read_result"]

OVER_CLASSES = "mean over classes"


@dataclass(frozen=True)
class JobResult:
    """What one job gave.

    Attributes:
        key: Its name.
        folder: Where it lies.
        table: Scores of its held-out cases; ``None`` if it failed or is not done.
        fit: What ``fit.json`` holds; empty if there is none.
        predict: What ``predict.json`` holds.
        cases: What was noted of each case that was predicted.
        failure: Why it failed.
        training_cases: How many cases it was fitted on.
    """

    key: Key
    folder: JobFolder
    table: ScoreTable | None
    fit: dict[str, Any]
    predict: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    failure: str | None
    training_cases: int


def read_result(
    key: Key, folder: JobFolder, training_cases: int, labels: LabelScheme, options: ScoringOptions
) -> JobResult:
    """Read what a job has left so far.

    Raises:
        InputError: A file is damaged.
    """
    metrics, failure = folder.path / METRICS_CSV, None
    if folder.failed.is_file():
        failure = str(read_json(folder.failed)["reason"])
    done = metrics.is_file() and failure is None
    return JobResult(
        key=key,
        folder=folder,
        table=ScoreTable(read_metrics(metrics, options), labels, options) if done else None,
        fit=read_json(folder.fit) if folder.fit.is_file() else {},
        predict=read_json(folder.predict) if folder.predict.is_file() else {},
        cases=finished_cases(folder),
        failure=failure if done or failure else "it was not run to its end",
        training_cases=training_cases,
    )


@dataclass(frozen=True)
class MethodResult:
    """A recipe fitted on so many cases: its jobs over folds and seeds.

    Attributes:
        recipe: Its name.
        size: Training cases of each fold; ``None`` for all.
        jobs: By seed, then fold.
    """

    recipe: str
    size: int | None
    jobs: tuple[JobResult, ...]

    @property
    def name(self) -> str:
        """What tables call it where there are several sizes."""
        return self.recipe if self.size is None else f"{self.recipe}, {self.size} cases"

    @property
    def failures(self) -> tuple[JobResult, ...]:
        """The jobs that gave no scores."""
        return tuple(job for job in self.jobs if job.table is None)

    @property
    def is_complete(self) -> bool:
        """Whether every job gave scores."""
        return not self.failures

    @property
    def training_cases(self) -> float:
        """How many cases it was fitted on, over folds on average."""
        return float(np.mean([job.training_cases for job in self.jobs]))

    @cached_property
    def by_seed(self) -> dict[int, ScoreTable]:
        """The scores of all folds together, by seed; each held-out case is in one fold."""
        found: dict[int, list[ScoreTable]] = {}
        for job in self.jobs:
            if job.table is not None:
                found.setdefault(job.key.seed, []).append(job.table)
        return {
            seed: ScoreTable(
                tuple(sorted((s for t in tables for s in t.scores), key=lambda s: (s.case, s.label))),
                tables[0].labels,
                tables[0].options,
            )
            for seed, tables in found.items()
        }

    def over_classes(self, metric: str) -> dict[str, float]:
        """For each case the mean over its classes, and then over seeds; NaN where there is nothing."""
        return _mean_over([table.case_means(metric) for table in self.by_seed.values()])

    def of_class(self, metric: str, label: int) -> dict[str, float]:
        """For each case the number of one class, over seeds on average; NaN where there is none."""
        return _mean_over(
            [
                {score.case: getattr(score, metric) for score in table.of_label(label)}
                for table in self.by_seed.values()
            ]
        )

    def measures(self, metrics: Sequence[str], options: ScoringOptions) -> list[Measure]:
        """What is tested: means over classes."""
        return [
            Measure(OVER_CLASSES, options.column(metric), self.over_classes(metric)) for metric in metrics
        ]

    def costs(self, what: str, phase: str) -> list[float]:
        """A number that was measured in each job, where it was: ``phase`` is ``"fit"`` or ``"predict"``."""
        told = (getattr(job, phase).get(what) for job in self.jobs)
        return [float(value) for value in told if value is not None]

    def case_seconds(self) -> list[float]:
        """How long each case took, over all jobs; those that failed are left out."""
        return [
            float(entry["seconds"])
            for job in self.jobs
            for entry in job.cases.values()
            if entry["status"] == "done"
        ]

    def failed_cases(self) -> list[tuple[Key, str, str]]:
        """Cases that could not be predicted, and why."""
        return [
            (job.key, case, str(entry["reason"]))
            for job in self.jobs
            for case, entry in job.cases.items()
            if entry["status"] != "done"
        ]

    def predictions_of(self, case: str) -> Path | None:
        """The label map of a case, of the first seed that has one."""
        for job in self.jobs:
            output = job.cases.get(case, {}).get("output")
            if job.table is not None and output is not None:
                return job.folder.predictions / str(output)
        return None


def _mean_over(tables: Sequence[dict[str, float]]) -> dict[str, float]:
    numbers: dict[str, list[float]] = {}
    for table in tables:
        for case, value in table.items():
            numbers.setdefault(case, []).extend([] if math.isnan(value) else [value])
    return {case: float(np.mean(found)) if found else math.nan for case, found in sorted(numbers.items())}
