"""Recipes side by side: the same splits, the same cases, the same scores, each in processes of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.comparison.folder import ComparisonFolder
from medseg.comparison.jobs import Job, Key, folder_of, place_of, run_of, split_of
from medseg.comparison.running import PlannedJob, Runner, Scoring
from medseg.comparison.settings import ComparisonSettings
from medseg.comparison.tables import write_tables
from medseg.data import Dataset, Split, load_dataset, split_dataset
from medseg.errors import ConfigError
from medseg.evaluation import ScoringOptions
from medseg.files import output_folder
from medseg.progress import Progress, SilentProgress
from medseg.runs import MethodRecipe, Recipe, load_any_recipe
from medseg.workers import available_cores

__all__ = ["CompareOptions", "compare"]

AnyRecipe = Recipe | MethodRecipe


@dataclass(frozen=True)
class CompareOptions:
    """How recipes are compared.

    Attributes:
        folds: Of the cross-validation; as the data set or ``make_split`` has it, if left out.
        only_folds: Those that are run; all if left out.
        seeds: Each recipe is fitted with so many.
        first_seed: The others follow it.
        sizes: Training cases of each fold, ``None`` for all: a learning curve.
        split_seed: Of the folds.
        max_minutes: Of each network's training.
        max_cpu_minutes: Likewise.
        max_steps: Likewise.
        device: Of networks.
        jobs: Runs at a time, which share the cores.
        tolerance_mm: Of the normalised surface distance.
        resume: Go on with what ``out`` holds; what is done stays.
    """

    folds: int | None = None
    only_folds: tuple[int, ...] = ()
    seeds: int = 1
    first_seed: int = 0
    sizes: tuple[int | None, ...] = (None,)
    split_seed: int = 0
    max_minutes: float | None = None
    max_cpu_minutes: float | None = None
    max_steps: int | None = None
    device: str = "auto"
    jobs: int = 1
    tolerance_mm: float = 1.0
    resume: bool = False

    def __post_init__(self) -> None:
        for option, value in (("--seeds", self.seeds), ("--jobs", self.jobs)):
            if value < 1:
                raise ConfigError(f"{value} are too few", where=option, fix="use 1 or more")
        if not self.sizes or len(set(self.sizes)) != len(self.sizes):
            raise ConfigError("a training size is given twice", where="--train-sizes", fix="give each once")


def compare(
    data: str | os.PathLike[str],
    recipes: Sequence[str],
    out: str | os.PathLike[str],
    *,
    baseline: str | None = None,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
) -> ComparisonFolder:
    """Fit recipes on the folds of one split, predict the held-out cases, score them, and sum it up.

    Every fit and every prediction is a process of its own, whose time and peak memory are measured. One that
    fails is named and leaves the others alone. Whatever is done is kept: a comparison that was killed goes on
    with ``resume`` where it stopped, within a training at its last checkpoint.

    Args:
        data: What ``load_dataset`` takes; its cases need labels.
        recipes: Names of recipes, or ``.yaml`` files, which are called by their names.
        out: Folder for all results.
        baseline: The recipe that others are tested against; the first if left out.
        options: Folds, seeds, sizes, budget.
        progress: Shows how far it is.

    Returns:
        The results, whose tables are written.

    Raises:
        InputError: The data set cannot be read, or ``out`` holds a comparison and ``resume`` is off.
        ConfigError: A recipe does not exist or cannot be compared, a fold or a size does not, or what ``out``
            holds was asked for otherwise.
        ResourceError: ``out`` cannot be written.
    """
    options = options or CompareOptions()
    progress = progress or SilentProgress()
    dataset = load_dataset(data)
    found = _load_recipes(recipes)
    chosen = next(iter(found)) if baseline is None else baseline
    if chosen not in found:
        raise ConfigError(
            f"'{chosen}' is not among the recipes", where="--baseline", fix=f"choose of {', '.join(found)}"
        )
    split = split_dataset(dataset, options.folds, options.split_seed)
    settings = _settings_of(dataset, split, tuple(found), chosen, options)
    keys = [
        Key(recipe, size, seed, fold)
        for size in settings.sizes
        for seed in settings.seeds
        for recipe in found
        for fold in settings.folds
    ]
    splits = {key: split_of(key, split) for key in keys}  # refuses sizes that are too large
    with output_folder(out) as path:
        folder = ComparisonFolder(path.absolute())
        settings = folder.begin(settings, split, found, resume=options.resume)
        scoring = Scoring(
            {case.id: case for case in dataset.cases},
            dataset.labels,
            ScoringOptions(tolerance_mm=options.tolerance_mm),
        )
    chains: dict[Path, list[PlannedJob]] = {}
    for key in keys:
        planned = _planned(key, splits[key], split.validation(key.fold), settings, folder, options)
        chains.setdefault(place_of(key, settings.seeds), []).append(planned)
    Runner(scoring, settings.threads, progress).run(list(chains.values()), options.jobs)
    write_tables(folder)
    return folder


def _load_recipes(recipes: Sequence[str]) -> dict[str, AnyRecipe]:
    found: dict[str, AnyRecipe] = {}
    for text in recipes:
        name, recipe = Path(text).name.removesuffix(".yaml").removesuffix(".yml"), load_any_recipe(text)
        if name in found:
            raise ConfigError(f"recipe '{name}' is given twice", where="--recipes", fix="rename one of them")
        if isinstance(recipe, Recipe) and recipe.pretrain is not None:
            raise ConfigError("segments nothing, it is a pretraining", where=text, fix="leave it out")
        if recipe.postprocess.is_open:
            raise ConfigError(
                "chooses its postprocessing on the held-out cases, which are to judge it",
                where=text,
                fix="say what shall be done to label maps, or nothing",
            )
        # The split of the comparison takes the place of the recipe's own.
        found[name] = recipe.model_copy(update={"folds": None})
    if not found:
        raise ConfigError("no recipe is given", where="--recipes", fix="name at least one")
    return found


def _settings_of(
    dataset: Dataset, split: Split, recipes: tuple[str, ...], baseline: str, options: CompareOptions
) -> ComparisonSettings:
    folds = options.only_folds or tuple(range(len(split.folds)))
    for fold in folds:
        split.validation(fold)  # refuses a fold that does not exist
    return ComparisonSettings(
        data=str(dataset.source.resolve()),
        dataset=dataset.name,
        recipes=recipes,
        sizes=options.sizes,
        folds=tuple(sorted(set(folds))),
        seeds=tuple(range(options.first_seed, options.first_seed + options.seeds)),
        baseline=baseline,
        max_minutes=options.max_minutes,
        max_cpu_minutes=options.max_cpu_minutes,
        max_steps=options.max_steps,
        device=options.device,
        threads=_threads(options.jobs),
        tolerance_mm=options.tolerance_mm,
    )


def _threads(jobs: int) -> int:
    """What the environment says, or each job's share of the cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else max(1, available_cores() // jobs)


def _planned(
    key: Key,
    split: Split,
    held_out: tuple[str, ...],
    settings: ComparisonSettings,
    folder: ComparisonFolder,
    options: CompareOptions,
) -> PlannedJob:
    job = Job(
        data=settings.data,
        recipe=str(folder.recipe_path(key.recipe)),
        run=str(run_of(key, settings.seeds, folder.path)),
        folds=split.folds,
        training_only=split.training_only,
        fold=key.fold if key.size is None else 0,
        held_out=held_out,
        seed=key.seed,
        max_minutes=settings.max_minutes,
        max_cpu_minutes=settings.max_cpu_minutes,
        max_steps=settings.max_steps,
        device=settings.device,
        processes=max(1, available_cores() // options.jobs),
    )
    return PlannedJob(key, job, folder_of(key, settings.seeds, folder.path))
