"""Before the first step: check, plan, write the run's documents or prove those there, preprocess."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from medseg.data import Dataset, Split, split_dataset
from medseg.errors import ConfigError, InputError
from medseg.files import output_folder, sha256_of, write_json
from medseg.pictures import can_draw
from medseg.progress import Progress
from medseg.runs import Plan, Recipe, RunFolder, software_versions, utc_now
from medseg.segmenters.bundles.opening import told_path
from medseg.training.border_weights import border_weights_of
from medseg.training.budget import Budget
from medseg.training.cache import CachedCase, prepare_cases
from medseg.training.distributed import Processes, require_divisible
from medseg.training.options import TrainingOptions
from medseg.training.parts import require_fitting_parts
from medseg.training.planning import plan_from_dataset
from medseg.training.starts import Start, starts_of, write_reports

__all__ = ["Ready", "prepare"]


@dataclass(frozen=True)
class Ready:
    """What a training needs to begin, once it is proven and written down.

    Attributes:
        plan: The run's.
        split: The run's.
        unfinished: The folds to train.
        starts: For each of them the weights that it starts from, if there are any.
        cases: The preprocessed cases by id.
    """

    plan: Plan
    split: Split
    unfinished: tuple[int, ...]
    starts: dict[int, Start]
    cases: dict[str, CachedCase]


def prepare(
    dataset: Dataset,
    recipe: Recipe,
    run: RunFolder,
    folds: Sequence[int] | None,
    budget: Budget,
    options: TrainingOptions,
    processes: Processes,
    progress: Progress,
) -> Ready:
    """Check, plan, write the run's documents and preprocess."""
    require_divisible(recipe, processes)
    if recipe.pretrain is not None:
        dataset = dataset.without_labels()
    split = split_dataset(dataset, recipe.folds, recipe.split_seed)
    if split.leaves_one_out:
        count = len(split.folds)
        progress.note(f"{count} cases: leave-one-out, {count} folds that each validate on one case")
    chosen = range(len(split.folds)) if folds is None else folds
    for fold in chosen:
        split.validation(fold)  # refuses a fold that does not exist
    _refuse_occupied(run, chosen, options.resume)
    created = not run.path.exists()
    with output_folder(run.path):
        plan = plan_from_dataset(dataset, recipe, progress)
        require_fitting_parts(plan, recipe)
        unfinished = tuple(fold for fold in chosen if not run.fold(fold).finished)
        starts = starts_of(recipe, plan, unfinished)
        facts = _what_repeats_it(dataset, budget, options, processes)
        _begin(run, recipe, plan, split, facts)
    try:
        _record_starts(run, starts, progress)
        cases = _cases(run, dataset, plan, recipe, progress) if unfinished else {}
    except Exception:  # but who interrupts it can go on with what is done
        if created:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    if unfinished and not can_draw():
        progress.note("No curves are drawn: matplotlib is missing (pip install 'medseg[report]')")
    return Ready(plan, split, unfinished, starts, cases)


def _refuse_occupied(run: RunFolder, folds: Sequence[int], resume: bool) -> None:
    occupied = [fold for fold in folds if run.fold(fold).path.exists()]
    if occupied and not resume:
        raise InputError(
            f"holds fold {occupied[0]} of a run already",
            where=run.path,
            fix="add --resume, or choose another --out",
        )


def _what_repeats_it(
    dataset: Dataset, budget: Budget, options: TrainingOptions, processes: Processes
) -> dict[str, Any]:
    return {
        "data": str(dataset.source.resolve()),
        "seed": options.seed,
        "budget": asdict(budget),
        "deterministic": options.deterministic,
        "processes": processes.count,
    }


def _begin(run: RunFolder, recipe: Recipe, plan: Plan, split: Split, facts: dict[str, Any]) -> None:
    """Write the run's documents, or prove that those there are the same."""
    if run.manifest_path.is_file():
        before = run.manifest()
        differing = [key for key in facts if before.get(key) != facts[key]]
        differing += ["recipe"] * (run.recipe() != recipe) + ["plan"] * (run.plan() != plan)
        differing += ["split"] * (Split.load(run.split_path) != split)
        _refuse_differing(run, differing)
        return
    run.save_recipe(recipe)
    run.save_plan(plan)
    split.save(run.split_path)
    manifest = {
        **facts,
        "started": utc_now(),
        "versions": software_versions(),
        "threads": torch.get_num_threads(),
    }
    write_json(manifest, run.manifest_path)


def _record_starts(run: RunFolder, starts: dict[int, Start], progress: Progress) -> None:
    """Note which weights each fold starts from, or prove that they are those that it started from."""
    if not starts:
        return
    manifest = run.manifest()
    for fold, start in starts.items():
        facts = {"weights": told_path(start.weights), "sha256": sha256_of(start.weights)}
        before = manifest.setdefault(start.key, {}).setdefault(run.fold(fold).path.name, facts)
        _refuse_differing(run, [start.key] if before["sha256"] != facts["sha256"] else [])
    write_json(manifest, run.manifest_path)
    write_reports(run, starts)
    for summary in dict.fromkeys(start.summary for start in starts.values()):
        if summary is not None:
            progress.note(summary)


def _cases(
    run: RunFolder, dataset: Dataset, plan: Plan, recipe: Recipe, progress: Progress
) -> dict[str, CachedCase]:
    """The preprocessed cases by id, whose files are proven to be those that the run was started with."""
    weights = border_weights_of(recipe, plan)
    prepared = prepare_cases(dataset.cases, plan, run.cache, progress, weights)
    cases = {case.id: case for case in prepared}
    manifest = run.manifest()
    hashes = {name: case.input_hashes for name, case in sorted(cases.items())}
    before = manifest.setdefault("inputs_sha256", hashes)
    changed = [name for name in hashes if before.get(name) != hashes[name]]
    _refuse_differing(run, [f"version of case {changed[0]}"] if changed else [])
    write_json(manifest, run.manifest_path)
    return cases


def _refuse_differing(run: RunFolder, differing: Sequence[str]) -> None:
    if differing:
        raise ConfigError(
            f"holds a run with another {', '.join(differing)}",
            where=run.path,
            fix="repeat the options and data that it was started with, or choose another --out",
        )
