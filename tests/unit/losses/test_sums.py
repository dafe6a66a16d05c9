"""Dice plus another loss is the sum of the two, and MONAI's where that is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss as MonaiDiceCELoss
from monai.losses import DiceFocalLoss as MonaiDiceFocalLoss
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.losses import (
    BoundaryLoss,
    DiceBoundaryLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceHausdorffDTLoss,
    DiceLoss,
    FocalLoss,
    HausdorffDTLoss,
    WeightedCrossEntropyLoss,
)

MUTUAL = {"softmax": True, "to_onehot_y": True}
PAIRS: list[tuple[type, type, str, dict[str, Any]]] = [
    (DiceCELoss, WeightedCrossEntropyLoss, "lambda_ce", {}),
    (DiceFocalLoss, FocalLoss, "lambda_focal", {"gamma": 1.5}),
    (DiceBoundaryLoss, BoundaryLoss, "lambda_boundary", {"spacing_mm": (1.0, 2.0, 3.0)}),
    (DiceHausdorffDTLoss, HausdorffDTLoss, "lambda_hausdorff", {"alpha": 1.0, "spacing_mm": (1.0, 2.0, 3.0)}),
]
every_pair = pytest.mark.parametrize(("made", "second", "factor", "options"), PAIRS)


def example(classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, classes, 4, 5, 3, generator=generator)
    labels = torch.randint(0, max(2, classes), (2, 1, 4, 5, 3), generator=generator)
    return scores, labels, torch.rand(2, 1, 4, 5, 3, generator=generator)


@every_pair
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("include_background", [False, True])
def test_sums_are_of_their_parts(
    made: type,
    second: type,
    factor: str,
    options: dict[str, Any],
    activation: str,
    reduction: str,
    include_background: bool,
) -> None:
    scores, labels, weights = example()
    shared = {activation: True, "to_onehot_y": True, "reduction": reduction, "weight": (0.5, 2.0, 1.0)}
    shared |= {"ignore_index": 2, "include_background": include_background}
    region = {"smooth_nr": 0.1, "smooth_dr": 0.2, "batch": True, "squared_pred": True}
    whole = made(**shared, **region, **options, lambda_dice=0.3, **{factor: 2.0})(scores, labels, weights)
    if second in (WeightedCrossEntropyLoss, FocalLoss):
        options = options | {"include_background": True}
    dice = DiceLoss(**shared, **region)(scores, labels, weights)
    other = second(**{**shared, **options})(scores, labels, weights)
    torch.testing.assert_close(whole, 0.3 * dice + 2.0 * other)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [None, (0.5, 2.0, 1.0)])
def test_dice_ce_is_monai_s(
    batch: bool, include_background: bool, reduction: str, weight: tuple[float, ...] | None
) -> None:
    scores, labels, _ = example()
    options = {**MUTUAL, "batch": batch, "include_background": include_background, "reduction": reduction}
    factors = None if weight is None else torch.tensor(weight)
    torch.testing.assert_close(
        DiceCELoss(**options, weight=weight, lambda_dice=0.3, lambda_ce=2.0)(scores, labels),
        MonaiDiceCELoss(**options, weight=factors, lambda_dice=0.3, lambda_ce=2.0)(scores, labels),
    )


def test_one_channel_is_monai_s() -> None:
    scores, labels, _ = example(classes=1)
    for options in ({"sigmoid": True}, {"sigmoid": True, "to_onehot_y": True}):
        torch.testing.assert_close(
            DiceCELoss(**options)(scores, labels), MonaiDiceCELoss(sigmoid=True)(scores, labels.float())
        )


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_dice_focal_of_independent_channels_is_monai_s(gamma: float) -> None:
    scores, labels, _ = example()
    memberships = nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)
    options = {"sigmoid": True, "gamma": gamma, "lambda_focal": 0.7}
    torch.testing.assert_close(
        DiceFocalLoss(**options)(scores, memberships),
        MonaiDiceFocalLoss(**options)(scores, memberships.float()),
    )


@every_pair
def test_invalid_options_are_refused(made: type, second: type, factor: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="pass softmax=True, or sigmoid=True"):
        made(**options)
    with pytest.raises(ConfigError, match="unknown reduction 'none'"):
        made(**options, softmax=True, reduction="none")
    for name in (factor, "lambda_dice"):
        with pytest.raises(ConfigError, match=rf"^{name}: -1.0 is not 0 or more"):
            made(**options, softmax=True, **{name: -1.0})
    assert isinstance(made(**options, softmax=True).other, second)
