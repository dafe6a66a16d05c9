"""Two predictions of the same references: which is better, by how much, and how sure that is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError
from medseg.evaluation.folders import Evaluation
from medseg.evaluation.grids import check_pairs
from medseg.evaluation.instances import InstanceEvaluation, InstanceTable
from medseg.evaluation.pairs import find_pairs
from medseg.evaluation.statistics import PairedComparison, compare_paired, holm
from medseg.evaluation.summary import number, versions
from medseg.evaluation.tables import require_own_folder
from medseg.files import output_folder, write_json

__all__ = [
    "COMPARISON_JSON",
    "Compared",
    "Comparison",
    "EvaluateOne",
    "Measure",
    "compare_folders",
    "compare_measures",
    "measures_of",
    "prediction_names",
]

COMPARISON_JSON = "comparison.json"

OVER_CLASSES = "mean over classes"
_COMPARED = ("dice", "nsd", "hd95_bound_mm", "assd_bound_mm")
_COMPARED_OF_INSTANCES = ("pq", "f1_0.5", "aji", "dice")
_FAILURES = ("n_missed", "n_spurious", "n_no_prediction")
_SIGNIFICANT = 0.05

Evaluated = Evaluation | InstanceEvaluation
StrPath = str | os.PathLike[str]
EvaluateOne = Callable[[StrPath, StrPath, StrPath], Evaluated]
"""Called with predictions, references and a folder for the results."""


@dataclass(frozen=True)
class Measure:
    """One kind of number, case by case.

    Attributes:
        of: What is measured: a class's name, or what stands for all of them.
        metric: The number's name; those that end in ``_mm`` are better the smaller they are.
        by_case: The number of each case; NaN where it has none.
    """

    of: str
    metric: str
    by_case: Mapping[str, float]


@dataclass(frozen=True)
class Compared:
    """A measure of two predictions on the cases in which both have it.

    Attributes:
        of: What is measured.
        metric: The number's name.
        first_mean: Mean of the first over these cases; NaN without any.
        second_mean: Mean of the second.
        n_left_out: Cases that both were scored on, of which at least one has no such number.
        test: The paired comparison; differences are first minus second.
        p_holm: Its p-value, corrected for all tests of the table (Holm 1979).
    """

    of: str
    metric: str
    first_mean: float
    second_mean: float
    n_left_out: int
    test: PairedComparison
    p_holm: float

    def favours(self, names: tuple[str, str]) -> str | None:
        """The prediction that is better at a corrected level of 0.05; ``None`` if neither is shown to be."""
        if not self.p_holm < _SIGNIFICANT or self.test.effect_size == 0.0:
            return None
        first_is_larger = self.test.effect_size > 0.0
        smaller_is_better = self.metric.endswith("_mm")
        return names[0] if first_is_larger != smaller_is_better else names[1]


@dataclass(frozen=True)
class Comparison:
    """Two evaluations side by side.

    Attributes:
        names: Of the two predictions.
        evaluations: Of each.
        cases: That both were scored on.
        left_out: Cases that only the first, and that only the second was scored on.
        compared: One for each class, or what else is measured, and metric.
    """

    names: tuple[str, str]
    evaluations: tuple[Evaluated, Evaluated]
    cases: tuple[str, ...]
    left_out: tuple[tuple[str, ...], tuple[str, ...]]
    compared: tuple[Compared, ...]

    def summary(self) -> dict[str, Any]:
        """What ``comparison.json`` holds; what has no value is ``None``."""
        first, second = self.names
        return {
            "names": list(self.names),
            "predictions": {
                name: found.summary["predictions"]
                for name, found in zip(self.names, self.evaluations, strict=True)
            },
            "references": self.evaluations[0].summary["references"],
            "n_cases": len(self.cases),
            "left_out": {
                f"only {name}": list(cases) for name, cases in zip(self.names, self.left_out, strict=True)
            },
            "differences": f"{first} - {second}",
            "test": f"Wilcoxon signed rank, two-sided; Holm's correction for all {self._tests()} tests",
            "interval": "of the mean difference, bias-corrected and accelerated bootstrap, 95 %",
            "failures": {
                name: _failures(found) for name, found in zip(self.names, self.evaluations, strict=True)
            },
            "compared": [self._row(entry) for entry in self.compared],
            "versions": versions(),
        }

    def _tests(self) -> int:
        return sum(not math.isnan(entry.p_holm) for entry in self.compared)

    def _row(self, entry: Compared) -> dict[str, Any]:
        test = entry.test
        bounded = not math.isnan(test.interval.low)
        return {
            "of": entry.of,
            "metric": entry.metric,
            "n": test.n,
            "n_left_out": entry.n_left_out,
            "mean": {self.names[0]: number(entry.first_mean), self.names[1]: number(entry.second_mean)},
            "mean_difference": number(test.mean_difference),
            "median_difference": number(test.median_difference),
            "interval": [test.interval.low, test.interval.high] if bounded else None,
            "p_value": number(test.p_value),
            "p_holm": number(entry.p_holm),
            "effect_size": number(test.effect_size),
            "favours": entry.favours(self.names),
        }


def prediction_names(predictions: Sequence[StrPath], names: Sequence[str] = ()) -> tuple[str, str]:
    """What two predictions are called, in tables and as folders.

    Args:
        predictions: Two folders or files.
        names: Their names; without any, those of the folders.

    Raises:
        ConfigError: There are not two of each, the names are equal, or cannot name a folder.

    Example:
        >>> prediction_names(["runs/unet", "runs/segnet"])
        ('unet', 'segnet')
    """
    if len(predictions) != 2:
        raise ConfigError(
            f"{len(predictions)} predictions cannot be compared in pairs", where="--pred", fix="give two"
        )
    chosen = list(names) or [Path(path).absolute().name.split(".")[0] for path in predictions]
    if len(chosen) != 2:
        raise ConfigError(
            f"{len(chosen)} names for 2 predictions", where="--name", fix="name each, in their order"
        )
    for name in chosen:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ConfigError(f"'{name}' cannot name a folder", where="--name", fix="use letters and digits")
    if chosen[0] == chosen[1]:
        raise ConfigError(
            f"both predictions are called '{chosen[0]}'", where="--name", fix="give --name twice"
        )
    return chosen[0], chosen[1]


def compare_folders(
    predictions: Sequence[StrPath],
    ref: StrPath,
    out: StrPath,
    *,
    evaluate_one: EvaluateOne,
    names: Sequence[str] = (),
    resample_prediction: bool = False,
) -> Comparison:
    """Evaluate two predictions of the same references, each into a folder of its own, and compare them.

    Args:
        predictions: Two folders of label maps or of instance maps, or two files.
        ref: Folder of references, or one file.
        out: Folder for the folders of both, and for ``comparison.json``.
        evaluate_one: ``evaluate_folders`` or ``evaluate_instance_folders``, with whatever else they shall be
            told; called with predictions, references and a folder.
        names: Of the two, in their order; by default those of their folders.
        resample_prediction: As ``evaluate_one`` is told.

    Raises:
        MedsegError: As ``evaluate_one``; before any work starts, if either prediction does not fit.
        ConfigError: There are not two predictions, or their names do not do.
    """
    both = prediction_names(predictions, names)
    for path, name in zip(predictions, both, strict=True):
        require_own_folder(Path(out) / name, *predictions, ref)
        check_pairs(find_pairs(path, ref).pairs, resample_prediction=resample_prediction)
    with output_folder(out) as folder:
        first, second = (
            evaluate_one(path, ref, folder / name) for path, name in zip(predictions, both, strict=True)
        )
        ours, theirs = (tuple(found.table.cases()) for found in (first, second))
        cases = tuple(case for case in ours if case in set(theirs))
        comparison = Comparison(
            names=both,
            evaluations=(first, second),
            cases=cases,
            left_out=(
                tuple(case for case in ours if case not in set(theirs)),
                tuple(case for case in theirs if case not in set(ours)),
            ),
            compared=compare_measures(measures_of(first), measures_of(second), cases),
        )
        write_json(comparison.summary(), folder / COMPARISON_JSON)
    return comparison


def measures_of(evaluation: Evaluated) -> tuple[Measure, ...]:
    """What is compared: Dice, and surfaces if measured, by class and over classes; or instances.

    Distances are taken with their bounds, so that a structure that one of the two missed counts.
    """
    table = evaluation.table
    if isinstance(table, InstanceTable):
        found = table.measures()
        return tuple(Measure("objects", name, found[name]) for name in _COMPARED_OF_INSTANCES if found)
    measures = []
    for metric in _COMPARED[:1] if table.options.surface is None else _COMPARED:
        column = table.options.column(metric)
        for entry in table.labels.foreground:
            numbers = {score.case: getattr(score, metric) for score in table.of_label(entry.value)}
            measures.append(Measure(entry.name, column, numbers))
        if len(table.labels.foreground) > 1:
            measures.append(Measure(OVER_CLASSES, column, table.case_means(metric)))
    return tuple(measures)


def compare_measures(
    first: Sequence[Measure], second: Sequence[Measure], cases: Sequence[str]
) -> tuple[Compared, ...]:
    """Compare two predictions measure by measure.

    Args:
        first: Of one prediction.
        second: Of the other. A measure that only one of them has compares no case.
        cases: Those that both were scored on.

    Returns:
        One for each measure of either, in the order of the first.
    """
    ours = {(measure.of, measure.metric): measure.by_case for measure in first}
    theirs = {(measure.of, measure.metric): measure.by_case for measure in second}
    raw = []
    for key in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(key, {}), theirs.get(key, {})
        both = [
            case
            for case in cases
            if not math.isnan(one.get(case, math.nan)) and not math.isnan(other.get(case, math.nan))
        ]
        numbers = [one[case] for case in both], [other[case] for case in both]
        raw.append((key, numbers, compare_paired(*numbers)))
    corrected = holm([test.p_value for _, _, test in raw])
    return tuple(
        Compared(*key, _mean(numbers[0]), _mean(numbers[1]), len(cases) - test.n, test, p_holm)
        for (key, numbers, test), p_holm in zip(raw, corrected, strict=True)
    )


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _failures(evaluation: Evaluated) -> dict[str, Any]:
    """What went wrong altogether in one prediction, in the summary's own words."""
    summary = evaluation.summary
    if isinstance(evaluation.table, InstanceTable):
        return {key: summary[key] for key in _FAILURES}
    return {entry["name"]: {key: entry[key] for key in _FAILURES} for entry in summary["classes"]}
