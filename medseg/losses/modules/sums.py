"""Soft Dice plus another loss, from one activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack, cast

from torch import Tensor

from medseg.errors import ConfigError
from medseg.losses.functional.common import check_not_negative, check_reduction
from medseg.losses.modules.base import Comparison, LossOptions, SegmentationLoss
from medseg.losses.modules.distances import BoundaryLoss, HausdorffDTLoss
from medseg.losses.modules.regions import DiceLoss, DiceOptions
from medseg.losses.modules.voxels import FocalLoss, WeightedCrossEntropyLoss

__all__ = ["DiceBoundaryLoss", "DiceCELoss", "DiceFocalLoss", "DiceHausdorffDTLoss", "DiceSumLoss"]


class DiceSumLoss(SegmentationLoss):
    """Soft Dice and another loss of the same options, each with a factor.

    Args:
        other: The other loss.
        lambda_dice: Factor of Dice, 0 or more.
        lambda_other: Factor of the other, 0 or more.
        **options: As for :class:`~medseg.losses.DiceLoss`, but ``reduction`` is ``"mean"`` or ``"sum"``.

    Raises:
        ConfigError: Neither or both of ``sigmoid`` and ``softmax``, or an unknown reduction.
    """

    def __init__(
        self,
        other: SegmentationLoss,
        *,
        lambda_dice: float = 1.0,
        lambda_other: float = 1.0,
        **options: Unpack[DiceOptions],
    ) -> None:
        super().__init__(**_shared(options))
        if self.activation is None:
            raise ConfigError(
                "nothing says how scores become probabilities",
                where="softmax",
                fix="pass softmax=True, or sigmoid=True for classes that overlap",
            )
        check_reduction(self.reduction, ("mean", "sum"))
        self.lambda_dice = float(lambda_dice)
        self.lambda_other = float(lambda_other)
        self.dice = DiceLoss(**options)
        self.other = other

    def compare(self, comparison: Comparison) -> Tensor:
        """The sum for what has been checked; the other first, whose softmax may serve Dice as well."""
        other = self.other.compare(comparison)
        return self.lambda_dice * self.dice.compare(comparison) + self.lambda_other * other


class DiceCELoss(DiceSumLoss, options_of=DiceLoss):
    """Soft Dice plus cross-entropy.

    The cross-entropy always has the background in it. Unlike MONAI's, ``sigmoid`` makes it a binary one
    for any number of channels, not for one alone.

    Args:
        lambda_dice: Factor of Dice.
        lambda_ce: Factor of the cross-entropy.
        **options: As for :class:`~medseg.losses.DiceLoss`, but ``reduction`` is ``"mean"`` or ``"sum"``.

    Raises:
        ConfigError: Neither or both of ``sigmoid`` and ``softmax``, a negative factor, an unknown
            reduction.

    Example:
        >>> import torch
        >>> loss = DiceCELoss(softmax=True, to_onehot_y=True)
        >>> scores = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
        >>> round(loss(scores, torch.tensor([[[[0, 1]]]])).item(), 4)
        0.0
    """

    def __init__(
        self, *, lambda_dice: float = 1.0, lambda_ce: float = 1.0, **options: Unpack[DiceOptions]
    ) -> None:
        other = WeightedCrossEntropyLoss(**_with_background(options))
        check_not_negative(lambda_dice=lambda_dice, lambda_ce=lambda_ce)
        super().__init__(other, lambda_dice=lambda_dice, lambda_other=lambda_ce, **options)


class DiceFocalLoss(DiceSumLoss, options_of=DiceLoss):
    """Soft Dice plus focal loss.

    The focal loss always has the background in it. Unlike MONAI's, with ``softmax`` it is a softmax's too.

    Args:
        gamma: As for :class:`~medseg.losses.FocalLoss`.
        lambda_dice: Factor of Dice.
        lambda_focal: Factor of the focal loss.
        **options: As for :class:`~medseg.losses.DiceLoss`, but ``reduction`` is ``"mean"`` or ``"sum"``.

    Raises:
        ConfigError: As for :class:`~medseg.losses.DiceCELoss`, or ``gamma`` is negative.

    Example:
        >>> import torch
        >>> loss = DiceFocalLoss(softmax=True, to_onehot_y=True, lambda_dice=0.0)
        >>> round(loss(torch.zeros(1, 2, 1, 1), torch.tensor([[[[1]]]])).item(), 4)
        0.1733
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        **options: Unpack[DiceOptions],
    ) -> None:
        other = FocalLoss(gamma=gamma, **_with_background(options))
        check_not_negative(lambda_dice=lambda_dice, lambda_focal=lambda_focal)
        super().__init__(other, lambda_dice=lambda_dice, lambda_other=lambda_focal, **options)


