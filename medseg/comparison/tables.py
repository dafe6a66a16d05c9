"""A comparison in numbers: one row for each method, every score, and all of it as JSON."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import psutil

from medseg.comparison.folder import COMPARISON_CSV, SCORES_CSV, SUMMARY_JSON, ComparisonFolder
from medseg.comparison.paired_tests import TESTED, Tested, compare_with_baseline, number_of_tests
from medseg.comparison.ranks import MethodRank, rank_methods
from medseg.comparison.results import MethodResult
from medseg.evaluation import Score, Status
from medseg.evaluation.summary import describe, number
from medseg.evaluation.tables import write_csv
from medseg.files import write_json
from medseg.runs import software_versions
from medseg.workers import available_cores

__all__ = ["Findings", "write_tables"]

_FAILED = (Status.MISSED, Status.SPURIOUS, Status.NO_PREDICTION)


@dataclass(frozen=True)
class Findings:
    """What follows from the results of a comparison.

    Attributes:
        folder: The comparison.
    """

    folder: ComparisonFolder

    @cached_property
    def main(self) -> tuple[MethodResult, ...]:
        """The methods at the largest training size, in the order of the recipes."""
        sizes = self.folder.settings.sizes
        largest = None if None in sizes else max(size for size in sizes if size is not None)
        return tuple(method for method in self.folder.methods if method.size == largest)

    @property
    def baseline(self) -> MethodResult:
        """What the others are tested against."""
        name = self.folder.settings.baseline
        return next(method for method in self.main if method.recipe == name)

    @cached_property
    def tested(self) -> tuple[Tested, ...]:
        """Every other method with scores against the baseline, if that has any."""
        baseline = self.baseline
        if not baseline.by_seed:
            return ()
        others = [method for method in self.main if method is not baseline and method.by_seed]
        return compare_with_baseline(baseline, others, self.folder.options)

    @cached_property
    def ranked(self) -> dict[str, dict[str, MethodRank]]:
        """Ranks of the complete methods by metric; empty where fewer than two are."""
        complete = [method for method in self.main if method.is_complete]
        if len(complete) < 2:
            return {}
        return {
            self.folder.options.column(metric): rank_methods(
                self._on_common_cases(complete, metric), smaller_is_better=metric.endswith("_mm")
            )
            for metric in TESTED
        }

    def _on_common_cases(self, methods: Sequence[MethodResult], metric: str) -> dict[str, list[float]]:
        tables = {method.recipe: method.over_classes(metric) for method in methods}
        first, *others = tables.values()
        common = [
            case
            for case, value in first.items()
            if not math.isnan(value) and all(not math.isnan(table.get(case, math.nan)) for table in others)
        ]
        return {name: [table[case] for case in common] for name, table in tables.items()}

    def learning_curve(self) -> dict[str, list[tuple[float, MethodResult]]]:
        """By recipe, how many cases it was fitted on, and the method; sizes without scores are left out."""
        found: dict[str, list[tuple[float, MethodResult]]] = {}
        for method in self.folder.methods:
            if method.by_seed:
                found.setdefault(method.recipe, []).append((method.training_cases, method))
        return found

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds; what has no value is ``None``."""
        settings, split = self.folder.settings, self.folder.split
        cases = [case for fold in settings.folds for case in split.validation(fold)]
        return {
            "kind": "comparison",
            **settings.model_dump(mode="json"),
            "n_cases": len(cases),
            "methods": [self.row(method) for method in self.folder.methods],
            "tests": {
                "against": settings.baseline,
                "differences": f"method - {settings.baseline}, of means over classes",
                "test": "Wilcoxon signed rank, two-sided; Holm's correction for all "
                f"{number_of_tests(self.tested)} tests",
                "interval": "of the mean difference, bias-corrected and accelerated bootstrap, 95 %",
                "compared": [row for entry in self.tested for row in self._test_rows(entry)],
            },
            "ranks": {
                metric: {name: _rank_row(rank) for name, rank in found.items()}
                for metric, found in self.ranked.items()
            },
            "versions": software_versions(),
            "machine": _machine(),
        }

    def row(self, method: MethodResult) -> dict[str, Any]:
        """A method in numbers."""
        scores = [score for table in method.by_seed.values() for score in table.scores]
        overall = {
            self.folder.options.column(metric): describe(method.over_classes(metric).values())
            for metric in TESTED
        }
        return {
            "recipe": method.recipe,
            "size": method.size,
            "training_cases": method.training_cases,
            "n_cases": len(method.over_classes("dice")),
            "jobs": len(method.jobs),
            "failed_jobs": [{"job": str(job.key), "reason": job.failure} for job in method.failures],
            "failed_cases": [
                {"job": str(key), "case": case, "reason": why} for key, case, why in method.failed_cases()
            ],
            **overall,
            "dice_by_seed": {
                str(seed): number(_mean(table.case_means("dice").values()))
                for seed, table in method.by_seed.items()
            },
            "classes": [
                self._class_row(method, scores, entry.value, entry.name) for entry in self._foreground
            ],
            **{f"n_{status}": sum(score.status is status for score in scores) for status in _FAILED},
            "fit_seconds": describe(method.costs("seconds", "fit")),
            "fit_cpu_seconds": describe(method.costs("cpu_seconds", "fit")),
            "case_seconds": describe(method.case_seconds()),
            "peak_fit_bytes": _largest(method.costs("peak_memory_bytes", "fit")),
            "peak_predict_bytes": _largest(method.costs("peak_memory_bytes", "predict")),
            "peak_device_bytes": _largest(
                method.costs("peak_device_bytes", "fit") + method.costs("peak_device_bytes", "predict")
            ),
            "parameters": _largest(method.costs("parameters", "fit")),
            "model_bytes": _largest(method.costs("model_bytes", "fit")),
        }

    @property
    def _foreground(self) -> tuple[Any, ...]:
        return self.folder.dataset.labels.foreground

    def _class_row(
        self, method: MethodResult, scores: Sequence[Score], label: int, name: str
    ) -> dict[str, Any]:
        own = [score for score in scores if score.label == label]
        return {
            "label": label,
            "name": name,
            **{
                self.folder.options.column(metric): describe(method.of_class(metric, label).values())
                for metric in TESTED
            },
            **{f"n_{status}": sum(score.status is status for score in own) for status in _FAILED},
        }

    def _test_rows(self, tested: Tested) -> list[dict[str, Any]]:
        names = tested.method.recipe, self.folder.settings.baseline
        rows = []
        for entry in tested.compared:
            test = entry.test
            bounded = not math.isnan(test.interval.low)
            rows.append(
                {
                    "recipe": names[0],
                    "metric": entry.metric,
                    "n": test.n,
                    "n_left_out": entry.n_left_out,
                    "mean_difference": number(test.mean_difference),
                    "median_difference": number(test.median_difference),
                    "interval": [test.interval.low, test.interval.high] if bounded else None,
                    "p_value": number(test.p_value),
                    "p_holm": number(entry.p_holm),
                    "effect_size": number(test.effect_size),
                    "favours": entry.favours(names),
                }
            )
        return rows


