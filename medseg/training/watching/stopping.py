"""When a training stops."""

from __future__ import annotations

import math
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from medseg.runs import FoldFolder
from medseg.training.module import TrainingModule
from medseg.training.watching.divergence import Samples, diverged, samples_of, spoilt_samples

__all__ = ["StopInTime"]


class StopInTime(Callback):  # type: ignore[misc]
    """Ends the training when its budget is used up, and at once when the loss is no longer a number."""

    def __init__(self, fold: FoldFolder) -> None:
        self._fold = fold
        self._before: Samples = ()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the clock and at the loss."""
        del batch_idx
        loss, samples = float(outputs["loss"]), samples_of(batch)
        if not math.isfinite(loss):
            raise diverged(
                f"the loss became {loss}",
                pl_module.step,
                samples,
                self._fold,
                before=self._before,
                spoilt=spoilt_samples(batch),
            )
        self._before = samples
        if pl_module.progress >= 1.0:
            trainer.should_stop = True
