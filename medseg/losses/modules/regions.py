"""Losses of overlapping regions: one minus Dice, Jaccard, Tversky or generalised Dice."""

from __future__ import annotations

from abc import abstractmethod
from typing import Unpack

from torch import Tensor

from medseg.losses.functional.common import check_not_negative, reduce_classes, weigh_classes
from medseg.losses.functional.regions import (
    RegionSums,
    check_weighting,
    generalized_dice,
    region_sums,
    soft_dice,
    soft_jaccard,
    soft_tversky,
)
from medseg.losses.modules.base import Comparison, LossOptions, SegmentationLoss

__all__ = [
    "DiceLoss",
    "DiceOptions",
    "GeneralizedDiceLoss",
    "JaccardLoss",
    "RegionLoss",
    "RegionOptions",
    "TverskyLoss",
]


class RegionOptions(LossOptions, total=False):
    """The options of every loss of regions; :class:`RegionLoss` says what they mean."""

    smooth_nr: float
    smooth_dr: float
    batch: bool


class DiceOptions(RegionOptions, total=False):
    """The options of :class:`DiceLoss`."""

    squared_pred: bool


class RegionLoss(SegmentationLoss):
    """One minus a measure of overlap, which who derives from it gives as ``errors``.

    Without ``softmax`` or ``sigmoid`` the input is probabilities.

    Args:
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: Whether to sum over the batch before dividing, which steadies small structures.
        **options: As for :class:`~medseg.losses.SegmentationLoss`.
    """

    squared_pred = False

    def __init__(
        self,
        *,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(**options)
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of what has been checked."""
        sums = region_sums(
            comparison.probabilities,
            comparison.target,
            comparison.weight_map,
            batch=self.batch,
            squared=self.squared_pred,
        )
        if self.batch and self.over_processes:
            sums = sums.over_processes()
        if not self.include_background:
            sums = sums.without_background()
        errors = self.errors(sums, self.class_weights(comparison.channels))
        loss = reduce_classes(errors, self.reduction, spatial_dims=comparison.scores.dim() - 2)
        return loss if self.batch else self.share(loss)

    @abstractmethod
    def errors(self, sums: RegionSums, class_weights: Tensor | None) -> Tensor:
        """One minus the overlap of every image and class, shape (B, C), or (B, 1) of all classes together."""


class DiceLoss(RegionLoss):
    """Soft Dice loss.

    Args:
        squared_pred: Whether the denominator's sums are of squares, as in the V-Net paper.
        **options: As for :class:`~medseg.losses.modules.regions.RegionLoss`.

    Example:
        >>> import torch
        >>> loss = DiceLoss(softmax=True, to_onehot_y=True)
        >>> scores = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
        >>> round(loss(scores, torch.tensor([[[[0, 1]]]])).item(), 4)
        0.0

    References:
        Milletari et al., V-Net, 3DV 2016.
    """

    def __init__(self, *, squared_pred: bool = False, **options: Unpack[RegionOptions]) -> None:
        super().__init__(**options)
        self.squared_pred = squared_pred

    def errors(self, sums: RegionSums, class_weights: Tensor | None) -> Tensor:
        """One minus soft Dice."""
        score = soft_dice(sums, smooth_nr=self.smooth_nr, smooth_dr=self.smooth_dr)
        return weigh_classes(1.0 - score, class_weights)


class GeneralizedDiceLoss(RegionLoss):
    """Generalised Dice loss: one overlap of all classes, weighted against their volumes.

    Args:
        w_type: ``"square"``: one over the volume squared. ``"simple"``: one over the volume.
            ``"uniform"``: all alike.
        **options: As for :class:`~medseg.losses.modules.regions.RegionLoss`; ``weight`` multiplies the
            classes' own weights.

    Raises:
        ConfigError: ``w_type`` is unknown.

    Example:
        >>> import torch
        >>> loss = GeneralizedDiceLoss(to_onehot_y=True)
        >>> p = torch.tensor([[[[0.5, 1.0, 1.0, 1.0]], [[0.5, 0.0, 0.0, 0.0]]]])
        >>> round(loss(p, torch.tensor([[[[1, 0, 0, 0]]]])).item(), 3)
        0.25

    References:
        Sudre et al., Generalised Dice overlap as a deep learning loss function for highly unbalanced
        segmentations, DLMIA 2017.
    """

    def __init__(self, *, w_type: str = "square", **options: Unpack[RegionOptions]) -> None:
        super().__init__(**options)
        self.w_type = check_weighting(w_type)

    def errors(self, sums: RegionSums, class_weights: Tensor | None) -> Tensor:
        """One minus generalised Dice, in which the class weights are."""
        return 1.0 - generalized_dice(
            sums,
            self.w_type,
            class_weights=class_weights,
            smooth_nr=self.smooth_nr,
            smooth_dr=self.smooth_dr,
        )


class JaccardLoss(RegionLoss):
    """Soft Jaccard loss, one minus intersection over union.

    Takes what :class:`~medseg.losses.modules.regions.RegionLoss` does.

    Example:
        >>> import torch
        >>> loss = JaccardLoss()
        >>> p = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
        >>> round(loss(p, torch.tensor([[[[True, True, False, False]]]])).item(), 3)
        0.25
    """

    def errors(self, sums: RegionSums, class_weights: Tensor | None) -> Tensor:
        """One minus soft Jaccard index."""
        score = soft_jaccard(sums, smooth_nr=self.smooth_nr, smooth_dr=self.smooth_dr)
        return weigh_classes(1.0 - score, class_weights)


class TverskyLoss(RegionLoss):
    """Tversky loss: Dice with a price of its own for what is invented and what is missed.

    Args:
        alpha: Price of what is predicted and not there (false positives).
        beta: Price of what is there and not predicted (false negatives). Both 0.5 make Dice, both 1
            Jaccard; the paper takes 0.3 and 0.7 for small lesions.
        **options: As for :class:`~medseg.losses.modules.regions.RegionLoss`.

    Raises:
        ConfigError: A price is negative.

    Example:
        >>> import torch
        >>> loss = TverskyLoss(alpha=0.3, beta=0.7)
        >>> p = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
        >>> round(loss(p, torch.tensor([[[[True, True, False, False]]]])).item(), 3)
        0.189

    References:
        Salehi, Erdogmus, Gholipour, Tversky loss function for image segmentation using 3D fully
        convolutional deep networks, MLMI 2017.
    """

    def __init__(self, *, alpha: float = 0.5, beta: float = 0.5, **options: Unpack[RegionOptions]) -> None:
        super().__init__(**options)
        check_not_negative(alpha=alpha, beta=beta)
        self.alpha = float(alpha)
        self.beta = float(beta)

    def errors(self, sums: RegionSums, class_weights: Tensor | None) -> Tensor:
        """One minus the Tversky index."""
        score = soft_tversky(sums, self.alpha, self.beta, smooth_nr=self.smooth_nr, smooth_dr=self.smooth_dr)
        return weigh_classes(1.0 - score, class_weights)