class DiceBoundaryLoss(DiceSumLoss, options_of=DiceLoss):
    """Soft Dice plus boundary loss, which is meant to go with a loss of regions.

    Args:
        spacing_mm: As for :class:`~medseg.losses.BoundaryLoss`.
        lambda_dice: Factor of Dice.
        lambda_boundary: Factor of the boundary loss, per millimetre (or voxel); the paper starts at 0.01.
        **options: As for :class:`~medseg.losses.DiceLoss`, but ``reduction`` is ``"mean"`` or ``"sum"``.

    Raises:
        ConfigError: As for :class:`~medseg.losses.DiceCELoss`, or a spacing is not positive.

    Example:
        >>> import torch
        >>> loss = DiceBoundaryLoss(softmax=True, to_onehot_y=True, lambda_dice=0.0, lambda_boundary=1.0)
        >>> loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[[0, 1]]]])).item()
        0.5
    """

    def __init__(
        self,
        *,
        spacing_mm: Sequence[float] | None = None,
        lambda_dice: float = 1.0,
        lambda_boundary: float = 0.01,
        **options: Unpack[DiceOptions],
    ) -> None:
        other = BoundaryLoss(spacing_mm=spacing_mm, **_shared(options))
        check_not_negative(lambda_dice=lambda_dice, lambda_boundary=lambda_boundary)
        super().__init__(other, lambda_dice=lambda_dice, lambda_other=lambda_boundary, **options)


class DiceHausdorffDTLoss(DiceSumLoss, options_of=DiceLoss):
    """Soft Dice plus Hausdorff loss by distance transforms.

    Args:
        alpha: As for :class:`~medseg.losses.HausdorffDTLoss`.
        spacing_mm: As for :class:`~medseg.losses.HausdorffDTLoss`.
        lambda_dice: Factor of Dice.
        lambda_hausdorff: Factor of the Hausdorff loss, which is in millimetres (or voxels) to the power of
            ``alpha``.
        **options: As for :class:`~medseg.losses.DiceLoss`, but ``reduction`` is ``"mean"`` or ``"sum"``.

    Raises:
        ConfigError: As for :class:`~medseg.losses.DiceCELoss`, or ``alpha`` or a spacing is invalid.

    Example:
        >>> import torch
        >>> loss = DiceHausdorffDTLoss(softmax=True, to_onehot_y=True, lambda_dice=0.0, lambda_hausdorff=1.0)
        >>> loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[[0, 1]]]])).item()
        0.25
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        spacing_mm: Sequence[float] | None = None,
        lambda_dice: float = 1.0,
        lambda_hausdorff: float = 0.01,
        **options: Unpack[DiceOptions],
    ) -> None:
        other = HausdorffDTLoss(alpha=alpha, spacing_mm=spacing_mm, **_shared(options))
        check_not_negative(lambda_dice=lambda_dice, lambda_hausdorff=lambda_hausdorff)
        super().__init__(other, lambda_dice=lambda_dice, lambda_other=lambda_hausdorff, **options)


def _shared(options: DiceOptions) -> LossOptions:
    """Those of ``options`` that every loss takes."""
    named = {name: value for name, value in options.items() if name in LossOptions.__annotations__}
    return cast(LossOptions, named)


def _with_background(options: DiceOptions) -> LossOptions:
    shared = _shared(options)
    shared["include_background"] = True
    return shared
