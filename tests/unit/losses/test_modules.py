"""Losses as modules, against MONAI's and torch's."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss as MonaiDeepSupervisionLoss
from monai.losses import DiceCELoss as MonaiDiceCELoss
from monai.losses import DiceLoss as MonaiDiceLoss
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.losses import (
    DeepSupervisionLoss,
    DiceCELoss,
    DiceLoss,
    WeightedCrossEntropyLoss,
    build_loss,
    loss_names,
)

MUTUAL = {"softmax": True, "to_onehot_y": True}


def example(classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 4, 5, 3, generator=generator, dtype=dtype)
    return scores, torch.randint(0, max(2, classes), (2, 1, 4, 5, 3), generator=generator)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [None, (0.5, 2.0, 1.0)])
def test_dice_and_dice_ce_are_monai_s(
    batch: bool, include_background: bool, reduction: str, weight: tuple[float, ...] | None
) -> None:
    scores, labels = example()
    options = {**MUTUAL, "batch": batch, "include_background": include_background, "reduction": reduction}
    factors = None if weight is None else torch.tensor(weight)
    dice_factors = None if factors is None else factors[0 if include_background else 1 :]
    torch.testing.assert_close(
        DiceLoss(**options, weight=weight)(scores, labels),
        MonaiDiceLoss(**options, weight=dice_factors)(scores, labels),
    )
    torch.testing.assert_close(
        DiceCELoss(**options, weight=weight, lambda_dice=0.3, lambda_ce=2.0)(scores, labels),
        MonaiDiceCELoss(**options, weight=factors, lambda_dice=0.3, lambda_ce=2.0)(scores, labels),
    )


def test_sigmoid_and_memberships_are_monai_s() -> None:
    scores, labels = example()
    memberships = nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)
    for options in ({"sigmoid": True}, {"softmax": True}, {"sigmoid": True, "reduction": "none"}):
        torch.testing.assert_close(
            DiceLoss(**options)(scores, memberships), MonaiDiceLoss(**options)(scores, memberships)
        )
    probabilities = scores.softmax(1)
    torch.testing.assert_close(
        DiceLoss()(probabilities, memberships), MonaiDiceLoss()(probabilities, memberships)
    )


def test_one_channel_is_monai_s() -> None:
    scores, labels = example(classes=1)
    torch.testing.assert_close(
        DiceCELoss(sigmoid=True)(scores, labels), MonaiDiceCELoss(sigmoid=True)(scores, labels.float())
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, (0.5, 2.0, 1.0)])
def test_cross_entropy_is_torch_s(reduction: str, weight: tuple[float, ...] | None) -> None:
    scores, labels = example()
    factors = None if weight is None else torch.tensor(weight)
    ours = WeightedCrossEntropyLoss(to_onehot_y=True, reduction=reduction, weight=weight)(scores, labels)
    theirs = nn.functional.cross_entropy(scores, labels[:, 0], weight=factors, reduction=reduction)
    torch.testing.assert_close(ours.squeeze(1) if reduction == "none" else ours, theirs)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_cross_entropy_without_background(activation: str) -> None:
    scores, labels = example()
    loss = WeightedCrossEntropyLoss(to_onehot_y=True, include_background=False, **{activation: True})
    if activation == "softmax":
        expected = nn.functional.cross_entropy(scores, labels[:, 0], weight=torch.tensor([0.0, 1.0, 1.0]))
    else:
        memberships = nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)[:, 1:].float()
        expected = nn.functional.binary_cross_entropy_with_logits(scores[:, 1:], memberships)
    torch.testing.assert_close(loss(scores, labels), expected)


def test_a_weight_map_of_zeros_and_ones_leaves_the_rest_alone() -> None:
    scores, labels = example()
    weights = torch.zeros(2, 1, 4, 5, 3)
    weights[..., :2] = 1.0
    for loss in (DiceLoss(**MUTUAL), DiceCELoss(**MUTUAL), WeightedCrossEntropyLoss(to_onehot_y=True)):
        torch.testing.assert_close(loss(scores, labels, weights), loss(scores[..., :2], labels[..., :2]))


def test_deep_supervision_is_monai_s_but_for_the_scale() -> None:
    levels = [example()[0], torch.randn(2, 3, 2, 5, 3), torch.randn(2, 3, 2, 2, 1)]
    labels = example()[1]
    theirs = MonaiDeepSupervisionLoss(MonaiDiceCELoss(**MUTUAL))(levels, labels.float())
    ours = DeepSupervisionLoss(DiceCELoss(**MUTUAL))(levels, labels)
    torch.testing.assert_close(ours, theirs / 1.75)
    torch.testing.assert_close(
        DeepSupervisionLoss(DiceCELoss(**MUTUAL), weights=(1.0, 0.5, 0.25))(levels, labels), theirs
    )


def test_deep_supervision_of_one_level_is_the_loss() -> None:
    scores, labels = example()
    weights = torch.rand(2, 1, 4, 5, 3)
    loss = DiceCELoss(**MUTUAL)
    for inputs in (scores, [scores]):
        torch.testing.assert_close(
            DeepSupervisionLoss(loss)(inputs, labels, weights), loss(scores, labels, weights)
        )


def test_deep_supervision_brings_weights_down_with_the_target() -> None:
    scores, labels = torch.randn(1, 2, 2, 2), torch.tensor([[0, 0, 1, 1]]).expand(1, 1, 4, 4)
    weights = torch.arange(16.0).view(1, 1, 4, 4)
    loss = WeightedCrossEntropyLoss(to_onehot_y=True)
    coarse = loss(scores, labels[..., 1::2, 1::2], weights[..., 1::2, 1::2])
    torch.testing.assert_close(DeepSupervisionLoss(loss, weights=(1.0,))([scores], labels, weights), coarse)


def test_deep_supervision_refuses_no_level_and_too_few_weights() -> None:
    scores, labels = example()
    with pytest.raises(InputError, match="holds no level"):
        DeepSupervisionLoss(DiceLoss(**MUTUAL))([], labels)
    with pytest.raises(ConfigError, match="1 weights for 2 levels"):
        DeepSupervisionLoss(DiceLoss(**MUTUAL), weights=(1.0,))([scores, scores], labels)


def test_metatensors_give_plain_losses() -> None:
    scores, labels = example()
    for loss in (DiceLoss(**MUTUAL), DiceCELoss(**MUTUAL), WeightedCrossEntropyLoss(to_onehot_y=True)):
        value = loss(MetaTensor(scores), MetaTensor(labels.float()), MetaTensor(torch.ones(2, 1, 4, 5, 3)))
        assert type(value) is Tensor
        torch.testing.assert_close(value, loss(scores, labels))


@pytest.mark.parametrize(
    "options", [{"softmax": True, "to_onehot_y": True}, {"sigmoid": True, "to_onehot_y": True}]
)
def test_gradients_in_double(options: dict[str, bool]) -> None:
    scores, labels = example(dtype=torch.float64)
    weights = torch.rand(2, 1, 4, 5, 3, dtype=torch.float64)
    scores = scores[..., :2, :2, :1].clone().requires_grad_()
    labels, weights = labels[..., :2, :2, :1], weights[..., :2, :2, :1]
    loss = DiceCELoss(**options, weight=(0.5, 1.0, 2.0))
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, weights), (scores,))


def test_weights_follow_the_module_and_stay_out_of_its_state() -> None:
    loss = DiceCELoss(**MUTUAL, weight=(1.0, 2.0)).to("meta")
    assert loss.dice.weight is not None
    assert loss.dice.weight.device.type == "meta"
    assert not loss.state_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "pass softmax=True, or sigmoid=True"),
        ({"softmax": True, "sigmoid": True}, "sigmoid and softmax exclude each other; choose one"),
        ({"softmax": True, "reduction": "none"}, "unknown reduction 'none'"),
        ({"softmax": True, "lambda_ce": -1.0}, "lambda_ce: -1.0 is negative"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DiceCELoss(**options)


def test_one_channel_has_no_softmax() -> None:
    scores, labels = example(classes=1)
    for loss in (DiceLoss(**MUTUAL), DiceCELoss(**MUTUAL), WeightedCrossEntropyLoss(softmax=True)):
        with pytest.raises(InputError, match="has one channel"):
            loss(scores, labels)


def test_build_loss_names_the_loss_that_refuses() -> None:
    assert set(loss_names()) >= {"dice", "dice_ce", "weighted_cross_entropy"}
    assert isinstance(build_loss("dice_ce", **MUTUAL), DiceCELoss)
    with pytest.raises(ConfigError, match="unknown loss 'dicece'; did you mean 'dice_ce'"):
        build_loss("dicece")
    with pytest.raises(ConfigError, match="loss 'dice_ce': has no option 'batches'; did you mean 'batch'"):
        build_loss("dice_ce", **MUTUAL, batches=True)
