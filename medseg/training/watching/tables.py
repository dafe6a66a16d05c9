"""Tables of a training: ``steps.csv``, ``metrics.csv``, and the same numbers for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from medseg.errors import explain_os_errors
from medseg.files import write_text
from medseg.progress import Progress
from medseg.runs import FoldFolder
from medseg.training.module import TrainingModule
from medseg.training.watching.weights import save_weights

__all__ = ["StepLog", "ValidationLog", "append_rows", "drop_rows_after", "log_numbers", "read_rows"]


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


def read_rows(path: Path) -> list[dict[str, float | None]]:
    """The rows of such a table, by column; an empty field becomes None, and a table that is not there none.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> append_rows(table, ["step", "dice_liver"], [[50, None], [100, 0.5]])
        >>> read_rows(table)
        [{'step': 50.0, 'dice_liver': None}, {'step': 100.0, 'dice_liver': 0.5}]
    """
    if not path.exists():
        return []
    with explain_os_errors(path), path.open(newline="", encoding="utf-8") as handle:
        rows = csv.DictReader(handle)
        return [{name: float(field) if field else None for name, field in row.items()} for row in rows]
