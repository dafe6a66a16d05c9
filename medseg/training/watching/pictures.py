"""Pictures of a training while it goes on: its curves, and the validation case that it does worst."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
from lightning.pytorch.callbacks import Callback

from medseg.errors import MedsegError
from medseg.geometry import Grid
from medseg.pictures import Curve, draw_curves, overlay
from medseg.progress import Progress
from medseg.runs import FoldFolder, Plan
from medseg.training.cache import CachedCase
from medseg.training.module import TrainingModule
from medseg.training.watching.tables import read_rows
from medseg.volume import Volume

__all__ = ["Curves", "DrawingAllowance", "WorstCasePicture"]

_SHARE = 0.005
"""Of the training's CPU time, for each of two pictures."""
_SUPPOSED_SECONDS = 1.0
"""What the first drawing may cost: matplotlib is loaded for it."""
_NAMED = 3


class DrawingAllowance:
    """Lets a picture be drawn again when the last drawing has cost a small part of the time since.

    Time is this process's CPU time, all threads: what a budget of CPU time counts.

    Args:
        share: Largest part of the time.
        clock: Gives seconds of CPU time.
    """

    def __init__(self, share: float = _SHARE, clock: Callable[[], float] = time.process_time) -> None:
        self._share = share
        self._clock = clock
        self._cost = _SUPPOSED_SECONDS
        self._since = clock()

    @property
    def due(self) -> bool:
        """Whether the picture may be drawn now."""
        return self._cost <= self._share * (self._clock() - self._since)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Measures what a drawing costs."""
        began = self._clock()
        try:
            yield
        finally:
            self._since = self._clock()
            self._cost = self._since - began


class _Picture(Callback):  # type: ignore[misc]
    """Draws after validations, as often as the allowance lets it, and at the end."""

    def __init__(self, progress: Progress, allowance: DrawingAllowance | None = None) -> None:
        self._progress = progress
        self._allowance = allowance or DrawingAllowance()
        self._drawn_step = -1

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Draw it, if a validation has been since and it costs little."""
        del trainer
        if pl_module.validated_step > self._drawn_step and self._allowance.due:
            self._draw_at(pl_module)

    def teardown(self, trainer: lightning.Trainer, pl_module: TrainingModule, stage: str) -> None:
        """Draw how it ended, whatever it costs."""
        del trainer, stage
        if pl_module.progress >= 1.0 and self._drawn_step < pl_module.validated_step == pl_module.step:
            self._draw_at(pl_module)

    def _draw_at(self, module: TrainingModule) -> None:
        self._drawn_step = module.validated_step
        try:
            with self._allowance.drawing():
                self._draw(module)
        except MedsegError as error:  # a picture is no reason to lose a training
            self._progress.note(f"A picture could not be drawn: {error}")

    def _draw(self, module: TrainingModule) -> None:
        raise NotImplementedError


class Curves(_Picture):
    """``curves.png``: loss and scores over steps and minutes.

    Args:
        fold: Where its tables are, and the picture goes.
        plan: Names and colours of the structures.
        progress: Is told where it cannot be written.
        allowance: What it may cost.
    """

    def __init__(
        self, fold: FoldFolder, plan: Plan, progress: Progress, allowance: DrawingAllowance | None = None
    ) -> None:
        super().__init__(progress, allowance)
        self._fold = fold
        self._colors = {f"dice_{entry.name}": entry.color for entry in plan.labels.foreground}
        self._dataset = plan.dataset

    def _draw(self, module: TrainingModule) -> None:
        steps, rows = read_rows(self._fold.steps), read_rows(self._fold.metrics)
        columns = [name for name in module.columns() if rows and name in rows[0]]
        curves = [
            Curve(
                name.removeprefix("dice_").replace("mean_dice", "mean").replace("_", " "),
                _column(rows, name),
                self._colors.get(name),
            )
            for name in columns
        ]
        draw_curves(
            self._fold.curves,
            _column(steps, "step"),
            _column(steps, "loss"),
            _column(rows, "step"),
            _column(rows, "minutes"),
            curves,
            measure="Dice" if "mean_dice" in columns else "error",
            title=f"{self._dataset}, fold {self._fold.index}",
        )


def _column(rows: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    return [math.nan if row[name] is None else float(row[name] or 0.0) for row in rows]


@dataclass(frozen=True)
class _Scored:
    """A validation case, what was made of it, and its Dice of each structure."""

    case: str
    predicted: npt.NDArray[Any]
    dice: npt.NDArray[np.float64]


class WorstCasePicture(_Picture):
    """``worst_case.png``: of the last validation, the case with the lowest mean Dice, on the network's grid.

    Args:
        fold: Where the picture goes.
        plan: The classes.
        cases: The validation cases.
        grid_of: The network grid of a case, by its id.
        progress: Is told where it cannot be drawn.
        allowance: What it may cost.
    """

    def __init__(
        self,
        fold: FoldFolder,
        plan: Plan,
        cases: Sequence[CachedCase],
        grid_of: Callable[[str], Grid],
        progress: Progress,
        allowance: DrawingAllowance | None = None,
    ) -> None:
        super().__init__(progress, allowance)
        self._fold = fold
        self._labels = plan.labels
        self._cases = {case.id: case for case in cases}
        self._grid_of = grid_of
        self._worst: _Scored | None = None

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Forget the last validation's."""
        del trainer, pl_module
        self._worst = None

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep it, if it is the worst so far."""
        del trainer, pl_module, batch_idx
        scored = _Scored(batch["case"][0], outputs["predicted"], outputs["dice"])
        mean = _mean(scored.dice)
        if not math.isnan(mean) and (self._worst is None or mean < _mean(self._worst.dice)):
            self._worst = scored

    def _draw(self, module: TrainingModule) -> None:
        worst = self._worst
        if worst is None:  # no case has a structure
            return
        case, grid = self._cases[worst.case], self._grid_of(worst.case)
        overlay(
            self._fold.worst_case,
            Volume(np.array(case.image[:1]), grid),
            self._labels,
            reference=Volume(self._labels.to_values(np.array(case.label))[np.newaxis], grid),
            prediction=Volume(self._labels.to_values(worst.predicted)[np.newaxis], grid),
            title=f"{worst.case}, worst of {len(self._cases)} at step {module.validated_step}: "
            + self._told(worst.dice),
        )

    def _told(self, dice: npt.NDArray[np.float64]) -> str:
        """Mean Dice; and that of the structures, or of the few worst ones."""
        named = zip(self._labels.names[1:], dice.tolist(), strict=True)
        known = sorted((value, name) for name, value in named if not math.isnan(value))
        if len(known) == 1:
            return f"Dice {_mean(dice):.3f}"
        worst = ", ".join(f"{name} {value:.2f}" for value, name in known[:_NAMED])
        return f"mean Dice {_mean(dice):.3f} ({worst})"


def _mean(dice: npt.NDArray[np.float64]) -> float:
    known = dice[~np.isnan(dice)]
    return float(known.mean()) if known.size else math.nan
