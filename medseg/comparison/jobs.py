"""What a comparison consists of: one job for each recipe, training size, seed and fold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.data import Split
from medseg.errors import ConfigError
from medseg.runs.part import Part

__all__ = ["Job", "JobFolder", "Key", "folder_of", "place_of", "run_of", "split_of", "training_subset"]


@dataclass(frozen=True)
class Key:
    """Names a job.

    Attributes:
        recipe: The recipe's name.
        size: How many cases train; ``None`` for all that the fold has.
        seed: Of whatever is drawn, the training cases among it.
        fold: The fold that is held out.
    """

    recipe: str
    size: int | None
    seed: int
    fold: int

    def __str__(self) -> str:
        size = "" if self.size is None else f", {self.size} cases"
        return f"{self.recipe}{size}, seed {self.seed}, fold {self.fold}"


class Job(Part):
    """All that a process must know to fit and to predict; ``job.json``.

    Attributes:
        schema_version: Version of the document's form.
        data: What ``load_dataset`` takes.
        recipe: The recipe's file.
        run: The run's folder.
        folds: Of the run's split.
        training_only: Of the run's split.
        fold: Of the run, which is fitted.
        held_out: The cases to predict, which never train.
        seed: Of the fit.
        max_minutes: Of a network's training.
        max_cpu_minutes: Likewise.
        max_steps: Likewise.
        device: Of networks.
        processes: That a method other than a network may use.
    """

    schema_version: Literal[1] = 1
    data: str
    recipe: str
    run: str
    folds: tuple[tuple[str, ...], ...]
    training_only: tuple[str, ...] = ()
    fold: int
    held_out: tuple[str, ...]
    seed: int
    max_minutes: float | None = None
    max_cpu_minutes: float | None = None
    max_steps: int | None = None
    device: str = "auto"
    processes: int = 1

    @property
    def split(self) -> Split:
        """The run's split."""
        return Split(seed=None, folds=self.folds, training_only=self.training_only)


@dataclass(frozen=True)
class JobFolder:
    """Where a job's results lie."""

    path: Path

    @property
    def job(self) -> Path:
        """What is to be done."""
        return self.path / "job.json"

    @property
    def fit(self) -> Path:
        """How long the fit took, and what memory; there once it is finished."""
        return self.path / "fit.json"

    @property
    def cases(self) -> Path:
        """One line for each case that was predicted, as soon as it is."""
        return self.path / "cases.jsonl"

    @property
    def predict(self) -> Path:
        """What predicting took; there once all cases are done."""
        return self.path / "predict.json"

    @property
    def predictions(self) -> Path:
        """The label maps."""
        return self.path / "predictions"

    @property
    def failed(self) -> Path:
        """Why the job failed; there if the last try did."""
        return self.path / "failed.json"

    def log(self, phase: str) -> Path:
        """What the process said."""
        return self.path / f"{phase}.log"


def training_subset(case_ids: Iterable[str], size: int, seed: int) -> tuple[str, ...]:
    """Some of the cases, such that smaller subsets of a seed lie within the larger ones.

    Cases are ordered by the SHA-256 of ``"training subset {seed}:{case id}"`` (UTF-8); the first ones are
    taken.

    Args:
        case_ids: All that may train.
        size: How many of them.
        seed: Another seed gives other subsets.

    Returns:
        Their ids, sorted.

    Raises:
        ConfigError: There are not so many.

    Example:
        >>> training_subset("abcdef", 2, seed=0), training_subset("abcdef", 3, seed=0)
        (('d', 'f'), ('d', 'e', 'f'))
    """
    ids = list(case_ids)
    if not 1 <= size <= len(ids):
        raise ConfigError(
            f"{size} training cases cannot be taken of {len(ids)}",
            where="--train-sizes",
            fix=f"use 1 to {len(ids)}, or 'all'",
        )

    def rank(case_id: str) -> bytes:
        text = f"training subset {seed}:{case_id}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).digest()

    return tuple(sorted(sorted(ids, key=rank)[:size]))


def place_of(key: Key, seeds: Sequence[int]) -> Path:
    """Where a recipe's results lie, below ``runs`` and ``results``."""
    size = () if key.size is None else (f"size_{key.size}",)
    seed = () if len(seeds) == 1 else (f"seed_{key.seed}",)
    return Path(key.recipe, *size, *seed)


def folder_of(key: Key, seeds: Sequence[int], out: Path) -> JobFolder:
    """Where a job's results lie."""
    return JobFolder(out / "results" / place_of(key, seeds) / f"fold_{key.fold}")


def run_of(key: Key, seeds: Sequence[int], out: Path) -> Path:
    """The run's folder. All folds share one, unless each has a training subset of its own."""
    run = out / "runs" / place_of(key, seeds)
    return run if key.size is None else run / f"held_out_{key.fold}"


def split_of(key: Key, split: Split) -> Split:
    """The split of a job's run."""
    if key.size is None:
        return split
    training = training_subset(split.training(key.fold), key.size, key.seed)
    return Split(seed=None, folds=(split.validation(key.fold),), training_only=training)
