"""Losses of voxels, each on its own: cross-entropy, focal, and the hardest alone."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.losses.functional.common import check_not_negative
from medseg.losses.functional.voxels import binary_cross_entropy, cross_entropy
from medseg.losses.modules.base import Comparison, LossOptions, SegmentationLoss

__all__ = ["FocalLoss", "TopKLoss", "WeightedCrossEntropyLoss"]


class WeightedCrossEntropyLoss(SegmentationLoss):
    """Cross-entropy with a weight for every voxel and every class.

    Always of scores (logits), as torch's. Where classes exclude each other, which ``softmax`` says and
    which is the default, it is a softmax's, and ``include_background=False`` leaves out the voxels of class
    0. With ``sigmoid`` each channel is a yes or no of its own, and ``weight`` is of the yes.

    ``weight_map`` is where the U-Net's border weights go (:func:`medseg.transforms.border_weight_map`);
    ``reduction="sum"`` is that paper's energy, ``"mean"`` divides it by the sum of the weights.

    Args:
        **options: As for :class:`~medseg.losses.SegmentationLoss`.

    Example:
        >>> loss = WeightedCrossEntropyLoss(to_onehot_y=True)
        >>> scores, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[[0, 1]]]])
        >>> round(loss(scores, target, weight_map=torch.tensor([[[[3.0, 0.0]]]])).item(), 4)
        0.6931

    References:
        Ronneberger, Fischer, Brox, U-Net, MICCAI 2015.
    """

    gamma = 0.0
    fraction = 1.0

    def __init__(self, **options: Unpack[LossOptions]) -> None:
        super().__init__(**options)
        self.activation = self.activation or "softmax"

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of what has been checked."""
        if self.activation == "sigmoid":
            return self._of_channels(comparison)
        weights = self.class_weights(comparison.channels)
        if not self.include_background:
            counted = comparison.channels - 1
            weights = torch.ones(counted, device=comparison.scores.device) if weights is None else weights
            weights = torch.cat([weights.new_zeros(1), weights])
        return cross_entropy(
            comparison.log_probabilities,
            comparison.target,
            comparison.weight_map,
            class_weights=weights,
            gamma=self.gamma,
            fraction=self.fraction,
            reduction=self.reduction,
            over_processes=self.over_processes,
        )

    def _of_channels(self, comparison: Comparison) -> Tensor:
        first = 0 if self.include_background else 1
        return binary_cross_entropy(
            comparison.scores[:, first:],
            comparison.memberships[:, first:],
            comparison.weight_map,
            positive_weights=self.class_weights(comparison.channels),
            gamma=self.gamma,
            fraction=self.fraction,
            reduction=self.reduction,
            over_processes=self.over_processes,
        )


class FocalLoss(WeightedCrossEntropyLoss):
    """Focal loss: cross-entropy in which voxels that are nearly right count less.

    The paper's alpha is ``weight=(1 - alpha, alpha)``. Unlike MONAI's, it is cross-entropy's equal with
    gamma 0 in every reduction (MONAI divides by the classes too, and by the voxels in a sum), and what a
    softmax is of does not depend on whether the background counts.

    Args:
        gamma: How much less: voxels count with (1 - p)^gamma, p being the right class's probability.
        **options: As for :class:`~medseg.losses.WeightedCrossEntropyLoss`.

    Raises:
        ConfigError: ``gamma`` is negative.

    Example:
        >>> loss = FocalLoss(to_onehot_y=True)
        >>> round(loss(torch.zeros(1, 2, 1, 1), torch.tensor([[[[1]]]])).item(), 4)  # 0.5^2 · log 2
        0.1733

    References:
        Lin et al., Focal loss for dense object detection, ICCV 2017.
    """

    def __init__(self, *, gamma: float = 2.0, **options: Unpack[LossOptions]) -> None:
        super().__init__(**options)
        check_not_negative(gamma=gamma)
        self.gamma = float(gamma)


class TopKLoss(WeightedCrossEntropyLoss):
    """Cross-entropy of the hardest voxels of a batch.

    Hardest are those with the highest weighted values; voxels of weight zero are not among those of which
    the fraction is taken.

    Args:
        fraction: Which part of the voxels is taken; with ``sigmoid`` of voxels and channels.
        **options: As for :class:`~medseg.losses.WeightedCrossEntropyLoss`.

    Raises:
        ConfigError: ``fraction`` is not above 0 and at most 1.

    Example:
        >>> loss = TopKLoss(fraction=0.5, to_onehot_y=True)
        >>> scores = torch.tensor([[[[5.0, 0.0]], [[0.0, 0.0]]]])
        >>> round(loss(scores, torch.tensor([[[[0, 0]]]])).item(), 4)
        0.6931

    References:
        Wu, Shen, van den Hengel, Bridging category-level and instance-level semantic image segmentation,
        2016.
    """

    def __init__(self, *, fraction: float = 0.1, **options: Unpack[LossOptions]) -> None:
        super().__init__(**options)
        if not 0.0 < fraction <= 1.0:
            raise ConfigError(
                f"{fraction} is no part of the voxels", where="fraction", fix="give more than 0, at most 1"
            )
        self.fraction = float(fraction)
