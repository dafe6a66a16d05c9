"""Cross-entropy, focal and top-k: by hand, against torch's and MONAI's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import FocalLoss as MonaiFocalLoss
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.losses import FocalLoss, TopKLoss, WeightedCrossEntropyLoss, functional

# Four voxels, two classes; p of class 1 is 0.9, 0.6, 0.2, 0.5 and the labels are 1, 1, 0, 0.
P1 = torch.tensor([0.9, 0.6, 0.2, 0.5], dtype=torch.float64)
P = torch.stack([1.0 - P1, P1]).view(1, 2, 1, 4)
LABELS = torch.tensor([[[[1, 1, 0, 0]]]])
WEIGHTS = torch.tensor([[[[1.0, 2.0, 0.0, 4.0]]]], dtype=torch.float64)
OWN = (0.9, 0.6, 0.8, 0.5)
VALUES = [-math.log(p) for p in OWN]


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, 5, 3, generator=generator, dtype=dtype)
    return scores, torch.randint(0, 3, (2, 1, 4, 5, 3), generator=generator)


def one_hot(labels: Tensor) -> Tensor:
    return nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)


def test_cross_entropy_by_hand() -> None:
    log_p = P.log()
    assert functional.cross_entropy(log_p, LABELS, reduction="none").flatten().tolist() == pytest.approx(
        VALUES
    )
    assert functional.cross_entropy(log_p, LABELS).item() == pytest.approx(sum(VALUES) / 4)
    weighted = VALUES[0] + 2 * VALUES[1] + 4 * VALUES[3]
    assert functional.cross_entropy(log_p, LABELS, WEIGHTS).item() == pytest.approx(weighted / 7)
    assert functional.cross_entropy(log_p, LABELS, WEIGHTS, reduction="sum").item() == pytest.approx(weighted)


def test_class_weights_by_hand() -> None:
    factors = torch.tensor([1.0, 3.0], dtype=torch.float64)
    expected = (3 * VALUES[0] + 3 * VALUES[1] + VALUES[2] + VALUES[3]) / 8
    assert functional.cross_entropy(P.log(), LABELS, class_weights=factors).item() == pytest.approx(expected)


def test_cross_entropy_where_nothing_counts_is_zero() -> None:
    log_p = P.log().requires_grad_()
    for options in ({}, {"gamma": 2.0}, {"fraction": 0.5}):
        loss = functional.cross_entropy(log_p, LABELS, torch.zeros_like(WEIGHTS), **options)
        (gradient,) = torch.autograd.grad(loss, log_p)
        assert loss.item() == 0.0
        assert torch.isfinite(gradient).all()


def test_binary_cross_entropy_by_hand() -> None:
    logits = torch.log(P1 / (1.0 - P1)).view(1, 1, 1, 4)
    assert functional.binary_cross_entropy(logits, LABELS).item() == pytest.approx(sum(VALUES) / 4)
    weighted = (VALUES[0] + 2 * VALUES[1] + 4 * VALUES[3]) / 7
    assert functional.binary_cross_entropy(logits, LABELS, WEIGHTS).item() == pytest.approx(weighted)
    positive = (5 * VALUES[0] + 5 * VALUES[1] + VALUES[2] + VALUES[3]) / 4
    factors = torch.tensor([5.0])
    assert functional.binary_cross_entropy(logits, LABELS, positive_weights=factors).item() == pytest.approx(
        positive
    )


def test_focal_by_hand() -> None:
    focal = [(1 - p) ** 2 * value for p, value in zip(OWN, VALUES, strict=True)]
    values = functional.cross_entropy(P.log(), LABELS, gamma=2.0, reduction="none")
    assert values.flatten().tolist() == pytest.approx(focal)
    logits = torch.log(P1 / (1.0 - P1)).view(1, 1, 1, 4)
    values = functional.binary_cross_entropy(logits, LABELS, gamma=2.0, reduction="none")
    assert values.flatten().tolist() == pytest.approx(focal)


def test_top_k_by_hand() -> None:
    # From the hardest: 0.5, 0.6, 0.8, 0.9.
    half = functional.cross_entropy(P.log(), LABELS, fraction=0.5)
    assert half.item() == pytest.approx((VALUES[3] + VALUES[1]) / 2)
    one = functional.cross_entropy(P.log(), LABELS, fraction=0.01, reduction="none")
    assert one.flatten().tolist() == pytest.approx([0.0, 0.0, 0.0, VALUES[3]])
    # Weighted: 0.105, 1.02, left out, 2.77; a third of the three that count is one.
    third = functional.cross_entropy(P.log(), LABELS, WEIGHTS, fraction=1 / 3)
    assert third.item() == pytest.approx(VALUES[3])
    two_thirds = functional.cross_entropy(P.log(), LABELS, WEIGHTS, fraction=2 / 3)
    assert two_thirds.item() == pytest.approx((4 * VALUES[3] + 2 * VALUES[1]) / 6)


def test_top_k_takes_equals_alike() -> None:
    log_p = torch.full((1, 2, 1, 4), 0.5).log()
    values = functional.cross_entropy(log_p, LABELS, fraction=0.25, reduction="none")
    assert torch.allclose(values, torch.full((1, 1, 1, 4), math.log(2.0)))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 5),
    weighted=st.booleans(),
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
    fraction=st.sampled_from([0.3, 1.0]),
)
def test_indices_and_memberships_give_the_same(
    seed: int, classes: int, weighted: bool, gamma: float, fraction: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_p = torch.randn(2, classes, 3, 4, 2, generator=generator, dtype=torch.float64).log_softmax(1)
    labels = torch.randint(0, classes, (2, 1, 3, 4, 2), generator=generator)
    weights = torch.rand(2, 1, 3, 4, 2, generator=generator, dtype=torch.float64) if weighted else None
    factors = torch.rand(classes, generator=generator, dtype=torch.float64)
    masks = functional.class_masks(labels, classes)
    for reduction in functional.REDUCTIONS:
        options = {"class_weights": factors, "gamma": gamma, "fraction": fraction, "reduction": reduction}
        expected = functional.cross_entropy(log_p, labels, weights, **options)
        for target in (masks, masks.double()):
            torch.testing.assert_close(functional.cross_entropy(log_p, target, weights, **options), expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.floats(0.0, 3.0), high=st.floats(0.0, 3.0))
def test_more_focus_is_less_loss_and_fewer_voxels_more(seed: int, low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_p = torch.randn(1, 3, 4, 5, generator=generator, dtype=torch.float64).log_softmax(1)
    labels = torch.randint(0, 3, (1, 1, 4, 5), generator=generator)
    low, high = sorted((low, high))
    assert functional.cross_entropy(log_p, labels, gamma=high) <= functional.cross_entropy(
        log_p, labels, gamma=low
    )
    few, many = (functional.cross_entropy(log_p, labels, fraction=part) for part in (0.2, 0.7))
    assert few >= many >= functional.cross_entropy(log_p, labels)


@pytest.mark.parametrize("labels", [[-1, 0], [0, 2]])
def test_labels_that_are_no_class_are_refused(labels: list[int]) -> None:
    target = torch.tensor(labels).view(1, 1, 1, 2)
    with pytest.raises(InputError, match=f"holds labels {labels[0]} to {labels[1]}"):
        functional.cross_entropy(torch.zeros(1, 2, 1, 2), target)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, (0.5, 2.0, 1.0)])
def test_cross_entropy_is_torch_s(reduction: str, weight: tuple[float, ...] | None) -> None:
    scores, labels = example()
    factors = None if weight is None else torch.tensor(weight)
    ours = WeightedCrossEntropyLoss(to_onehot_y=True, reduction=reduction, weight=weight)(scores, labels)
    theirs = nn.functional.cross_entropy(scores, labels[:, 0], weight=factors, reduction=reduction)
    torch.testing.assert_close(ours.squeeze(1) if reduction == "none" else ours, theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, (0.5, 2.0, 1.0)])
def test_binary_cross_entropy_is_torch_s(reduction: str, weight: tuple[float, ...] | None) -> None:
    scores, labels = example()
    options = {"sigmoid": True, "to_onehot_y": True, "reduction": reduction, "weight": weight}
    factors = None if weight is None else torch.tensor(weight).view(3, 1, 1, 1)
    torch.testing.assert_close(
        WeightedCrossEntropyLoss(**options)(scores, labels),
        nn.functional.binary_cross_entropy_with_logits(
            scores, one_hot(labels).float(), pos_weight=factors, reduction=reduction
        ),
    )


def test_binary_cross_entropy_of_partial_memberships_is_torch_s() -> None:
    scores, _ = example(torch.float64)
    memberships = torch.rand(scores.shape, dtype=torch.float64)
    torch.testing.assert_close(
        functional.binary_cross_entropy(scores, memberships),
        nn.functional.binary_cross_entropy_with_logits(scores, memberships),
    )


@pytest.mark.parametrize("ignored", [255, -1, 1])
def test_ignored_voxels_are_torch_s(ignored: int) -> None:
    scores, labels = example()
    labels = labels.where(torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) > 0.3, ignored)
    ours = WeightedCrossEntropyLoss(to_onehot_y=True, ignore_index=ignored, weight=(0.5, 2.0, 1.0))
    theirs = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.0]), ignore_index=ignored)
    torch.testing.assert_close(ours(scores, labels), theirs(scores, labels[:, 0]))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("weight", [None, (2.0, 1.0), (5.0, 2.0, 1.0)])
def test_cross_entropy_without_background(activation: str, weight: tuple[float, ...] | None) -> None:
    scores, labels = example()
    options = {activation: True, "to_onehot_y": True, "include_background": False, "weight": weight}
    loss = WeightedCrossEntropyLoss(**options)
    counted = torch.ones(2) if weight is None else torch.tensor(weight)[-2:]
    if activation == "softmax":
        factors = torch.cat([torch.zeros(1), counted])
        expected = nn.functional.cross_entropy(scores, labels[:, 0], weight=factors)
    else:
        expected = nn.functional.binary_cross_entropy_with_logits(
            scores[:, 1:], one_hot(labels)[:, 1:].float(), pos_weight=counted.view(2, 1, 1, 1)
        )
    torch.testing.assert_close(loss(scores, labels), expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_focal_is_monai_s(activation: str, gamma: float) -> None:
    scores, labels = example()
    theirs = MonaiFocalLoss(
        to_onehot_y=True, gamma=gamma, use_softmax=activation == "softmax", reduction="none"
    )
    ours = FocalLoss(to_onehot_y=True, gamma=gamma, reduction="none", **{activation: True})
    expected = theirs(scores, labels)
    if activation == "softmax":  # MONAI's has a channel a class, of which one is not zero
        expected = expected.sum(1, keepdim=True)
    torch.testing.assert_close(ours(scores, labels), expected)


def test_focal_alpha_is_a_class_weight() -> None:
    scores, labels = example()
    theirs = MonaiFocalLoss(to_onehot_y=True, use_softmax=True, alpha=0.75, reduction="none")
    ours = FocalLoss(to_onehot_y=True, weight=(0.25, 0.75, 0.75), reduction="none")
    torch.testing.assert_close(ours(scores, labels), theirs(scores, labels).sum(1, keepdim=True))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_focal_has_gradients_where_all_is_right(activation: str, gamma: float) -> None:
    labels = torch.zeros(1, 1, 1, 1, dtype=torch.long)
    scores = torch.tensor([[[[200.0]], [[-200.0]]]], requires_grad=True)
    FocalLoss(to_onehot_y=True, gamma=gamma, **{activation: True})(scores, labels).backward()
    assert scores.grad is not None
    assert (scores.grad == 0.0).all()


def test_top_k_of_all_is_cross_entropy() -> None:
    scores, labels = example()
    weights = torch.rand(2, 1, 4, 5, 3)
    torch.testing.assert_close(
        TopKLoss(fraction=1.0, to_onehot_y=True)(scores, labels, weights),
        WeightedCrossEntropyLoss(to_onehot_y=True)(scores, labels, weights),
    )


def test_invalid_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^gamma: -1.0 is not 0 or more"):
        FocalLoss(gamma=-1.0)
    for fraction in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"^fraction: {fraction} is no part of the voxels"):
            TopKLoss(fraction=fraction)
