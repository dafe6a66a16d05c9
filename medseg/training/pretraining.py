"""Pretraining: an autoencoder learns an encoder from images alone."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from medseg.inference import SlidingWindowInferer
from medseg.networks.autoencoder import Autoencoder, corrupt
from medseg.networks.blocks import SegmentationNetwork
from medseg.networks.stacked import StackedStages
from medseg.runs import Plan, Recipe
from medseg.runs.recipe import PretrainChoice
from medseg.training.budget import Budget
from medseg.training.module import TrainingModule
from medseg.training.patches import Patch

__all__ = ["PretrainingModule", "build_autoencoder"]

ERROR = "reconstruction_error"


def build_autoencoder(network: nn.Module, choice: PretrainChoice) -> Autoencoder:
    """The autoencoder that a recipe's ``pretrain`` asks for, around a segmentation network's encoder.

    Raises:
        ValueError: The network's encoder does not suit it.
    """
    plain = cast(SegmentationNetwork, network)
    if choice.method == "sparse":
        return Autoencoder(plain, "sparse", target=choice.sparsity_target)
    autoencoder = Autoencoder(plain, "gaussian" if choice.method == "variational" else "plain")
    if choice.method == "stacked":
        StackedStages(autoencoder)  # refuses an encoder whose levels cannot be told apart
    return autoencoder


class PretrainingModule(TrainingModule):
    """Trains an autoencoder on patches and measures its error on whole cases.

    The error is the mean squared one of a voxel, in units of the normalised intensities; held-out cases are
    spoilt as the training's are, each the same way in every validation.

    Args:
        network: The autoencoder.
        choice: How it learns.
        plan: Window size.
        recipe: Optimiser and overlap.
        budget: The learning rate follows it, and so do the stages of a stacked autoencoder.
        seed: With the step's number it seeds noise, masks and codes.
    """

    network: Autoencoder

    def __init__(
        self,
        network: Autoencoder,
        choice: PretrainChoice,
        plan: Plan,
        recipe: Recipe,
        budget: Budget,
        seed: int,
    ) -> None:
        super().__init__(network, plan, recipe, budget, seed)
        self.choice = choice
        self.stages = StackedStages(network) if choice.method == "stacked" else None
        self.inferer = SlidingWindowInferer(
            roi_size=plan.patch_size, overlap=recipe.inference.overlap, mode=recipe.inference.blend
        )
        self._case_errors: list[float] = []

    @property
    def quality(self) -> float:
        """The less error, the better."""
        error = self.measured.get(ERROR)
        return -float("inf") if error is None else -error

    @property
    def stage(self) -> int | None:
        """The stage of a stacked autoencoder that the next step belongs to; ``None``: all levels learn."""
        alone = 1.0 - self.choice.joint_fraction
        if self.stages is None or self.progress >= alone:
            return None
        return int(self.progress / alone * len(self.stages))

    def columns(self) -> dict[str, float | None]:
        """The error."""
        return dict(self.measured)

    def results(self) -> dict[str, Any]:
        """The error."""
        return dict(self.measured)

    def told(self) -> str:
        """The error, for people."""
        return f"reconstruction error {self.measured[ERROR]:.4f}"

    def training_step(self, batch: Patch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One batch of patches to one loss."""
        image = self._image(batch)
        if self.stages is not None:
            stage = self.stage
            self.stages.enter(stage)
            if stage is not None:
                return self.stages.loss(stage, image, self._spoilt)
        made = self.network(self._spoilt(image))
        error = (made.images.float() - image).square().mean()
        loss: Tensor = error + self._penalty_weight(image) * made.penalty
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the errors of the last validation."""
        self._case_errors = []

    def validation_step(self, batch: Patch, batch_idx: int) -> None:
        """Reconstruct one whole case on its network grid."""
        image = self._image(batch)
        with torch.random.fork_rng():
            torch.manual_seed(batch_idx)
            spoilt = self._spoilt(image)
        made = self.inferer(inputs=spoilt, network=lambda windows: self.judged(windows).images)
        self._case_errors.append(float((made - image).square().mean()))

    def on_validation_epoch_end(self) -> None:
        """Mean error over the cases."""
        self.measured = {ERROR: sum(self._case_errors) / len(self._case_errors)}
        self.validated_step = self.step

    def _spoilt(self, image: Tensor) -> Tensor:
        return corrupt(image, self.choice.noise_std, self.choice.masked_fraction)

    def _penalty_weight(self, image: Tensor) -> float:
        if self.choice.method == "variational":  # the divergence of an image's code, by the image's voxels
            return self.choice.kl_weight / image[0].numel()
        return self.choice.sparsity_weight
