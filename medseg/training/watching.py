"""What a training leaves behind while it runs: checkpoints, tables, a progress bar; and when it stops."""

from __future__ import annotations

import csv
import io
import math
import pickle
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from medseg.errors import BundleError, ConfigError, explain_os_errors
from medseg.files import atomic_path, write_text
from medseg.progress import Progress
from medseg.runs import FoldFolder
from medseg.training.module import TrainingModule

__all__ = [
    "Checkpoints",
    "ProgressBar",
    "StepLog",
    "StopInTime",
    "ValidationLog",
    "append_rows",
    "drop_rows_after",
    "load_resume_state",
    "log_numbers",
    "save_weights",
]

PER_CENT = 100.0


def save_weights(module: TrainingModule, path: Path) -> None:
    """Write the network's weights alone, atomically, in PyTorch's plain memory format."""
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.judged.state_dict().items()
    }
    _save(weights, path)


def load_resume_state(path: Path) -> dict[str, Any]:
    """Read what ``Checkpoints`` wrote.

    Raises:
        BundleError: The file is damaged.
    """
    try:
        with explain_os_errors(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BundleError(
            "is damaged", where=path, fix="delete it: the fold is then trained from its start"
        ) from error
    return state


def _save(content: dict[str, Any], path: Path) -> None:
    # In memory first: torch itself writes the temporary file's name into the file, so that the same weights
    # make other bytes, and forgets why a file could not be written, as on a full disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class StopInTime(Callback):  # type: ignore[misc]
    """Ends the training when its budget is used up, and at once when the loss is no longer a number."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the clock and at the loss."""
        del batch, batch_idx
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise _diverged(f"the loss became {loss} at step {pl_module.step}")
        if pl_module.progress >= 1.0:
            trainer.should_stop = True


def _diverged(what: str) -> ConfigError:
    return ConfigError(
        what, where="optimizer.learning_rate", fix="lower it in the recipe and train into another --out"
    )


class StepLog(Callback):  # type: ignore[misc]
    """``steps.csv`` and TensorBoard: loss and learning rate of each step, written once an epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[list[float]] = []
        self._losses: list[float] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Drop the rows of steps that a resumed training makes again."""
        del trainer
        drop_rows_after(self._path, pl_module.step)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep this step's numbers."""
        del trainer, batch
        self._losses.append(float(outputs["loss"]))  # Lightning has divided each by their number
        if (batch_idx + 1) % pl_module.recipe.training.accumulate:
            return
        rate = pl_module.optimizers().param_groups[0]["lr"]
        self._rows.append([pl_module.step, sum(self._losses), rate])
        self._losses = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Write what was kept."""
        del pl_module
        header = ["step", "loss", "learning_rate"]
        append_rows(self._path, header, self._rows)
        for step, *numbers in self._rows:
            log_numbers(trainer, dict(zip(header[1:], numbers, strict=True)), int(step))
        self._rows = []


class ValidationLog(Callback):  # type: ignore[misc]
    """``metrics.csv``: one row per validation; and the best weights so far."""

    def __init__(self, fold: FoldFolder, progress: Progress) -> None:
        self._fold = fold
        self._progress = progress

    def on_train_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Drop the rows of validations that a resumed training makes again."""
        del trainer
        drop_rows_after(self._fold.metrics, pl_module.step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Write a row; keep the weights if they are the best."""
        step, columns = pl_module.step, pl_module.columns()
        header = ["step", "minutes", *columns]
        row = [step, round(pl_module.clock.minutes, 3), *columns.values()]
        drop_rows_after(self._fold.metrics, step - 1)  # a training killed at its very end validates anew
        append_rows(self._fold.metrics, header, [row])
        log_numbers(trainer, columns, step)
        self._progress.note(f"step {step}, {pl_module.clock.minutes:.1f} min: {pl_module.told()}")
        if pl_module.quality > pl_module.best_quality:
            pl_module.best_quality = pl_module.quality
            save_weights(pl_module, self._fold.weights("best"))


class Checkpoints(Callback):  # type: ignore[misc]
    """Writes what ``--resume`` goes on from, atomically, once an epoch. Keep it last of the list."""

    def __init__(self, fold: FoldFolder) -> None:
        self._fold = fold

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Write it, unless the last step has spoilt the weights, which the next step's loss would show."""
        del trainer
        if not all(bool(tensor.isfinite().all()) for tensor in pl_module.network.state_dict().values()):
            raise _diverged(f"the weights became infinite or NaN at step {pl_module.step}")
        _save(pl_module.resume_state(), self._fold.resume_state)


class ProgressBar(Callback):  # type: ignore[misc]
    """A bar over the budget, in per cent."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._description = description
        self._stack = ExitStack()
        self._advance: Callable[[float], None] = lambda _amount: None
        self._shown = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Draw it."""
        del trainer
        self._advance = self._stack.enter_context(self._progress.task(self._description, PER_CENT))
        self._show(pl_module)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance it."""
        del trainer, outputs, batch, batch_idx
        self._show(pl_module)

    def teardown(self, trainer: lightning.Trainer, pl_module: TrainingModule, stage: str) -> None:
        """Take it away, also when the training failed."""
        del trainer, pl_module, stage
        self._stack.close()

    def _show(self, module: TrainingModule) -> None:
        reached = PER_CENT * module.progress
        self._advance(reached - self._shown)
        self._shown = reached


def log_numbers(trainer: lightning.Trainer, numbers: dict[str, float | None], step: int) -> None:
    """Hand numbers to TensorBoard, if it is there."""
    known = {name: value for name, value in numbers.items() if value is not None}
    for logger in trainer.loggers:
        with explain_os_errors(logger.log_dir):
            logger.log_metrics(known, step=step)


def append_rows(path: Path, header: list[str], rows: Sequence[Sequence[float | None]]) -> None:
    """Append rows to a CSV file, which gets its header when it is new; None becomes an empty field."""
    with explain_os_errors(path), path.open("a", newline="", encoding="utf-8") as handle:
        new = handle.tell() == 0
        writer = csv.writer(handle, lineterminator="\n")
        if new:
            writer.writerow(header)
        writer.writerows(rows)


def drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of a CSV file whose first column is above ``step``, and a half-written last one."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if not whole:  # killed before the header was written
        path.unlink()
        return
    header, *rows = csv.reader(io.StringIO(whole))
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= step]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *kept])
    write_text(buffer.getvalue(), path)
