"""How well a run did on cases that it was not trained on: what goes into metadata and model card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.content import BundleContent
from medseg.errors import InputError
from medseg.files import read_json
from medseg.runs.bundle import BundleFolder

__all__ = ["ClassScore", "Scores", "known_scores", "read_scores"]


@dataclass(frozen=True)
class ClassScore:
    """Dice of one structure.

    Attributes:
        name: The structure.
        mean: Over the cases; ``None`` where there was nothing to score.
        interval: Of the mean, at 95 %, where it is known.
        lowest: Of all cases, where it is known.
    """

    name: str
    mean: float | None
    interval: tuple[float, float] | None = None
    lowest: float | None = None


@dataclass(frozen=True)
class Scores:
    """Dice of all structures.

    Attributes:
        classes: Of each.
        mean: Over the classes.
        cases: How many were scored, where it is known.
        where: What was scored, in a sentence.
    """

    classes: tuple[ClassScore, ...]
    mean: float | None
    cases: int | None
    where: str

    def as_metrics(self) -> dict[str, Any]:
        """For ``eval_metrics`` of the metadata."""
        found: dict[str, Any] = {"what": self.where}
        if self.mean is not None:
            found["mean_dice"] = round(self.mean, 4)
        if self.cases is not None:
            found["cases"] = self.cases
        for score in self.classes:
            if score.mean is not None:
                found[f"dice_{score.name}"] = round(score.mean, 4)
            if score.interval is not None:
                found[f"dice_{score.name}_interval"] = [round(end, 4) for end in score.interval]
        return found


def known_scores(content: BundleContent) -> Scores:
    """What is known without another evaluation.

    Of a run what the folds found in their last validation: means, on the network's grid, without intervals.
    Of a bundle what its metadata say.
    """
    return _of_training(content) if content.earlier is None else _of_metadata(content, content.earlier)


def _of_metadata(content: BundleContent, bundle: BundleFolder) -> Scores:
    found = (bundle.metadata() or {}).get("eval_metrics")
    metrics = found if isinstance(found, dict) else {}

    def number(key: str) -> float | None:
        value = metrics.get(key)
        return float(value) if isinstance(value, int | float) else None

    def interval(key: str) -> tuple[float, float] | None:
        match metrics.get(key):
            case [int() | float() as low, int() | float() as high]:
                return float(low), float(high)
        return None

    names, cases, where = content.plan.labels.names[1:], metrics.get("cases"), metrics.get("what")
    return Scores(
        classes=tuple(
            ClassScore(name, number(f"dice_{name}"), interval(f"dice_{name}_interval")) for name in names
        ),
        mean=number("mean_dice"),
        cases=cases if isinstance(cases, int) else None,
        where=where if isinstance(where, str) else "not stated",
    )


def _of_training(content: BundleContent) -> Scores:
    finished = [found for found in content.finished if isinstance(found.get("dice"), dict)]
    names = content.plan.labels.names[1:]
    classes = tuple(
        ClassScore(name, _mean([found["dice"].get(name) for found in finished])) for name in names
    )
    mean = _mean([found.get("mean_dice") for found in finished])
    if mean is None:
        return Scores(classes, None, None, "not stated: the training did not come to its end")
    validated = "the last validation of the training, on the grid that the network sees"
    folds = "" if len(finished) == 1 else f"; mean of {len(finished)} folds, each on its own cases"
    return Scores(classes, mean, None, validated + folds)


def read_scores(path: str | os.PathLike[str], content: BundleContent) -> Scores:
    """Read what ``medseg evaluate`` wrote.

    Args:
        path: Its folder, or ``summary.json``.
        content: The run.

    Raises:
        InputError: It holds no scores, or those of other structures.
    """
    file = Path(path) / "summary.json" if Path(path).is_dir() else Path(path)
    summary = read_json(file)
    try:
        found = {entry["name"]: entry["dice"] for entry in summary["classes"]}
        classes = tuple(
            ClassScore(
                name,
                found[name]["mean"],
                None if found[name]["interval"] is None else tuple(found[name]["interval"]),
                found[name]["min"],
            )
            for name in content.plan.labels.names[1:]
        )
        mean, cases = summary["mean"]["dice"], int(summary["n_cases"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "does not hold the scores of this run's structures",
            where=file,
            fix="give the --out folder of medseg evaluate",
        ) from error
    return Scores(classes, mean, cases, "label maps on the images' own grids, by medseg evaluate")


def _mean(numbers: list[Any]) -> float | None:
    known = [float(number) for number in numbers if isinstance(number, int | float)]
    return sum(known) / len(known) if known else None
