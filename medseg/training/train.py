"""Training: from a data set and a recipe to a run folder that holds all that repeats it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from medseg.data import Dataset, Split, split_dataset
from medseg.errors import ConfigError, InputError
from medseg.files import output_folder, remove_partial_files, sha256_of, write_json
from medseg.geometry import Grid
from medseg.inference import Compute, choose_compute
from medseg.io import read_header
from medseg.networks import build_network
from medseg.pictures import can_draw
from medseg.progress import Progress, SilentProgress
from medseg.runs import FoldFolder, Plan, Recipe, RunFolder, software_versions
from medseg.training.averaging import has_batch_norm
from medseg.training.border_weights import border_weights_of
from medseg.training.budget import Budget
from medseg.training.cache import CachedCase, prepare_cases
from medseg.training.distributed import Processes, join_processes, require_divisible, spread
from medseg.training.memory import checkpoint_activations
from medseg.training.module import SegmentationModule, TrainingModule
from medseg.training.parts import build_loss, require_fitting_parts
from medseg.training.patches import PatchDataset, WholeCases, patch_loader
from medseg.training.planning import plan_from_dataset
from medseg.training.postprocess_choice import choose_postprocessing
from medseg.training.precision import avoid_faulty_gradients
from medseg.training.pretraining import PretrainingModule, build_autoencoder
from medseg.training.spread import write_cross_validation
from medseg.training.starts import Start, starts_of, write_reports
from medseg.training.watching import (
    Checkpoints,
    Curves,
    LiveView,
    StepLog,
    StopInTime,
    ValidationLog,
    WorstCasePicture,
    load_resume_state,
    save_weights,
)
from medseg.training.width import fit_width

__all__ = ["TrainingOptions", "train"]


@dataclass(frozen=True)
class TrainingOptions:
    """What may differ between two trainings of one recipe on one data set.

    Attributes:
        budget: When it ends; the recipe's ``max_steps`` if left out.
        seed: Of initialisation, patches and augmentation.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        workers: Processes that prepare patches; ``None`` chooses. Their number changes nothing, but 0, which
            prepares patches in this process: with its several threads some sums round otherwise.
        resume: Go on from the last checkpoint; a fold that is finished is left as it is.
        deterministic: Let PyTorch use algorithms alone that give the same bits each time, on a GPU too, and
            refuse what has none. Needs a budget of steps: the clock never runs twice alike.

    Raises:
        ConfigError: A seed below 0 or above 32 bits, a negative number of processes, or ``deterministic``
            with a budget of minutes.
    """

    budget: Budget | None = None
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    resume: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.deterministic and self.budget is not None and self.budget.follows_the_clock:
            raise ConfigError(
                "minutes are never the same twice, and the learning rate follows them",
                where="--deterministic",
                fix="end the training by --max-steps alone",
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"{self.seed} is no seed", where="--seed", fix="use 0 to 4294967295")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(
                f"{self.workers} processes are none", where="--workers", fix="use 0 (none beside) or more"
            )


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
    recipe = fit_width(recipe, budget, compute.device.type, torch.get_num_threads())
    with join_processes(compute.device.type) as processes:
        compute = processes.require_device(compute)
        workers = _workers(compute, processes) if options.workers is None else options.workers
        ready = processes.by_first(
            lambda: _prepare(dataset, recipe, run, folds, budget, options, processes, progress)
        )
        network_grid = _network_grids(dataset, ready.plan)
        for fold in ready.unfinished:
            start = ready.starts.get(fold)
            _Fold(
                run,
                fold,
                ready.plan,
                recipe,
                budget,
                options.seed,
                compute,
                workers,
                progress,
                start,
                options.deterministic,
                processes,
                network_grid,
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


@dataclass(frozen=True)
class _Ready:
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


def _prepare(
    dataset: Dataset,
    recipe: Recipe,
    run: RunFolder,
    folds: Sequence[int] | None,
    budget: Budget,
    options: TrainingOptions,
    processes: Processes,
    progress: Progress,
) -> _Ready:
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
        cases = _prepared(run, dataset, plan, recipe, progress) if unfinished else {}
    except Exception:  # but who interrupts it can go on with what is done
        if created:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    if unfinished and not can_draw():
        progress.note("No curves are drawn: matplotlib is missing (pip install 'medseg[report]')")
    return _Ready(plan, split, unfinished, starts, cases)


def _conclude(run: RunFolder, dataset: Dataset, recipe: Recipe, device: str, progress: Progress) -> None:
    """What rests on all folds that are finished, done anew when there are more of them."""
    write_cross_validation(run)
    finished = tuple(fold.index for fold in run.folds() if fold.finished)
    before = run.chosen_postprocess()
    if recipe.postprocess.is_open and finished and (before is None or before.folds != finished):
        choose_postprocessing(run, dataset, device=device, progress=progress)


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
        "started": _now(),
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
        facts = {"weights": str(start.weights.resolve()), "sha256": sha256_of(start.weights)}
        before = manifest.setdefault(start.key, {}).setdefault(run.fold(fold).path.name, facts)
        _refuse_differing(run, [start.key] if before["sha256"] != facts["sha256"] else [])
    write_json(manifest, run.manifest_path)
    write_reports(run, starts)
    for summary in dict.fromkeys(start.summary for start in starts.values()):
        if summary is not None:
            progress.note(summary)


def _prepared(
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


@dataclass(frozen=True)
class _Fold:
    """One fold's training."""

    run: RunFolder
    index: int
    plan: Plan
    recipe: Recipe
    budget: Budget
    seed: int
    compute: Compute
    workers: int
    progress: Progress
    start: Start | None
    deterministic: bool
    processes: Processes
    network_grid: Callable[[str], Grid]

    def train(self, training: Sequence[CachedCase], validation: Sequence[CachedCase]) -> None:
        """Train to the end of the budget, from the last checkpoint if there is one."""
        folder = self.run.fold(self.index)
        goes_on = self.processes.by_first(lambda: _entered(folder))
        module = self._module()
        before = spread(module, self.processes, self.compute, len(validation))
        checkpoint_every = self.recipe.training.checkpoint_every
        patches = PatchDataset(training, self.plan, self.recipe, self.seed)
        share = self.processes.share_of(len(validation))
        validation_loader = DataLoader(WholeCases([validation[case] for case in share]), batch_size=1)
        if goes_on:
            module.restore(load_resume_state(folder.resume_state))
        with _quiet_lightning(), _told_of_signals(), _deterministic(self.deterministic):
            callbacks = [*before, *self._callbacks(folder, validation)]
            trainer = self._trainer(folder, callbacks, epochs_before=module.steps_before // checkpoint_every)
            loader = patch_loader(
                patches,
                self.plan.batch_size,
                checkpoint_every,
                self.workers,
                steps_done=lambda: module.step,
                process=self.processes.number,
                processes=self.processes.count,
                accumulate=self.recipe.training.accumulate,
            )
            module.waited = lambda: loader.waited_seconds
            if module.progress < 1.0:
                trainer.fit(module, loader, validation_loader)
            self._recalibrate(module, patches)
            if module.validated_step != module.step:
                trainer.validate(module, validation_loader, verbose=False)
        if self.processes.first:
            self._finish(folder, module)

    def _finish(self, folder: FoldFolder, module: TrainingModule) -> None:
        save_weights(module, folder.weights("last"))
        write_json(
            {
                "finished": _now(),
                "steps": module.step,
                "minutes": round(module.clock.minutes, 3),
                "cpu_minutes": round(module.clock.cpu_minutes, 3),
                "waited_seconds": round(module.waited_seconds, 2),
                "precision": str(self.compute.dtype).removeprefix("torch."),
                "device": self.compute.device.type,
                **module.results(),
            },
            folder.finished_mark,
        )
        folder.resume_state.unlink(missing_ok=True)

    def _recalibrate(self, module: TrainingModule, patches: PatchDataset) -> None:
        """Measure batch norms on the patches that would come next; what was validated before is void."""
        count, size = self.recipe.training.recalibration_batches, self.plan.batch_size
        if not count or not has_batch_norm(module.judged):
            return
        first = module.step * size * self.recipe.training.accumulate
        numbers = [list(range(first + n * size, first + (n + 1) * size)) for n in range(count)]
        module.recalibrate(DataLoader(patches, batch_sampler=numbers, num_workers=0))
        module.validated_step = -1

    def _module(self) -> TrainingModule:
        torch.manual_seed(self.seed)
        network = build_network(self.plan.network.name, **self.plan.network.options)
        if self.start is not None:
            self.start.load(network, self.plan)
        patches = (self.plan.batch_size, len(self.plan.channel_names), *self.plan.patch_size)
        pretrain = self.recipe.pretrain
        if pretrain is not None:
            autoencoder = build_autoencoder(network, pretrain)
            avoid_faulty_gradients(autoencoder, patches, self.compute)
            return PretrainingModule(autoencoder, pretrain, self.plan, self.recipe, self.budget, self.seed)
        avoid_faulty_gradients(network, patches, self.compute)
        if self.recipe.training.checkpoint_activations:
            checkpoint_activations(network)
        loss = build_loss(self.recipe, self.plan)
        return SegmentationModule(network, loss, self.plan, self.recipe, self.budget, self.seed)

    def _callbacks(self, folder: FoldFolder, validation: Sequence[CachedCase]) -> list[Callback]:
        """What watches the training; whoever reads a file comes after who writes it."""
        stops = StopInTime(folder)
        if not self.processes.first:
            return [stops]
        pictures: list[Callback] = []
        if can_draw():
            pictures.append(Curves(folder, self.plan, self.progress))
        if can_draw() and self.recipe.pretrain is None:
            pictures.append(WorstCasePicture(folder, self.plan, validation, self.network_grid, self.progress))
        return [
            stops,
            StepLog(folder.steps),
            ValidationLog(folder, self.progress),
            *pictures,
            LiveView(self.progress, f"Training fold {self.index}", folder.metrics),
            Checkpoints(folder),
        ]

    def _trainer(
        self, folder: FoldFolder, callbacks: list[Callback], epochs_before: int
    ) -> lightning.Trainer:
        training = self.recipe.training
        trainer = lightning.Trainer(
            accelerator=self.compute.device.type,
            accumulate_grad_batches=training.accumulate,
            precision="bf16-mixed" if self.compute.dtype == torch.bfloat16 else "32-true",
            max_steps=-1,  # StopInTime ends it, by steps or minutes
            max_epochs=-1,
            gradient_clip_val=self.recipe.optimizer.gradient_clip,
            check_val_every_n_epoch=max(1, training.validate_every // training.checkpoint_every),
            num_sanity_val_steps=0,
            callbacks=callbacks,
            logger=_tensorboard(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder.path,
            **self.processes.trainer_options(self.compute),
        )
        # Lightning's own resuming moves the ends of epochs, and with them the validations. Weights, optimiser
        # and steps are restored by the module; all that Lightning must know is when to validate next.
        trainer.fit_loop.epoch_progress.current.processed = epochs_before
        return trainer


def _entered(folder: FoldFolder) -> bool:
    """Make a fold's folder, without what was left half-written: is there a state to go on from?"""
    folder.path.mkdir(exist_ok=True)
    remove_partial_files(folder.path)
    return folder.resume_state.is_file()


def _network_grids(dataset: Dataset, plan: Plan) -> Callable[[str], Grid]:
    """Gives the grid on which the network sees a case, by its id."""
    images = {case.id: case.images[0] for case in dataset.cases}
    return lambda case: plan.preprocessing.network_grid(read_header(images[case]).grid)


def _workers(compute: Compute, processes: Processes) -> int:
    """One process keeps a CPU's training in patches; a GPU eats those of several."""
    if compute.device.type == "cpu":
        return 1
    return max(1, min(8, (os.cpu_count() or 1) // processes.per_machine))


def _tensorboard(folder: FoldFolder) -> Logger | bool:
    if find_spec("tensorboard") is None:  # an extra
        return False
    return TensorBoardLogger(save_dir=folder.path, name="", version="tensorboard")


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice about workers and loggers from people who chose neither."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            # Of kernels of one voxel, whose strides may be written in several ways.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _told_of_signals() -> Iterator[None]:
    """Leave on Ctrl-C and SIGTERM as any program does: Lightning exits with 1 and 0 instead."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as leaving:
        if isinstance(leaving, SIGTERMException):
            raise SystemExit(128 + signal.SIGTERM) from None
        if isinstance(leaving.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """PyTorch's switches, put back afterwards."""
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by CUDA's matrix products
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
