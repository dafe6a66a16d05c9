"""Losses: pure functions in :mod:`~medseg.losses.functional`, modules with MONAI's options here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medseg.losses.modules import (
    BoundaryLoss,
    DeepSupervisionLoss,
    DiceBoundaryLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceHausdorffDTLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    HausdorffDTLoss,
    JaccardLoss,
    SegmentationLoss,
    TopKLoss,
    TverskyLoss,
    WeightedCrossEntropyLoss,
)
from medseg.registry import LOSSES

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BoundaryLoss",
    "DeepSupervisionLoss",
    "DiceBoundaryLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceHausdorffDTLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "HausdorffDTLoss",
    "JaccardLoss",
    "SegmentationLoss",
    "TopKLoss",
    "TverskyLoss",
    "WeightedCrossEntropyLoss",
    "build_loss",
    "loss_names",
]


def loss_names() -> tuple[str, ...]:
    """Names of all registered losses, sorted.

    Example:
        >>> "dice_ce" in loss_names()
        True
    """
    return LOSSES.names()


def build_loss(name: str, **options: Any) -> nn.Module:
    """Make the loss called ``name``.

    Args:
        name: One of :func:`loss_names`.
        **options: What the loss takes, such as ``softmax``, ``to_onehot_y`` or ``batch``.

    Raises:
        ConfigError: The name or an option is unknown, or a value is invalid.

    Example:
        >>> build_loss("dice_ce", softmax=True, to_onehot=True)
        Traceback (most recent call last):
        medseg.errors.ConfigError: loss 'dice_ce': has no option 'to_onehot'; did you mean 'to_onehot_y'?
    """
    loss: nn.Module = LOSSES.build(name, **options)
    return loss
