"""Dice, Jaccard, Tversky and generalised Dice: by hand, by their properties, against MONAI's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss as MonaiDiceLoss
from monai.losses import GeneralizedDiceLoss as MonaiGeneralizedDiceLoss
from monai.losses import TverskyLoss as MonaiTverskyLoss
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.losses import DiceLoss, GeneralizedDiceLoss, JaccardLoss, TverskyLoss, functional
from medseg.losses.functional.regions import _sums_by_index

# Four voxels, two classes; p of class 1 is 0.9, 0.6, 0.2, 0.5 and the labels are 1, 1, 0, 0.
P1 = torch.tensor([0.9, 0.6, 0.2, 0.5], dtype=torch.float64)
P = torch.stack([1.0 - P1, P1]).view(1, 2, 1, 4)
LABELS = torch.tensor([[[[1, 1, 0, 0]]]])
WEIGHTS = torch.tensor([[[[1.0, 2.0, 0.0, 4.0]]]], dtype=torch.float64)
EXACT = {"smooth_nr": 0.0, "smooth_dr": 0.0}
MUTUAL = {"softmax": True, "to_onehot_y": True}


def example(classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 4, 5, 3, generator=generator)
    return scores, torch.randint(0, max(2, classes), (2, 1, 4, 5, 3), generator=generator)


def dice(*data: Tensor, batch: bool = False, squared: bool = False, **smoothing: float) -> Tensor:
    return functional.soft_dice(functional.region_sums(*data, batch=batch, squared=squared), **smoothing)


def test_soft_dice_by_hand() -> None:
    # Class 0: 2(0.8 + 0.5) / (0.1 + 0.4 + 0.8 + 0.5 + 2); class 1: 2(0.9 + 0.6) / (2.2 + 2).
    assert dice(P, LABELS, **EXACT).tolist() == pytest.approx(np.array([[2.6 / 3.8, 3.0 / 4.2]]))


def test_weighted_soft_dice_by_hand() -> None:
    # Class 0: 2·4·0.5 / (0.1 + 2·0.4 + 4·0.5 + 4); class 1: 2(0.9 + 2·0.6) / (0.9 + 1.2 + 2 + 3).
    assert dice(P, LABELS, WEIGHTS, **EXACT).tolist() == pytest.approx(np.array([[4.0 / 6.9, 4.2 / 7.1]]))


def test_smoothing_by_hand() -> None:
    values = dice(P, LABELS, smooth_nr=1.0, smooth_dr=2.0)
    assert values.tolist() == pytest.approx(np.array([[3.6 / 5.8, 4.0 / 6.2]]))


def test_squared_denominators_by_hand() -> None:
    # Class 1: 0.81 + 0.36 + 0.04 + 0.25 = 1.46, and 2 as its reference has it.
    assert dice(P, LABELS, squared=True, **EXACT)[0, 1].item() == pytest.approx(3.0 / 3.46)
    soft = torch.tensor([[[[0.5, 0.0]]]])
    assert dice(soft, soft, squared=True, **EXACT).item() == pytest.approx(1.0)


def test_batch_dice_sums_before_it_divides() -> None:
    both = torch.cat([P, P.flip(1)])
    labels = torch.cat([LABELS, torch.ones_like(LABELS)])
    # Class 1 of the second image: p is 0.1, 0.4, 0.8, 0.5, all labelled 1.
    values = dice(both, labels, batch=True, **EXACT)
    assert values.shape == (1, 2)
    assert values[0, 1].item() == pytest.approx(2 * (1.5 + 1.8) / (2.2 + 1.8 + 2 + 4))


def test_jaccard_and_tversky_by_hand() -> None:
    sums = functional.region_sums(P, LABELS)
    # Class 1: common 1.5, predicted 2.2, reference 2.
    assert functional.soft_jaccard(sums, **EXACT)[0, 1].item() == pytest.approx(1.5 / 2.7)
    tversky = functional.soft_tversky(sums, 0.3, 0.7, **EXACT)
    assert tversky[0, 1].item() == pytest.approx(1.5 / (1.5 + 0.3 * 0.7 + 0.7 * 0.5))
    halves = functional.soft_tversky(sums, 0.5, 0.5, **EXACT)
    torch.testing.assert_close(halves, functional.soft_dice(sums, **EXACT))


@pytest.mark.parametrize(
    ("weighting", "background"), [("square", 1 / 9), ("simple", 1 / 3), ("uniform", 1.0)]
)
def test_generalized_dice_by_hand(weighting: str, background: float) -> None:
    p = torch.tensor([[[[0.5, 1.0, 1.0, 1.0]], [[0.5, 0.0, 0.0, 0.0]]]], dtype=torch.float64)
    sums = functional.region_sums(p, torch.tensor([[[[1, 0, 0, 0]]]]))
    expected = 2 * (0.5 + background * 3) / (1.5 + background * 6.5)
    assert functional.generalized_dice(sums, weighting, **EXACT).item() == pytest.approx(expected)
    factors = torch.tensor([2.0, 1.0])
    expected = 2 * (0.5 + 2 * background * 3) / (1.5 + 2 * background * 6.5)
    weighted = functional.generalized_dice(sums, weighting, class_weights=factors, **EXACT)
    assert weighted.item() == pytest.approx(expected)


def test_generalized_dice_of_an_absent_class_has_the_smallest_one_s_weight() -> None:
    p = torch.tensor([[0.8, 0.8, 0.0], [0.0, 0.0, 1.0], [0.2, 0.2, 0.0]], dtype=torch.float64)
    sums = functional.region_sums(p.view(1, 3, 1, 3), torch.tensor([[[[0, 0, 1]]]]))
    # Volumes 2, 1, 0, so weights 1/4, 1, 1; common 1.6, 1, 0; predicted 1.6, 1, 0.4.
    expected = 2 * (1.6 / 4 + 1) / (3.6 / 4 + 2 + 0.4)
    assert functional.generalized_dice(sums, **EXACT).item() == pytest.approx(expected)
    nothing = functional.region_sums(p.view(1, 3, 1, 3), torch.zeros(1, 3, 1, 3), torch.zeros(1, 1, 1, 3))
    assert functional.generalized_dice(nothing).item() == pytest.approx(1.0)


def test_generalized_dice_does_not_drown_in_smoothing() -> None:
    # All wrong, in a patch of a million voxels: MONAI's is 0.43, for its weights are far below the smoothing.
    target = (torch.arange(2**20) < 2**19).long().view(1, 1, 1024, 1024)
    wrong = nn.functional.one_hot(1 - target[:, 0], 2).movedim(-1, 1).float()
    assert GeneralizedDiceLoss(to_onehot_y=True)(wrong, target).item() == pytest.approx(1.0, abs=1e-6)
    assert MonaiGeneralizedDiceLoss(to_onehot_y=True)(wrong, target).item() < 0.5


def test_absent_class_is_smoothed_not_nan() -> None:
    assert torch.isfinite(dice(P, torch.ones_like(LABELS))).all()
    assert dice(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)).item() == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 5),
    weighted=st.booleans(),
    batch=st.booleans(),
    squared=st.booleans(),
)
def test_indices_and_memberships_give_the_same_sums(
    seed: int, classes: int, weighted: bool, batch: bool, squared: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(2, classes, 3, 4, 2, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, classes, (2, 1, 3, 4, 2), generator=generator)
    weights = torch.rand(2, 1, 3, 4, 2, generator=generator, dtype=torch.float64) if weighted else None
    masks = functional.class_masks(labels, classes)
    expected = functional.region_sums(p, labels, weights, batch=batch, squared=squared)
    for target in (masks, masks.double()):
        sums = functional.region_sums(p, target, weights, batch=batch, squared=squared)
        for name in ("common", "predicted", "reference"):
            torch.testing.assert_close(getattr(sums, name), getattr(expected, name))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0.0, 2.0), beta=st.floats(0.0, 2.0))
def test_overlaps_lie_between_zero_and_one_in_their_order(seed: int, alpha: float, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(1, 2, 3, 4, generator=generator, dtype=torch.float64)
    target = torch.rand(1, 2, 3, 4, generator=generator, dtype=torch.float64) > 0.5
    sums = functional.region_sums(p, target)
    jaccard, dice = functional.soft_jaccard(sums), functional.soft_dice(sums)
    for score in (jaccard, dice, functional.soft_tversky(sums, alpha, beta)):
        assert ((score >= 0.0) & (score <= 1.0)).all()
    assert (jaccard <= dice + 1e-4).all()
    torch.testing.assert_close(jaccard, dice / (2.0 - dice), rtol=1e-4, atol=1e-4)


def test_sums_count_every_voxel_beyond_what_float32_can() -> None:
    # One by one, float32 stops at 2^24; a weight of 2^24 stands for as many voxels.
    weights = torch.ones(1, 1, 1, 5)
    weights[..., 0] = 2.0**24
    p = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 1, 5)
    _, reference = _sums_by_index(p, torch.ones(1, 1, 1, 5, dtype=torch.long), weights)
    assert reference[0, 1].item() == 2.0**24 + 4


@pytest.mark.parametrize("labels", [[-1, 0], [0, 2]])
def test_labels_that_are_no_class_are_refused(labels: list[int]) -> None:
    target = torch.tensor(labels).view(1, 1, 1, 2)
    with pytest.raises(InputError, match=f"holds labels {labels[0]} to {labels[1]}"):
        functional.region_sums(torch.full((1, 2, 1, 2), 0.5), target)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [None, (0.5, 2.0, 1.0)])
def test_dice_is_monai_s(
    batch: bool, include_background: bool, reduction: str, weight: tuple[float, ...] | None
) -> None:
    scores, labels = example()
    options = {**MUTUAL, "batch": batch, "include_background": include_background, "reduction": reduction}
    counted = None if weight is None else torch.tensor(weight)[0 if include_background else 1 :]
    for squared in (False, True):
        theirs = MonaiDiceLoss(**options, weight=counted, squared_pred=squared)(scores, labels)
        for factors in (weight, counted):
            ours = DiceLoss(**options, weight=factors, squared_pred=squared)(scores, labels)
            torch.testing.assert_close(ours, theirs)


def test_dice_of_memberships_is_monai_s() -> None:
    scores, labels = example()
    memberships = nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)
    for options in ({"sigmoid": True}, {"softmax": True}, {"sigmoid": True, "reduction": "none"}):
        torch.testing.assert_close(
            DiceLoss(**options)(scores, memberships), MonaiDiceLoss(**options)(scores, memberships)
        )
    p = scores.softmax(1)
    torch.testing.assert_close(DiceLoss()(p, memberships), MonaiDiceLoss()(p, memberships))


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_jaccard_tversky_and_generalized_dice_are_monai_s(
    batch: bool, include_background: bool, reduction: str
) -> None:
    scores, labels = example()
    labels[labels == 2] = 1  # a class is absent
    options: dict[str, Any] = {
        **MUTUAL, "batch": batch, "include_background": include_background, "reduction": reduction
    }  # fmt: skip
    torch.testing.assert_close(
        JaccardLoss(**options, **EXACT)(scores, labels),
        MonaiDiceLoss(**options, **EXACT, jaccard=True)(scores, labels),
    )
    torch.testing.assert_close(
        TverskyLoss(**options, alpha=0.3, beta=0.7)(scores, labels),
        MonaiTverskyLoss(**options, alpha=0.3, beta=0.7)(scores, labels),
    )
    for w_type in functional.CLASS_WEIGHTINGS:
        torch.testing.assert_close(
            GeneralizedDiceLoss(**options, **EXACT, w_type=w_type)(scores, labels),
            MonaiGeneralizedDiceLoss(**options, **EXACT, w_type=w_type)(scores, labels),
        )


def test_tversky_prefers_what_its_prices_say() -> None:
    labels = torch.tensor([[[[1, 1, 0, 0]]]])
    invented = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]])
    missed = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    careful, eager = TverskyLoss(alpha=0.9, beta=0.1), TverskyLoss(alpha=0.1, beta=0.9)
    assert careful(invented, labels) > careful(missed, labels)
    assert eager(invented, labels) < eager(missed, labels)


def test_invalid_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^beta: -0.1 is not 0 or more"):
        TverskyLoss(beta=-0.1)
    with pytest.raises(ConfigError, match="unknown weighting 'squared'; did you mean 'square'"):
        GeneralizedDiceLoss(w_type="squared")
