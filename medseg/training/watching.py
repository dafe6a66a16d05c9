"""What a training leaves behind while it runs: checkpoints, tables, a progress bar; and when it stops."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from medseg.errors import InputError
from medseg.files import atomic_path, write_text
from medseg.progress import Progress
from medseg.runs import FoldFolder
from medseg.training.module import SegmentationModule

__all__ = ["Checkpoints", "ProgressBar", "StepLog", "StopInTime", "ValidationLog", "save_weights"]

PER_CENT = 100.0


def save_weights(module: SegmentationModule, path: Path) -> None:
    """Write the network's weights alone, atomically, in PyTorch's plain memory format."""
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.network.state_dict().items()
    }
    with atomic_path(path) as temporary:
        torch.save(weights, temporary)


class StopInTime(Callback):  # type: ignore[misc]
    """Ends the training when its budget is used up, and at once when the loss is no longer a number."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: SegmentationModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the clock and at the loss."""
        del batch, batch_idx
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise InputError(
                f"the loss became {loss} at step {trainer.global_step}",
                where="training",
                fix="lower optimizer.learning_rate in the recipe, then --resume from the last checkpoint",
            )
        if pl_module.progress >= 1.0:
            trainer.should_stop = True


class StepLog(Callback):  # type: ignore[misc]
    """``steps.csv``: loss and learning rate of each step, written once an epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[list[float]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: SegmentationModule) -> None:
        """Drop the rows of steps that a resumed training makes again."""
        del pl_module
        drop_rows_after(self._path, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: SegmentationModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep this step's numbers."""
        del batch, batch_idx
        rate = pl_module.optimizers().param_groups[0]["lr"]
        self._rows.append([trainer.global_step, float(outputs["loss"]), rate])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: SegmentationModule) -> None:
        """Write what was kept."""
        del trainer, pl_module
        append_rows(self._path, ["step", "loss", "learning_rate"], self._rows)
        self._rows = []


class ValidationLog(Callback):  # type: ignore[misc]
    """``metrics.csv``: one row per validation; and the best weights so far."""

    def __init__(self, fold: FoldFolder, progress: Progress) -> None:
        self._fold = fold
        self._progress = progress
        self.best_dice = -1.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        return {"best_dice": self.best_dice}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best score so far."""
        self.best_dice = state_dict["best_dice"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: SegmentationModule) -> None:
        """Drop the rows of validations that a resumed training makes again."""
        del pl_module
        drop_rows_after(self._fold.metrics, trainer.global_step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: SegmentationModule) -> None:
        """Write a row; keep the weights if they are the best."""
        dice, step = pl_module.mean_dice, pl_module.global_step
        header = ["step", "minutes", *(f"dice_{name}" for name in pl_module.validation_dice), "mean_dice"]
        row = [step, round(pl_module.minutes, 3), *pl_module.validation_dice.values(), dice]
        append_rows(self._fold.metrics, header, [row])
        self._progress.note(f"step {step}, {pl_module.minutes:.1f} min: mean Dice {dice:.4f}")
        if dice > self.best_dice:
            self.best_dice = dice
            save_weights(pl_module, self._fold.weights("best"))
        del trainer


class Checkpoints(Callback):  # type: ignore[misc]
    """Writes what ``--resume`` goes on from, atomically, once an epoch. Keep it last of the list."""

    def __init__(self, fold: FoldFolder) -> None:
        self._fold = fold

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: SegmentationModule) -> None:
        """Write it."""
        del pl_module
        with atomic_path(self._fold.resume_state) as temporary:
            trainer.save_checkpoint(temporary)


class ProgressBar(Callback):  # type: ignore[misc]
    """A bar over the budget, in per cent."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._description = description
        self._stack = ExitStack()
        self._advance: Callable[[float], None] = lambda _amount: None
        self._shown = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: SegmentationModule) -> None:
        """Draw it."""
        del trainer
        self._advance = self._stack.enter_context(self._progress.task(self._description, PER_CENT))
        self._show(pl_module)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: SegmentationModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance it."""
        del trainer, outputs, batch, batch_idx
        self._show(pl_module)

    def teardown(self, trainer: lightning.Trainer, pl_module: SegmentationModule, stage: str) -> None:
        """Take it away, also when the training failed."""
        del trainer, pl_module, stage
        self._stack.close()

    def _show(self, module: SegmentationModule) -> None:
        reached = PER_CENT * module.progress
        self._advance(reached - self._shown)
        self._shown = reached


def append_rows(path: Path, header: list[str], rows: list[list[float]]) -> None:
    """Append rows to a CSV file, which gets its header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        if new:
            writer.writerow(header)
        writer.writerows(rows)


def drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of a CSV file whose first column is above ``step``, and a half-written last one."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    header, *rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= step]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *kept])
    write_text(buffer.getvalue(), path)
