"""Losses as functions, on arrays small enough to be computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, InputError
from medseg.losses import functional

# Four voxels, two classes; p of class 1 is 0.9, 0.6, 0.2, 0.5 and the labels are 1, 1, 0, 0.
P1 = torch.tensor([0.9, 0.6, 0.2, 0.5], dtype=torch.float64)
P = torch.stack([1.0 - P1, P1]).view(1, 2, 1, 4)
LABELS = torch.tensor([[[[1, 1, 0, 0]]]])
WEIGHTS = torch.tensor([[[[1.0, 2.0, 0.0, 4.0]]]], dtype=torch.float64)
EXACT = {"smooth_nr": 0.0, "smooth_dr": 0.0}


def test_soft_dice_by_hand() -> None:
    # Class 0: 2(0.8 + 0.5) / (0.1 + 0.4 + 0.8 + 0.5 + 2); class 1: 2(0.9 + 0.6) / (2.2 + 2).
    expected = [[2.6 / 3.8, 3.0 / 4.2]]
    assert functional.soft_dice(P, LABELS, **EXACT).tolist() == pytest.approx(np.array(expected))


def test_weighted_soft_dice_by_hand() -> None:
    # Class 0: 2·4·0.5 / (0.1 + 2·0.4 + 4·0.5 + 4); class 1: 2(0.9 + 2·0.6) / (0.9 + 1.2 + 2 + 3).
    expected = [[4.0 / 6.9, 4.2 / 7.1]]
    assert functional.soft_dice(P, LABELS, WEIGHTS, **EXACT).tolist() == pytest.approx(np.array(expected))


def test_smoothing_by_hand() -> None:
    values = functional.soft_dice(P, LABELS, smooth_nr=1.0, smooth_dr=2.0)
    assert values.tolist() == pytest.approx(np.array([[3.6 / 5.8, 4.0 / 6.2]]))


def test_batch_dice_sums_before_it_divides() -> None:
    both = torch.cat([P, P.flip(1)])
    labels = torch.cat([LABELS, torch.ones_like(LABELS)])
    # Class 1 of the second image: p is 0.1, 0.4, 0.8, 0.5, all labelled 1.
    expected = 2 * (1.5 + 1.8) / (2.2 + 1.8 + 2 + 4)
    values = functional.soft_dice(both, labels, batch=True, **EXACT)
    assert values.shape == (1, 2)
    assert values[0, 1].item() == pytest.approx(expected)


def test_absent_class_is_smoothed_not_nan() -> None:
    values = functional.soft_dice(P, torch.ones_like(LABELS))
    assert torch.isfinite(values).all()
    assert functional.soft_dice(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)).item() == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5), weighted=st.booleans(), batch=st.booleans())
def test_indices_and_memberships_give_the_same(seed: int, classes: int, weighted: bool, batch: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 3, 4, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (2, 1, 3, 4, 2), generator=generator)
    weights = torch.rand(2, 1, 3, 4, 2, generator=generator, dtype=torch.float64) if weighted else None
    factors = torch.rand(classes, generator=generator, dtype=torch.float64)
    masks = functional.class_masks(labels, classes)
    p = scores.softmax(1)
    for target in (masks, masks.double()):
        torch.testing.assert_close(
            functional.soft_dice(p, target, weights, batch=batch),
            functional.soft_dice(p, labels, weights, batch=batch),
        )
        for reduction in functional.REDUCTIONS:
            torch.testing.assert_close(
                functional.cross_entropy(
                    p.log(), target, weights, class_weights=factors, reduction=reduction
                ),
                functional.cross_entropy(
                    p.log(), labels, weights, class_weights=factors, reduction=reduction
                ),
            )


def test_sums_count_every_voxel_beyond_what_float32_can() -> None:
    # One by one, float32 stops at 2^24; a weight of 2^24 stands for as many voxels.
    weights = torch.ones(1, 1, 1, 5)
    weights[..., 0] = 2.0**24
    p = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 1, 5)
    _, reference = functional._sums_by_index(p, torch.ones(1, 1, 1, 5, dtype=torch.long), weights)
    assert reference[0, 1].item() == 2.0**24 + 4


def test_cross_entropy_by_hand() -> None:
    own = [0.9, 0.6, 0.8, 0.5]
    values = [-math.log(p) for p in own]
    log_p = P.log()
    assert functional.cross_entropy(log_p, LABELS, reduction="none").flatten().tolist() == pytest.approx(
        values
    )
    assert functional.cross_entropy(log_p, LABELS).item() == pytest.approx(sum(values) / 4)
    weighted = values[0] + 2 * values[1] + 4 * values[3]
    assert functional.cross_entropy(log_p, LABELS, WEIGHTS).item() == pytest.approx(weighted / 7)
    assert functional.cross_entropy(log_p, LABELS, WEIGHTS, reduction="sum").item() == pytest.approx(weighted)


def test_class_weights_by_hand() -> None:
    values = [-math.log(p) for p in (0.9, 0.6, 0.8, 0.5)]
    factors = torch.tensor([1.0, 3.0], dtype=torch.float64)
    expected = (3 * values[0] + 3 * values[1] + values[2] + values[3]) / 8
    assert functional.cross_entropy(P.log(), LABELS, class_weights=factors).item() == pytest.approx(expected)


def test_cross_entropy_where_nothing_counts_is_zero() -> None:
    log_p = P.log().requires_grad_()
    loss = functional.cross_entropy(log_p, LABELS, torch.zeros_like(WEIGHTS))
    loss.backward()
    assert loss.item() == 0.0
    assert log_p.grad is not None
    assert torch.isfinite(log_p.grad).all()


def test_binary_cross_entropy_by_hand() -> None:
    logits = torch.log(P1 / (1.0 - P1)).view(1, 1, 1, 4)
    values = [-math.log(p) for p in (0.9, 0.6, 0.8, 0.5)]
    assert functional.binary_cross_entropy(logits, LABELS).item() == pytest.approx(sum(values) / 4)
    weighted = (values[0] + 2 * values[1] + 4 * values[3]) / 7
    assert functional.binary_cross_entropy(logits, LABELS, WEIGHTS).item() == pytest.approx(weighted)
    positive = (5 * values[0] + 5 * values[1] + values[2] + values[3]) / 4
    factors = torch.tensor([5.0])
    assert functional.binary_cross_entropy(logits, LABELS, positive_weights=factors).item() == pytest.approx(
        positive
    )


@pytest.mark.parametrize("labels", [[-1, 0], [0, 2]])
def test_labels_that_are_no_class_are_refused(labels: list[int]) -> None:
    target = torch.tensor(labels).view(1, 1, 1, 2)
    p = torch.full((1, 2, 1, 2), 0.5)
    for compute in (functional.soft_dice, functional.cross_entropy):
        with pytest.raises(
            InputError, match=f"holds labels {labels[0]} to {labels[1]}, the input has 2 channels"
        ):
            compute(p, target)


def test_class_masks_refuse_several_channels() -> None:
    with pytest.raises(InputError, match="has 2 channels, class indices have one"):
        functional.class_masks(torch.zeros(1, 2, 3, 3), 2)


def test_reductions_are_checked() -> None:
    with pytest.raises(ConfigError, match="unknown reduction 'man'; did you mean 'mean'"):
        functional.soft_dice_loss(P, LABELS, reduction="man")


def test_only_background_is_refused() -> None:
    with pytest.raises(InputError, match="include_background=True"):
        functional.soft_dice_loss(P[:, :1], LABELS, include_background=False)


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_deep_supervision_weights_halve_and_sum_to_one(levels: int) -> None:
    weights = functional.deep_supervision_weights(levels)
    assert sum(weights) == pytest.approx(1.0)
    assert all(a == pytest.approx(2 * b) for a, b in itertools.pairwise(weights))


@settings(max_examples=40, deadline=None)
@given(
    old=st.tuples(st.integers(1, 9), st.integers(1, 9)), new=st.tuples(st.integers(1, 9), st.integers(1, 9))
)
def test_nearest_resize_is_torch_s_nearest_exact(old: tuple[int, int], new: tuple[int, int]) -> None:
    labels = torch.arange(old[0] * old[1]).view(1, 1, *old)
    expected = torch.nn.functional.interpolate(labels.double(), size=new, mode="nearest-exact")
    resized = functional.nearest_resize(labels, new)
    assert resized.dtype == labels.dtype
    # Where a centre falls on a border, torch's float32 may go either way.
    centres = [(np.arange(n) + 0.5) * o / n for o, n in zip(old, new, strict=True)]
    safe = [torch.from_numpy(np.abs(c - np.round(c)) > 1e-4) for c in centres]
    keep = safe[0][:, None] & safe[1][None, :]
    assert torch.equal(resized[..., keep], expected[..., keep].long())


def test_full_precision_keeps_double() -> None:
    assert functional.full_precision(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert functional.full_precision(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
