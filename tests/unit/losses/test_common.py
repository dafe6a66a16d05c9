"""Precision, class indices, reductions and levels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, InputError
from medseg.losses import functional
from medseg.losses.functional.common import check_not_negative


def test_full_precision_keeps_double() -> None:
    assert functional.full_precision(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert functional.full_precision(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_class_masks_refuse_several_channels() -> None:
    with pytest.raises(InputError, match="has 2 channels, class indices have one"):
        functional.class_masks(torch.zeros(1, 2, 3, 3), 2)


def test_reductions_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0], [2.0, 6.0]])
    assert functional.reduce_classes(values).item() == 3.0
    assert functional.reduce_classes(values, "sum").item() == 12.0
    assert functional.reduce_classes(values, "none", spatial_dims=2).shape == (2, 2, 1, 1)
    assert functional.weigh_classes(values, torch.tensor([1.0, 0.5])).tolist() == [[1.0, 1.5], [2.0, 3.0]]
    weights = torch.tensor([[1.0, 1.0], [1.0, 3.0]])
    assert functional.reduce_voxels(values, weights).item() == 2.0
    assert functional.reduce_voxels(values, weights, "sum").item() == 12.0
    assert functional.reduce_voxels(values, weights, "none") is values


def test_reductions_are_checked() -> None:
    with pytest.raises(ConfigError, match="unknown reduction 'man'; did you mean 'mean'"):
        functional.reduce_classes(torch.zeros(1, 1), "man")
    with pytest.raises(ConfigError, match="unknown reduction 'man'; did you mean 'mean'"):
        functional.reduce_voxels(torch.zeros(1), torch.zeros(1), "man")


@pytest.mark.parametrize("number", [-1e-9, float("nan")])
def test_negative_numbers_are_refused_by_name(number: float) -> None:
    check_not_negative(alpha=0.0)
    with pytest.raises(ConfigError, match=r"^gamma: .* is not 0 or more"):
        check_not_negative(alpha=1.0, gamma=number)


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
