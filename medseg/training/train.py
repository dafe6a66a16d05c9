"""Training: from a data set and a recipe to a run folder that holds all that repeats it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from medseg.data import Dataset
from medseg.geometry import Grid
from medseg.inference import Compute, choose_compute
from medseg.io import read_header
from medseg.progress import Progress, SilentProgress
from medseg.runs import Plan, Recipe, RunFolder
from medseg.training.budget import Budget
from medseg.training.distributed import Processes, join_processes
from medseg.training.fold import FoldTraining
from medseg.training.options import TrainingOptions
from medseg.training.postprocess_choice import choose_postprocessing
from medseg.training.preparation import prepare
from medseg.training.spread import write_cross_validation
from medseg.training.width import fit_width

__all__ = ["train"]


def train(
    dataset: Dataset,
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    folds: Sequence[int] | None = None,
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Train one fold or several of a cross-validation: a segmentation, or with ``pretrain`` an autoencoder.

    All input is read and checked, and the plan made, before anything is written to ``out``. Weights that the
    recipe starts from are read before the first step; the finished run needs them no more.

    Started by torchrun or srun in several processes, they train the same networks together, each on a part of
    every batch; the first of them plans, preprocesses and writes.

    Args:
        dataset: Labelled cases; of a pretraining, labels are not looked at.
        recipe: What to train.
        out: The run's folder.
        folds: Which folds; all of them if left out, as an ensemble in one run.
        options: Budget, seed, device.
        progress: Shows how far it has come.

    Returns:
        The run.

    Raises:
        InputError: A case cannot be trained on, or ``out`` holds a run already and ``resume`` is off.
        GeometryError: A label lies on another grid than its image.
        ConfigError: The recipe does not suit the data, there is no such fold, or a resumed run differs.
        ResourceError: ``out`` cannot be written, the device is not there, or another process has ended.
    """
    options = options or TrainingOptions()
    progress = progress or SilentProgress()
    budget = options.budget or Budget(max_steps=recipe.training.max_steps)
    compute = choose_compute(options.device, recipe.training.precision)
    run = RunFolder(Path(out))
    begun = run.recipe() if run.manifest_path.is_file() and not run.is_method else None
    recipe = fit_width(recipe, budget, compute.device.type, torch.get_num_threads(), begun)
    with join_processes(compute.device.type) as processes:
        compute = processes.require_device(compute)
        workers = _workers(compute, processes) if options.workers is None else options.workers
        ready = processes.by_first(
            lambda: prepare(dataset, recipe, run, folds, budget, options, processes, progress)
        )
        network_grid = _network_grids(dataset, ready.plan)
        for fold in ready.unfinished:
            FoldTraining(
                run=run,
                index=fold,
                plan=ready.plan,
                recipe=recipe,
                budget=budget,
                seed=options.seed,
                compute=compute,
                workers=workers,
                progress=progress,
                start=ready.starts.get(fold),
                deterministic=options.deterministic,
                processes=processes,
                network_grid=network_grid,
            ).train(
                [ready.cases[name] for name in ready.split.training(fold)],
                [ready.cases[name] for name in ready.split.validation(fold)],
            )
        # Another training may be at work on another fold.
        if processes.first and all(fold.finished for fold in run.folds()):
            shutil.rmtree(run.cache, ignore_errors=True)
    if processes.first and recipe.pretrain is None:
        _conclude(run, dataset, recipe, options.device, progress)
    return run


def _conclude(run: RunFolder, dataset: Dataset, recipe: Recipe, device: str, progress: Progress) -> None:
    """What rests on all folds that are finished, done anew when there are more of them."""
    write_cross_validation(run)
    finished = tuple(fold.index for fold in run.folds() if fold.finished)
    before = run.chosen_postprocess()
    if recipe.postprocess.is_open and finished and (before is None or before.folds != finished):
        choose_postprocessing(run, dataset, device=device, progress=progress)


def _network_grids(dataset: Dataset, plan: Plan) -> Callable[[str], Grid]:
    """Gives the grid on which the network sees a case, by its id."""
    images = {case.id: case.images[0] for case in dataset.cases}
    return lambda case: plan.preprocessing.network_grid(read_header(images[case]).grid)


def _workers(compute: Compute, processes: Processes) -> int:
    """One process keeps a CPU's training in patches; a GPU eats those of several."""
    if compute.device.type == "cpu":
        return 1
    return max(1, min(8, (os.cpu_count() or 1) // processes.per_machine))
