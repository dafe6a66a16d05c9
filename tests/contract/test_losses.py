"""What every registered loss keeps to, in 2D and 3D, with class indices and with memberships."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.losses import build_loss, loss_names

CLASSES = 3
SIZE = (4, 5, 3)
CASES = list(itertools.product(loss_names(), ("softmax", "sigmoid"), (2, 3)))
every_loss = pytest.mark.parametrize(
    ("name", "activation", "dims"), CASES, ids=["-".join(map(str, c)) for c in CASES]
)


def build(name: str, activation: str, **options: Any) -> nn.Module:
    return build_loss(name, **{activation: True, "to_onehot_y": True, **options})


def example(dims: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, CLASSES, *SIZE[:dims], generator=generator, dtype=dtype)
    return scores, torch.randint(0, CLASSES, (2, 1, *SIZE[:dims]), generator=generator)


def confident(labels: Tensor, scale: float = 60.0) -> Tensor:
    """Scores of a network that is right everywhere."""
    return scale * (2.0 * nn.functional.one_hot(labels[:, 0], CLASSES).movedim(-1, 1).float() - 1.0)


@every_loss
def test_right_is_zero_wrong_is_not_and_guessing_lies_between(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation)
    _, labels = example(dims)
    right, wrong = loss(confident(labels), labels), loss(confident((labels + 1) % CLASSES), labels)
    guess = loss(torch.zeros(2, CLASSES, *SIZE[:dims]), labels)
    assert right.shape == ()
    assert 0.0 <= right.item() < 1e-3
    assert right < guess < wrong


@every_loss
def test_target_comes_as_indices_of_any_type_or_as_memberships(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims)
    expected = build(name, activation)(scores, labels)
    for dtype in (torch.uint8, torch.int16, torch.float32):
        torch.testing.assert_close(build(name, activation)(scores, labels.to(dtype)), expected)
    memberships = nn.functional.one_hot(labels[:, 0], CLASSES).movedim(-1, 1)
    for target in (memberships, memberships.bool(), memberships.float()):
        torch.testing.assert_close(build(name, activation, to_onehot_y=False)(scores, target), expected)


@every_loss
def test_a_weight_map_of_ones_changes_nothing_and_another_does(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation)
    scores, labels = example(dims)
    ones = torch.ones(2, 1, *SIZE[:dims])
    torch.testing.assert_close(loss(scores, labels, ones), loss(scores, labels))
    ramp = torch.linspace(0.0, 5.0, ones.numel()).view(ones.shape)
    assert abs(loss(scores, labels, ramp).item() - loss(scores, labels).item()) > 1e-4


@every_loss
def test_voxels_of_weight_zero_have_no_say(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation)
    scores, labels = example(dims)
    weights = torch.ones(2, 1, *SIZE[:dims])
    weights[..., 0] = 0.0
    scores.requires_grad_()
    loss(scores, labels, weights).backward()
    assert scores.grad is not None
    assert (scores.grad[..., 0] == 0.0).all()
    assert scores.grad[..., 1:].abs().sum() > 0


@pytest.mark.parametrize("name", loss_names())
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_voxels_does_not_matter(name: str, seed: int) -> None:
    scores, labels = example(3, seed, torch.float64)
    order = torch.randperm(labels[0].numel(), generator=torch.Generator().manual_seed(seed))
    shuffled = scores.flatten(2)[..., order].view_as(scores)
    shuffled_labels = labels.flatten(2)[..., order].view_as(labels)
    for activation in ("softmax", "sigmoid"):
        loss = build(name, activation)
        torch.testing.assert_close(loss(shuffled, shuffled_labels), loss(scores, labels))


@every_loss
def test_gradients_in_double(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims, dtype=torch.float64)
    corner = (..., *(slice(2),) * dims)
    weights = torch.rand(2, 1, *(2,) * dims, dtype=torch.float64)
    loss = build(name, activation)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, labels[corner], weights), (scores[corner].clone().requires_grad_(),)
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(
    name: str, activation: str, dims: int, dtype: torch.dtype
) -> None:
    loss = build(name, activation)
    scores, labels = example(dims)
    half = scores.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half.requires_grad_(), labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(half.detach().float(), labels))
    value.backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert torch.isfinite(half.grad).all()


@every_loss
def test_extreme_scores_stay_finite(name: str, activation: str, dims: int) -> None:
    _, labels = example(dims)
    scores = confident((labels + 1) % CLASSES, scale=1e4).requires_grad_()
    value = build(name, activation)(scores, labels)
    value.backward()
    assert torch.isfinite(value)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@every_loss
def test_shapes_that_do_not_fit_are_refused(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation)
    scores, labels = example(dims)
    with pytest.raises(InputError, match=r"^target: has shape"):
        loss(scores, labels[..., :1])
    with pytest.raises(InputError, match=r"^target: has shape"):
        loss(scores, labels[:, 0])
    with pytest.raises(InputError, match=r"^weight_map: has shape"):
        loss(scores, labels, torch.ones(2, *SIZE[:dims]))
    with pytest.raises(InputError, match="to_onehot_y=True"):
        build(name, activation, to_onehot_y=False)(scores, labels)
    with pytest.raises(InputError, match=r"holds labels 0 to 3"):
        loss(scores, labels.clone().fill_(3).index_fill_(0, torch.tensor([0]), 0))


@every_loss
def test_options_are_shared_and_checked(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims)
    whole, foreground = (
        build(name, activation, include_background=flag)(scores, labels) for flag in (True, False)
    )
    assert whole.item() != foreground.item()
    total = build(name, activation, reduction="sum")(scores, labels)
    assert total > build(name, activation, reduction="mean")(scores, labels)
    with pytest.raises(ConfigError, match="exclude each other"):
        build(name, activation, softmax=True, sigmoid=True)
    with pytest.raises(ConfigError, match="reduction"):
        build(name, activation, reduction="median")
