"""Methods that are not networks: from labelled cases to a run folder that holds all that repeats it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from medseg.data import Dataset, Split, split_dataset
from medseg.data.layouts import case_files
from medseg.errors import ConfigError, InputError
from medseg.files import output_folder, remove_partial_files, sha256_of, write_json
from medseg.fitting.options import FitOptions
from medseg.io import Case
from medseg.progress import Progress, SilentProgress
from medseg.runs import FoldFolder, MethodRecipe, RunFolder, Task, software_versions, utc_now
from medseg.runs.part import Part
from medseg.segmenters.methods import Running, method_of, options_of

__all__ = ["fit_method"]

_UNFINISHED = ".unfinished"


def fit_method(
    dataset: Dataset,
    recipe: MethodRecipe,
    out: str | os.PathLike[str],
    *,
    folds: Sequence[int] | None = None,
    options: FitOptions | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Fit a method on the training cases of one fold of a cross-validation, or of several.

    A fold's model is there as a whole or not at all; ``resume`` fits the folds that are not.

    Args:
        dataset: Labelled cases.
        recipe: The method and its options.
        out: The run's folder.
        folds: Which folds; all of them if left out, as an ensemble in one run.
        options: Seed and processes.
        progress: Shows how far it has come.

    Returns:
        The run.

    Raises:
        InputError: A case cannot be learnt from, or ``out`` holds a run already and ``resume`` is off.
        GeometryError: A label lies on another grid than its image.
        ConfigError: The options do not suit the method or the data, there is no such fold, or the run that is
            there differs.
        ResourceError: ``out`` cannot be written.
    """
    options = options or FitOptions()
    progress = progress or SilentProgress()
    chosen = options_of(recipe)
    split = split_dataset(dataset, recipe.folds, recipe.split_seed)
    indices = range(len(split.folds)) if folds is None else folds
    for index in indices:
        split.validation(index)  # refuses a fold that does not exist
    run = RunFolder(Path(out))
    occupied = [index for index in indices if run.fold(index).path.exists()]
    if occupied and not options.resume:
        raise InputError(
            f"holds fold {occupied[0]} of a run already",
            where=run.path,
            fix="add --resume, or choose another --out",
        )
    task = Task(dataset=dataset.name, channel_names=dataset.channel_names, labels=dataset.labels)
    with output_folder(run.path):
        _begin(run, recipe, task, split, dataset, options)
        cases = {case.id: case for case in dataset.cases}
        for index in indices:
            fold = run.fold(index)
            if not fold.finished:
                training = [cases[name] for name in split.training(index)]
                _fit_fold(fold, training, task, recipe, chosen, options, progress)
    return run


def _begin(
    run: RunFolder, recipe: MethodRecipe, task: Task, split: Split, dataset: Dataset, options: FitOptions
) -> None:
    """Write the run's documents, or prove that those there are the same."""
    cases = [case for case in dataset.cases if case.id in split.case_ids]
    facts: dict[str, Any] = {
        "data": str(dataset.source.resolve()),
        "seed": options.seed,
        "inputs_sha256": {case.id: _hashes(case) for case in cases},
    }
    if not run.manifest_path.is_file():
        run.save_recipe(recipe)
        split.save(run.split_path)
        run.save_task(task)
        write_json({**facts, "started": utc_now(), "versions": software_versions()}, run.manifest_path)
        return
    before = run.manifest()
    differing = [key for key in facts if before.get(key) != facts[key]]
    differing += [] if run.is_method else ["kind of method"]
    if run.is_method:
        differing += ["recipe"] * (run.method_recipe() != recipe) + ["task"] * (run.task() != task)
    differing += ["split"] * (Split.load(run.split_path) != split)
    if differing:
        raise ConfigError(
            f"holds a run with another {', '.join(differing)}",
            where=run.path,
            fix="repeat the options and data that it was started with, or choose another --out",
        )


def _hashes(case: Case) -> list[str]:
    return [sha256_of(path) for path in case_files(case)]


def _fit_fold(
    fold: FoldFolder,
    cases: Sequence[Case],
    task: Task,
    recipe: MethodRecipe,
    chosen: Part,
    options: FitOptions,
    progress: Progress,
) -> None:
    fold.path.mkdir(exist_ok=True)
    remove_partial_files(fold.path)
    unfinished = fold.path / _UNFINISHED
    for left in (unfinished, fold.model):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir()
    started, cpu_before = time.monotonic(), _cpu_seconds()
    try:
        method_of(recipe).fit(
            cases,
            task,
            chosen,
            unfinished,
            seed=options.seed,
            running=Running(jobs=options.jobs),
            progress=progress,
        )
        unfinished.rename(fold.model)
    except BaseException:
        shutil.rmtree(fold.path, ignore_errors=True)
        raise
    seconds, cpu_seconds = time.monotonic() - started, _cpu_seconds() - cpu_before
    write_json(
        {
            "finished": utc_now(),
            "cases": len(cases),
            "minutes": round(seconds / 60, 3),
            "cpu_minutes": round(cpu_seconds / 60, 3),
        },
        fold.finished_mark,
    )


def _cpu_seconds() -> float:
    """Of this process and those of its children that have ended."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
