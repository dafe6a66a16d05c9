"""The same training with several seeds: how much of a result is chance?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.data import Dataset
from medseg.errors import ConfigError, InputError
from medseg.files import write_json
from medseg.progress import Progress
from medseg.runs import Recipe, RunFolder
from medseg.training.options import TrainingOptions
from medseg.training.spread import Spread, as_json, spreads, summarise_folds
from medseg.training.train import train

__all__ = ["SeedRuns", "train_seeds"]


@dataclass(frozen=True)
class SeedRuns:
    """Trainings that differ in their seed alone.

    Attributes:
        runs: For each seed its run.
        dice: Over the seeds, for each structure and for ``"mean_dice"``; the value of a seed is the mean over
            its folds.
    """

    runs: dict[int, RunFolder]
    dice: dict[str, Spread]


def train_seeds(
    dataset: Dataset,
    recipe: Recipe,
    out: str | os.PathLike[str],
    count: int,
    *,
    folds: Sequence[int] | None = None,
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
) -> SeedRuns:
    """Train with ``count`` seeds, from that of the options on; each is a run of its own, ``OUT/seed_S``.

    Resumed, finished runs are left as they are. ``OUT/seeds.json`` holds the spread, written at the end.

    Args:
        dataset: Labelled cases.
        recipe: What to train.
        out: The folder of the runs.
        count: How many seeds, 2 at least.
        folds: As of ``train``.
        options: As of ``train``; the budget is that of each fold of each seed.
        progress: Shows how far it has come.

    Raises:
        ConfigError: Fewer than two seeds, one above 32 bits, or a pretraining, which has no Dice.
        InputError: A run is there already, and ``resume`` is off.
        MedsegError: As ``train``.
    """
    options = options or TrainingOptions()
    if count < 2:
        raise ConfigError(f"{count} seeds have no spread", where="--seeds", fix="use 2 or more")
    if recipe.pretrain is not None:
        raise ConfigError("a pretraining has no Dice to compare", where="--seeds", fix="leave it out")
    each = [replace(options, seed=options.seed + number) for number in range(count)]  # refuses large ones
    runs = {one.seed: RunFolder(Path(out) / f"seed_{one.seed}") for one in each}
    occupied = [run.path for run in runs.values() if run.path.exists()]
    if occupied and not options.resume:
        raise InputError("is there already", where=occupied[0], fix="add --resume, or choose another --out")
    for one in each:
        if progress is not None:
            progress.note(f"Seed {one.seed}")
        train(dataset, recipe, runs[one.seed].path, folds=folds, options=one, progress=progress)
    scores = []
    for run in runs.values():
        chosen = run.folds() if folds is None else [run.fold(index) for index in folds]
        scores.append({name: found.mean for name, found in summarise_folds(chosen).items()})
    summary = spreads(scores)
    write_json({"seeds": list(runs), "dice": as_json(summary)}, Path(out) / "seeds.json")
    return SeedRuns(runs, summary)