def write_tables(folder: ComparisonFolder) -> None:
    """Write ``comparison.csv``, ``scores.csv`` and ``summary.json``, each whole or not at all.

    Raises:
        InputError: The data set is not where it was, or a result is damaged.
        ResourceError: The folder cannot be written.
    """
    summary = Findings(folder).summary()
    rows = [_flat(row, summary) for row in summary["methods"]]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    write_csv(
        folder.path / COMPARISON_CSV,
        columns,
        ([row.get(column, math.nan) for column in columns] for row in rows),
    )
    write_csv(folder.path / SCORES_CSV, _SCORE_COLUMNS, _score_rows(folder))
    write_json(summary, folder.path / SUMMARY_JSON)


def _machine() -> dict[str, Any]:
    """What times and memory depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": available_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


_SCORE_FIELDS = [field.name for field in fields(Score)]
_SCORE_COLUMNS = ["recipe", "size", "seed", "fold", *_SCORE_FIELDS]


def _score_rows(folder: ComparisonFolder) -> Iterable[list[object]]:
    for method in folder.methods:
        for job in method.jobs:
            for score in () if job.table is None else job.table.scores:
                size = "all" if method.size is None else method.size
                values = [getattr(score, name) for name in _SCORE_FIELDS]
                yield [method.recipe, size, job.key.seed, job.key.fold, *values]


def _flat(row: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, object]:
    """A method as a row of ``comparison.csv``."""
    flat: dict[str, object] = {
        "recipe": row["recipe"],
        "size": "all" if row["size"] is None else row["size"],
        "training_cases": row["training_cases"],
        "n_cases": row["n_cases"],
        "jobs": row["jobs"],
        "failed_jobs": len(row["failed_jobs"]),
        "failed_cases": len(row["failed_cases"]),
    }
    metrics = [key for key in row if key in ("dice", "nsd") or key.startswith("hd")]
    for metric in metrics:
        low, high = row[metric]["interval"] or (math.nan, math.nan)
        flat |= {metric: _or_nan(row[metric]["mean"]), f"{metric}_low": low, f"{metric}_high": high}
    for entry in row["classes"]:
        flat[f"dice {entry['name']}"] = _or_nan(entry["dice"]["mean"])
    flat |= {f"n_{status}": row[f"n_{status}"] for status in _FAILED}
    flat |= {key: _or_nan(row[key]["mean"]) for key in ("fit_seconds", "fit_cpu_seconds", "case_seconds")}
    flat |= {key: _or_nan(row[key]) for key in row if key.startswith("peak_") or key.startswith("model_")}
    flat["parameters"] = _or_nan(row["parameters"])
    for test in summary["tests"]["compared"]:
        if test["recipe"] == row["recipe"] and _is_main(row, summary):
            flat[f"{test['metric']}_p_holm"] = _or_nan(test["p_holm"])
    for metric, found in summary["ranks"].items():
        if row["recipe"] in found and _is_main(row, summary):
            flat[f"{metric}_rank"] = found[row["recipe"]]["rank"]
    return flat


def _is_main(row: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    sizes = summary["sizes"]
    return bool(row["size"] == (None if None in sizes else max(sizes)))


def _rank_row(rank: MethodRank) -> dict[str, Any]:
    return {
        "rank": rank.rank,
        "mean": rank.mean,
        "interval": [rank.low, rank.high],
        "probabilities": list(rank.probabilities),
    }


def _largest(values: Sequence[float]) -> int | None:
    return int(max(values)) if values else None


def _mean(values: Iterable[float]) -> float:
    found = [value for value in values if not math.isnan(value)]
    return float(np.mean(found)) if found else math.nan


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
