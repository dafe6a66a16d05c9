"""What losses share: options, checks, ignored voxels, levels; most of it is in the contract of them all."""

from __future__ import annotations

import inspect
from typing import Any, Unpack

import pytest
import torch
from monai.losses import DeepSupervisionLoss as MonaiDeepSupervisionLoss
from monai.losses import DiceCELoss as MonaiDiceCELoss
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.losses import (
    DeepSupervisionLoss,
    DiceCELoss,
    DiceLoss,
    SegmentationLoss,
    WeightedCrossEntropyLoss,
    build_loss,
)
from medseg.losses.modules.base import Comparison, LossOptions
from medseg.losses.modules.regions import DiceOptions, RegionLoss, RegionOptions

MUTUAL = {"softmax": True, "to_onehot_y": True}


def example(classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 4, 5, 3, generator=generator)
    return scores, torch.randint(0, max(2, classes), (2, 1, 4, 5, 3), generator=generator)


@pytest.mark.parametrize(
    ("loss", "options"),
    [(SegmentationLoss, LossOptions), (RegionLoss, RegionOptions), (DiceLoss, DiceOptions)],
)
def test_options_are_typed_as_they_are_taken(loss: type, options: type) -> None:
    assert set(inspect.signature(loss).parameters) == set(options.__annotations__)


def test_whoever_derives_from_a_loss_has_its_options_in_the_signature() -> None:
    class Own(SegmentationLoss):
        def __init__(self, power: float = 1.0, **options: Unpack[LossOptions]) -> None:
            super().__init__(**options)
            self.power = power

        def compare(self, comparison: Comparison) -> Tensor:
            return comparison.probabilities.pow(self.power).mean()

    class Derived(Own):
        """Without a constructor of its own."""

    expected = ["power", *inspect.signature(SegmentationLoss).parameters]
    for loss in (Own, Derived):
        assert list(inspect.signature(loss).parameters) == expected
        assert loss(2.0, softmax=True)(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)).item() == 0.25
    with pytest.raises(TypeError, match="unexpected keyword argument 'batch'"):
        Own(batch=True)


def test_ignored_memberships() -> None:
    scores, labels = example()
    ignored = labels == 1
    loss = DiceCELoss(**MUTUAL, ignore_index=1)
    memberships = nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    torch.testing.assert_close(
        DiceCELoss(softmax=True, ignore_index=1)(scores, memberships), loss(scores, labels)
    )
    # A value that is no class's: of indices, and in all channels of memberships.
    elsewhere = DiceCELoss(**MUTUAL, ignore_index=9)(scores, labels.masked_fill(ignored, 9))
    torch.testing.assert_close(elsewhere, loss(scores, labels))
    filled = memberships.masked_fill(ignored, 9.0)
    torch.testing.assert_close(DiceCELoss(softmax=True, ignore_index=9)(scores, filled), elsewhere)


def test_ignored_voxels_of_one_channel() -> None:
    scores, labels = example(classes=1)
    kept = labels.clone()
    labels[..., 0] = 255
    for options in ({"to_onehot_y": True}, {}):
        loss = DiceCELoss(sigmoid=True, ignore_index=255, **options)
        torch.testing.assert_close(loss(scores, labels), loss(scores[..., 1:], kept[..., 1:]))
    with pytest.raises(InputError, match="holds labels 0 to 255, the input tells 2 classes apart"):
        DiceLoss(sigmoid=True, to_onehot_y=True)(scores, labels)


def test_deep_supervision_is_monai_s_but_for_the_scale() -> None:
    generator = torch.Generator().manual_seed(1)
    scores, labels = example()
    levels = [scores, *(torch.randn(2, 3, *size, generator=generator) for size in ((2, 5, 3), (2, 2, 1)))]
    theirs = MonaiDeepSupervisionLoss(MonaiDiceCELoss(**MUTUAL))(levels, labels.float())
    ours = DeepSupervisionLoss(DiceCELoss(**MUTUAL))(levels, labels)
    torch.testing.assert_close(ours, theirs / 1.75)
    torch.testing.assert_close(
        DeepSupervisionLoss(DiceCELoss(**MUTUAL), weights=(1.0, 0.5, 0.25))(levels, labels), theirs
    )


def test_deep_supervision_takes_any_loss() -> None:
    scores, labels = example()
    calls = []

    class Other(nn.Module):
        def forward(self, input: Tensor, target: Tensor, weight_map: Tensor | None) -> Tensor:
            calls.append((input.shape, target.shape, weight_map))
            return input.mean()

    value = DeepSupervisionLoss(Other())([scores], labels)
    assert value == scores.mean()
    assert calls == [(scores.shape, labels.shape, None)]


def test_deep_supervision_brings_weights_down_with_the_target() -> None:
    scores = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 0, 1, 1]]).expand(1, 1, 4, 4)
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


def test_one_softmax_serves_both_parts_of_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = example()
    expected = DiceCELoss(**MUTUAL)(scores, labels)

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("a second softmax")

    monkeypatch.setattr(torch, "softmax", refuse)
    assert DiceCELoss(**MUTUAL)(scores, labels) == expected
    with pytest.raises(AssertionError, match="a second softmax"):
        DiceLoss(**MUTUAL)(scores, labels)


def test_inputs_without_space_are_refused() -> None:
    with pytest.raises(InputError, match=r"^input: has shape \(2, 3\)"):
        DiceLoss()(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("label", ["unlabelled", 1.5])
def test_a_label_to_ignore_is_a_whole_number(label: object) -> None:
    with pytest.raises(ConfigError, match=r"^loss 'dice': .* cannot be interpreted as an integer"):
        build_loss("dice", ignore_index=label)


def test_build_loss_names_the_loss_that_refuses() -> None:
    assert isinstance(build_loss("dice_ce", **MUTUAL), DiceCELoss)
    with pytest.raises(ConfigError, match="unknown loss 'dicece'; did you mean 'dice_ce'"):
        build_loss("dicece")
    with pytest.raises(ConfigError, match="loss 'dice_ce': has no option 'batches'; did you mean 'batch'"):
        build_loss("dice_ce", **MUTUAL, batches=True)
