"""What a training shows of itself on a terminal: a bar over the budget, and a board of numbers beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from medseg.progress import Board, Progress
from medseg.training.module import TrainingModule
from medseg.training.watching.tables import read_rows

__all__ = ["DataClock", "LiveView", "SmoothedLoss", "score_rows", "told_minutes"]

PER_CENT = 100.0
_SHOWN_EVERY_SECONDS = 2.0
_MEMORY = 0.98
_MOST_ROWS = 8
_WORST = 5
_MEAN, _ERROR = "mean_dice", "reconstruction_error"
_MINUTES_PER_HOUR = 60


class SmoothedLoss:
    """An exponential mean of the losses, the first ones not pulled towards zero.

    Example:
        >>> loss = SmoothedLoss()
        >>> loss.add(2.0), loss.add(2.0)
        (2.0, 2.0)
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0

    def add(self, loss: float) -> float:
        """Take in a loss; gives the mean so far."""
        self._sum = _MEMORY * self._sum + (1.0 - _MEMORY) * loss
        self._weight = _MEMORY * self._weight + (1.0 - _MEMORY)
        return self._sum / self._weight


class DataClock:
    """How long a training has waited for its patches: from the end of a step to the next one's batch.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self.seconds = 0.0

    def wait(self) -> None:
        """From now on there is nothing to do until a batch comes."""
        self._since = self._clock()

    def come(self) -> None:
        """The batch has come."""
        if self._since is not None:
            self.seconds += self._clock() - self._since
        self._since = None


class LiveView(Callback):  # type: ignore[misc]
    """A bar over the budget in per cent, and beside it: step, loss, learning rate, time, and scores.

    Args:
        progress: Where it is shown.
        description: What is trained.
        metrics: The table of the validations, from which a resumed training knows the best one.
    """

    def __init__(self, progress: Progress, description: str, metrics: Path) -> None:
        self._progress = progress
        self._description = description
        self._metrics = metrics
        self._stack = ExitStack()
        self._advance: Callable[[float], None] = lambda _amount: None
        self._show_board: Callable[[Board], None] = lambda _board: None
        self._reached = 0.0
        self._shown_at = -_SHOWN_EVERY_SECONDS
        self._smoothed = SmoothedLoss()
        self._loss = float("nan")
        self._data = DataClock()
        self._last: Mapping[str, float | None] = {}
        self._best: Mapping[str, float | None] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Draw it."""
        self._show_board = self._stack.enter_context(self._progress.board())
        self._advance = self._stack.enter_context(self._progress.task(self._description, PER_CENT))
        rows = read_rows(self._metrics)
        if rows:
            self._last, self._best = rows[-1], _best_of(rows)
        self._show(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """From now on the first batch is waited for."""
        del trainer, pl_module
        self._data.wait()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: TrainingModule, batch: Any, batch_idx: int
    ) -> None:
        """Here it is."""
        del trainer, pl_module, batch, batch_idx
        self._data.come()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance it."""
        del batch, batch_idx
        self._loss = self._smoothed.add(float(outputs["loss"]))
        if time.monotonic() - self._shown_at >= _SHOWN_EVERY_SECONDS:
            self._show(trainer, pl_module)
        self._data.wait()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Nobody waits for patches now."""
        del trainer, pl_module
        self._data.come()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Show what was found; where the validation's weights are the best, they have just been kept."""
        self._last = {"step": pl_module.step, **pl_module.columns()}
        if pl_module.quality >= pl_module.best_quality:
            self._best = self._last
        self._show(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """What is written now is not waiting for data either."""
        del trainer, pl_module
        self._data.come()

    def teardown(self, trainer: lightning.Trainer, pl_module: TrainingModule, stage: str) -> None:
        """Take it away."""
        del trainer, pl_module, stage
        self._stack.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: TrainingModule, exception: BaseException
    ) -> None:
        """Take it away, also when the training failed."""
        del trainer, pl_module, exception
        self._stack.close()

    def _show(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self._shown_at = time.monotonic()
        reached = PER_CENT * module.progress
        self._advance(reached - self._reached)
        self._reached = reached
        best_step = self._best.get("step")
        columns = ("", "last", "best" if best_step is None else f"best, step {best_step:.0f}")
        rows, footnote = score_rows(self._last, self._best)
        facts = self._facts(trainer, module)
        self._show_board(Board(self._description, facts, columns if rows else (), rows, footnote))

    def _facts(self, trainer: lightning.Trainer, module: TrainingModule) -> tuple[tuple[str, str], ...]:
        share = module.progress
        left = "-" if share <= 0.0 else told_minutes(module.clock.minutes * (1.0 - share) / share)
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0.0
        seconds = max(module.clock.minutes * 60.0, 1e-9)
        waited = self._data.seconds
        return (
            ("step", str(module.step)),
            ("loss, smoothed", "-" if self._loss != self._loss else f"{self._loss:.4f}"),
            ("learning rate", f"{rate:.2e}"),
            ("time used", told_minutes(module.clock.minutes)),
            ("time left", left),
            ("waited for data", f"{waited:.1f} s ({PER_CENT * waited / seconds:.1f} %)"),
        )


def _best_of(rows: Sequence[Mapping[str, float | None]]) -> Mapping[str, float | None]:
    """The row of the best validation: the first with the highest mean Dice, or with the least error."""

    def merit(row: Mapping[str, float | None]) -> float:
        mean, error = row.get(_MEAN), row.get(_ERROR)
        if mean is not None:
            return mean
        return -float("inf") if error is None else -error

    return max(rows, key=merit)


def score_rows(
    last: Mapping[str, float | None], best: Mapping[str, float | None]
) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Rows of a table of scores, and what it leaves out: of many structures, all but the mean and the worst.

    Args:
        last: Columns of ``metrics.csv`` at the last validation.
        best: The same at the best one.

    Example:
        >>> score_rows({"dice_liver": 0.5, "mean_dice": 0.5}, {"dice_liver": 0.75, "mean_dice": 0.75})
        ((('Dice liver', '0.5000', '0.7500'), ('mean Dice', '0.5000', '0.7500')), '')
    """
    names = [name for name in last if name.startswith("dice_") or name in (_MEAN, _ERROR)]
    footnote = ""
    if len(names) > _MOST_ROWS:
        found = [name for name in names[:-1] if last[name] is not None]
        worst = sorted(found, key=lambda name: last[name] or 0.0)[:_WORST]
        footnote = f"the worst {len(worst)} of {len(names) - 1}"
        names = [names[-1], *worst]
    return tuple((_title(name), _number(last[name]), _number(best.get(name))) for name in names), footnote


def _title(column: str) -> str:
    if column == _MEAN:
        return "mean Dice"
    if column.startswith("dice_"):
        return f"Dice {column.removeprefix('dice_')}"
    return column.replace("_", " ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def told_minutes(minutes: float) -> str:
    """A time for people.

    Example:
        >>> told_minutes(0.5), told_minutes(12.25), told_minutes(125)
        ('30 s', '12 min 15 s', '2 h 05 min')
    """
    if minutes >= _MINUTES_PER_HOUR:
        hours, rest = divmod(round(minutes), _MINUTES_PER_HOUR)
        return f"{hours} h {rest:02d} min"
    whole, seconds = divmod(round(minutes * 60.0), 60)
    return f"{whole} min {seconds:02d} s" if whole else f"{seconds} s"
