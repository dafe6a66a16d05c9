"""The Lightning modules: one optimiser step, one validation case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medseg.inference import SlidingWindowInferer
from medseg.metrics import confusion, overlaps_of
from medseg.runs import Plan, Recipe
from medseg.segmenters.passage import SMALL
from medseg.training.averaging import average_of, recalibrate_batch_norm
from medseg.training.budget import Budget, learning_rate_factor
from medseg.training.clock import Clock
from medseg.training.layout import memory_layout
from medseg.training.patches import Patch

__all__ = ["SegmentationModule", "TrainingModule"]

_SEED_STRIDE = 1_000_003  # a prime: seeds of neighbouring runs do not share steps
_PROCESS_STRIDE = 15_485_863  # another: nor do the processes of one run


class TrainingModule(lightning.LightningModule):  # type: ignore[misc]
    """What all trainings share: optimiser, clock, seeds, and the state that a resumed one goes on from.

    A subclass makes the steps of training and validation, keeps what it measured in ``measured`` and the
    step it did so at in ``validated_step``, and tells of it by ``quality``, ``columns``, ``results`` and
    ``told``.

    Args:
        network: What learns.
        plan: What the data decided.
        recipe: Optimiser.
        budget: The learning rate follows it.
        seed: With the step's number it seeds whatever is drawn on the way (dropout, noise).

    Attributes:
        measured: What the last validation measured, by name; empty before the first.
        validated_step: When that was; -1 before the first.
        best_quality: The highest quality so far.
        layout: How weights and batches lie in memory.
        process: Which of the processes that train together this one is, from 0.
        processes: How many those are.
        clock: Seconds; the same in each process.
        all_rows: From rows of the cases that this process validated to those of all.
    """

    def __init__(self, network: nn.Module, plan: Plan, recipe: Recipe, budget: Budget, seed: int) -> None:
        super().__init__()
        self.layout = memory_layout(network)
        self.network = network.to(memory_format=self.layout)  # type: ignore[call-overload]
        decay = recipe.optimizer.averaging
        self.average = average_of(self.network, decay) if decay else None
        self.plan = plan
        self.recipe = recipe
        self.budget = budget
        self.seed = seed
        self.clock = Clock()
        self.steps_before = 0
        self.process, self.processes = 0, 1
        self.waited_before = 0.0
        self.waited: Callable[[], float] = lambda: 0.0
        self.all_rows: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = lambda own: own
        self.measured: dict[str, float | None] = {}
        self.validated_step = -1
        self.best_quality = -math.inf
        self._optimizer_state: dict[str, Any] | None = None

    @property
    def quality(self) -> float:
        """How good the last validation found the network; the higher the better."""
        raise NotImplementedError

    def columns(self) -> dict[str, float | None]:
        """What the last validation adds to ``metrics.csv``, by column."""
        raise NotImplementedError

    def results(self) -> dict[str, Any]:
        """What the last validation adds to ``finished.json``."""
        raise NotImplementedError

    def told(self) -> str:
        """What the last validation found, in a few words."""
        raise NotImplementedError

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the network, or the average of its weights."""
        return self.network if self.average is None else self.average.module

    @property
    def waited_seconds(self) -> float:
        """How long the training has stood still for its data, before a resume included."""
        return self.waited_before + self.waited()

    @property
    def step(self) -> int:
        """Optimiser steps so far, those before a resume included."""
        return self.steps_before + int(self.global_step)

    @property
    def progress(self) -> float:
        """How much of the budget is used, from 0 to 1."""
        return self._progress(self.step)

    def _progress(self, step: float) -> float:
        # Asking for CPU time takes longer than the others.
        counts = self.budget.max_cpu_minutes is not None
        cpu_minutes = self.clock.cpu_minutes if counts else 0.0
        return self.budget.progress(step, self.clock.minutes, cpu_minutes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's optimiser; biases and norms are not decayed."""
        choice = self.recipe.optimizer
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        vectors = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": choice.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer
        if choice.name == "sgd":
            optimizer = torch.optim.SGD(
                groups, lr=choice.learning_rate, momentum=0.99, nesterov=True, fused=True
            )
        else:
            optimizer = torch.optim.AdamW(groups, lr=choice.learning_rate, fused=True)
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        return optimizer

    def on_train_start(self) -> None:
        """Start the clock: planning and preprocessing do not count."""
        self.clock.start()

    def on_train_batch_start(self, batch: Patch, batch_idx: int) -> None:  # noqa: ARG002
        """Seed by batch and set the learning rate by progress: both are the same after a resume."""
        accumulate = self.recipe.training.accumulate
        number = self.step * accumulate + batch_idx % accumulate
        drawn_by = self.seed * _SEED_STRIDE + number + self.process * _PROCESS_STRIDE
        torch.manual_seed(drawn_by % 2**63)
        # The step that begins counts as half done, so that no step has a rate of zero.
        share = self._progress(self.step + 0.5)
        rate = self.recipe.optimizer.learning_rate * learning_rate_factor(share, self.recipe.optimizer.warmup)
        for group in self.optimizers().param_groups:
            group["lr"] = rate

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clip the gradient's norm.

        Lightning refuses this to fused optimisers in mixed precision, for they may undo a scale that was put
        on the loss. Single precision and bfloat16, the two that are trained in, have none.
        """
        if gradient_clip_val is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def on_train_batch_end(self, outputs: Any, batch: Patch, batch_idx: int) -> None:  # noqa: ARG002
        """Carry the average on, where a step was made."""
        if self.average is not None and (batch_idx + 1) % self.recipe.training.accumulate == 0:
            self.average.update_parameters(self.network)

    def recalibrate(self, batches: Iterable[Patch]) -> None:
        """Let the batch norms of what is kept measure their statistics anew."""
        recalibrate_batch_norm(self.judged, (self._image(batch) for batch in batches))

    def _image(self, batch: Patch) -> torch.Tensor:
        image: torch.Tensor = batch["image"]
        return image.to(self.device).contiguous(memory_format=self.layout)

    def resume_state(self) -> dict[str, Any]:
        """Everything that ``restore`` needs: tensors, numbers and names alone."""
        return {
            "step": self.step,
            "minutes": self.clock.minutes,
            "cpu_minutes": self.clock.cpu_minutes,
            "waited_seconds": self.waited_seconds,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "validated_step": self.validated_step,
            "measured": dict(self.measured),
            "best_quality": self.best_quality,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where ``resume_state`` was called; before the training starts."""
        self.steps_before = state["step"]
        self.clock.minutes_before = state["minutes"]
        self.clock.cpu_minutes_before = state["cpu_minutes"]
        self.waited_before = state["waited_seconds"]
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._optimizer_state = state["optimizer"]
        self.validated_step = state["validated_step"]
        self.measured = state["measured"]
        self.best_quality = state["best_quality"]


class SegmentationModule(TrainingModule):
    """Trains a network on patches and scores it on whole cases.

    Args:
        network: From (B, C, X, Y, Z) to class scores (B, K, X, Y, Z).
        loss: Called with scores (a list of them, if the network has several levels of them) and class
            indices (B, 1, X, Y, Z); with ``weight_map`` (B, 1, X, Y, Z) too, if patches have weights.
        plan: Window size and labels.
        recipe: Optimiser and overlap.
        budget: The learning rate follows it.
        seed: With the step's number it seeds whatever the network draws (dropout).
    """

    def __init__(
        self, network: nn.Module, loss: nn.Module, plan: Plan, recipe: Recipe, budget: Budget, seed: int
    ) -> None:
        super().__init__(network, plan, recipe, budget, seed)
        self.loss = loss
        # Networks with heads on coarser levels give those to the loss as well.
        scores_of: Any = getattr(self.network, "forward_deep", self.network)
        self._scores_of = torch.compile(scores_of) if recipe.training.compile else scores_of
        self._case_dice: list[npt.NDArray[np.float64]] = []

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the structures that the last validation could score; 0 if there was none."""
        scored = [dice for dice in self.measured.values() if dice is not None]
        return float(np.mean(scored)) if scored else 0.0

    @property
    def quality(self) -> float:
        """Mean Dice."""
        return self.mean_dice

    def columns(self) -> dict[str, float | None]:
        """Dice of each structure, and their mean."""
        by_name = {f"dice_{name}": dice for name, dice in self.measured.items()}
        return {**by_name, "mean_dice": self.mean_dice}

    def results(self) -> dict[str, Any]:
        """Mean Dice, and that of each structure."""
        return {"mean_dice": self.mean_dice, "dice": dict(self.measured)}

    def told(self) -> str:
        """Mean Dice, for people."""
        return f"mean Dice {self.mean_dice:.4f}"

    def training_step(self, batch: Patch, batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        """One batch of patches to one loss."""
        image = self._image(batch)
        weights = {"weight_map": batch["weight"]} if "weight" in batch else {}
        loss: torch.Tensor = self.loss(self._scores_of(image), batch["label"], **weights)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the last validation."""
        self._case_dice = []

    def validation_step(self, batch: Patch, batch_idx: int) -> dict[str, Any]:  # noqa: ARG002
        """Segment one whole case on its network grid and count; gives class indices and Dice."""
        image = self._image(batch)
        scores = self._inferer(image)(inputs=image, network=self.judged)
        labels = self.plan.labels
        indices = scores.argmax(dim=1)[0].to(torch.int16).cpu().numpy()
        predicted = labels.to_values(indices)
        reference = labels.to_values(batch["label"][0].cpu().numpy())
        overlaps = overlaps_of(confusion(predicted, reference, labels), labels)
        self._case_dice.append(np.asarray([overlap.dice for overlap in overlaps]))
        return {"predicted": indices, "dice": self._case_dice[-1]}

    def _inferer(self, image: torch.Tensor) -> SlidingWindowInferer:
        """Windows of the patch's size; a small image is seen at once, as where it is segmented for good."""
        choice, patch = self.recipe.inference, self.plan.patch_size
        whole = tuple(map(max, image.shape[2:], patch))
        local = self.plan.inference_mode == "streaming" and choice.mode in {"auto", "streaming"}
        small = math.prod(whole) <= SMALL * math.prod(patch)
        window = whole if local and small else patch
        return SlidingWindowInferer(roi_size=window, overlap=choice.overlap, mode=choice.blend)

    def on_validation_epoch_end(self) -> None:
        """Mean Dice per structure, over the cases that have it or were given it; None if there is none."""
        scores = self.all_rows(np.asarray(self._case_dice))
        self.measured = {
            entry.name: float(np.nanmean(column)) if np.isfinite(column).any() else None
            for entry, column in zip(self.plan.labels.foreground, scores.T, strict=True)
        }
        self.validated_step = self.step
