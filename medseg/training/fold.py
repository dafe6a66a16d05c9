"""The training of one fold: network, patches, trainer, and what watches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from medseg.files import remove_partial_files, write_json
from medseg.geometry import Grid
from medseg.inference import Compute
from medseg.networks import build_network
from medseg.pictures import can_draw
from medseg.progress import Progress
from medseg.runs import FoldFolder, Plan, Recipe, RunFolder, utc_now
from medseg.training.averaging import has_batch_norm
from medseg.training.budget import Budget
from medseg.training.cache import CachedCase
from medseg.training.distributed import Processes, spread
from medseg.training.memory import checkpoint_activations
from medseg.training.module import SegmentationModule, TrainingModule
from medseg.training.parts import build_loss
from medseg.training.patches import PatchDataset, WholeCases, patch_loader
from medseg.training.precision import avoid_faulty_gradients
from medseg.training.pretraining import PretrainingModule, build_autoencoder
from medseg.training.starts import Start
from medseg.training.surroundings import deterministic_algorithms, quiet_lightning, told_of_signals
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

__all__ = ["FoldTraining"]


@dataclass(frozen=True)
class FoldTraining:
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
        with quiet_lightning(), told_of_signals(), deterministic_algorithms(self.deterministic):
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
                "finished": utc_now(),
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
        first = module.step * size * self.recipe.training.accumulate * self.processes.count
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


def _tensorboard(folder: FoldFolder) -> Logger | bool:
    if find_spec("tensorboard") is None:  # an extra
        return False
    return TensorBoardLogger(save_dir=folder.path, name="", version="tensorboard")
