"""What several trainings of one kind reached: mean, standard deviation, extremes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg.data import Split
from medseg.files import read_json, write_json
from medseg.runs import FoldFolder, RunFolder

__all__ = [
    "MEAN",
    "Spread",
    "as_json",
    "fold_dice",
    "spread_of",
    "spreads",
    "summarise_folds",
    "write_cross_validation",
]

MEAN = "mean_dice"
"""The name under which the mean over structures stands beside them."""


@dataclass(frozen=True)
class Spread:
    """How much a number varies.

    Attributes:
        values: One per training, ``None`` where there was nothing to score.
        mean: Of those that are there.
        sd: Standard deviation with n - 1; ``None`` of fewer than two.
        lowest: The lowest.
        highest: The highest.
    """

    values: tuple[float | None, ...]
    mean: float | None
    sd: float | None
    lowest: float | None
    highest: float | None


def spread_of(values: Sequence[float | None]) -> Spread:
    """Describe some numbers.

    Example:
        >>> spread_of([1.0, None, 3.0, 5.0])
        Spread(values=(1.0, None, 3.0, 5.0), mean=3.0, sd=2.0, lowest=1.0, highest=5.0)
    """
    known = np.array([value for value in values if value is not None])
    if not known.size:
        return Spread(tuple(values), None, None, None, None)
    sd = float(known.std(ddof=1)) if known.size > 1 else None
    return Spread(tuple(values), float(known.mean()), sd, float(known.min()), float(known.max()))


def fold_dice(fold: FoldFolder) -> dict[str, float | None]:
    """Validation Dice of a finished fold, by structure; their mean under ``"mean_dice"``."""
    finished = read_json(fold.finished_mark)
    return {**finished["dice"], MEAN: finished["mean_dice"]}


def summarise_folds(folds: Sequence[FoldFolder]) -> dict[str, Spread]:
    """Validation Dice over finished folds, by structure; that of their means under ``"mean_dice"``."""
    return spreads([fold_dice(fold) for fold in folds])


def spreads(scores: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """For each name, the spread over trainings."""
    return {name: spread_of([one[name] for one in scores]) for name in scores[0]}


def as_json(summary: Mapping[str, Spread]) -> dict[str, Any]:
    """For a file: structures, and the mean over them."""
    return {name: {**asdict(spread), "values": list(spread.values)} for name, spread in summary.items()}


def write_cross_validation(run: RunFolder) -> None:
    """Write ``cross_validation.json``, if every fold of the run's split is finished and there are several.

    It holds, for each structure and for the mean over structures, the validation Dice of each fold on the
    network's grid, their mean and their standard deviation.
    """
    count = len(Split.load(run.split_path).folds)
    folds = [run.fold(index) for index in range(count)]
    if count > 1 and all(fold.finished for fold in folds):
        content = {"folds": list(range(count)), "dice": as_json(summarise_folds(folds))}
        if not run.cross_validation.is_file() or read_json(run.cross_validation) != content:
            write_json(content, run.cross_validation)
