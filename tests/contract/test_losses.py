"""What every registered loss keeps to, in 2D and 3D, with class indices and with memberships."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.losses import DeepSupervisionLoss, build_loss, loss_names

CLASSES = 3
SIZE = (4, 5, 3)
MEASURES_DISTANCES = [name for name in loss_names() if "boundary" in name or "hausdorff" in name]
SUMS = [name for name in loss_names() if name.startswith("dice_")]
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


@every_loss
@pytest.mark.parametrize("ignored", [255, -1, 1])
def test_ignored_voxels_are_those_of_weight_zero(name: str, activation: str, dims: int, ignored: int) -> None:
    scores, labels = example(dims)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    if ignored != 1:
        labels = labels.masked_fill(weights > 0.8, ignored)
    zeros = labels == ignored
    loss = build(name, activation, ignore_index=ignored)
    for given_weights in (None, weights):
        base = torch.ones_like(weights) if given_weights is None else weights
        expected = build(name, activation)(scores, labels.masked_fill(zeros, 0), base.masked_fill(zeros, 0.0))
        torch.testing.assert_close(loss(scores, labels, given_weights), expected)
        moved = torch.where(zeros, -scores, scores)
        torch.testing.assert_close(loss(moved, labels, given_weights), expected)


@every_loss
def test_where_all_is_ignored_there_is_no_loss(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims)
    value = build(name, activation, ignore_index=7)(scores.requires_grad_(), torch.full_like(labels, 7))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert scores.grad is not None
    assert (scores.grad == 0.0).all()


@every_loss
def test_ignored_slices_at_the_end_might_as_well_be_cut_off(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims)
    # Every class on both sides of a border, so that no distance is to be made up from the image's size.
    labels[(slice(None), 0, slice(CLASSES)) + (0,) * (dims - 1)] = torch.arange(CLASSES)
    padded = labels.clone()
    padded[..., 2:] = 255
    torch.testing.assert_close(
        build(name, activation, ignore_index=255)(scores, padded),
        build(name, activation)(scores[..., :2], labels[..., :2]),
    )


@every_loss
def test_class_weights_are_factors(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims)
    plain = build(name, activation)(scores, labels)
    ones = build(name, activation, weight=(1.0,) * CLASSES)(scores, labels)
    torch.testing.assert_close(ones, plain)
    weighted = build(name, activation, weight=(0.2, 1.0, 4.0))(scores, labels)
    assert abs(weighted.item() - plain.item()) > 1e-4
    for weight in ((1.0, 2.0, 3.0, 4.0), (1.0,)):
        with pytest.raises(ConfigError, match=rf"^weight: {len(weight)} factors for 3 classes"):
            build(name, activation, weight=weight)(scores, labels)
    for wrong in ((1.0, -2.0, 1.0), 2.0):
        with pytest.raises(ConfigError, match=r"^weight: .* are no factors|^weight: 2.0"):
            build(name, activation, weight=wrong)


@every_loss
def test_classes_may_be_numbered_otherwise(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims, dtype=torch.float64)
    order = torch.tensor([2, 0, 1])  # the new number of each class
    renumbered = torch.empty_like(scores).index_copy_(1, order, scores)
    torch.testing.assert_close(
        build(name, activation)(renumbered, order[labels]), build(name, activation)(scores, labels)
    )
    weight = torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(
        build(name, activation, weight=torch.empty(3).index_copy_(0, order, weight))(
            renumbered, order[labels]
        ),
        build(name, activation, weight=weight)(scores, labels),
    )


@pytest.mark.parametrize("name", loss_names())
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), axis=st.sampled_from([0, -1, -2, -3]), weighted=st.booleans())
def test_flips_do_not_matter_nor_does_order_in_the_batch(
    name: str, seed: int, axis: int, weighted: bool
) -> None:
    scores, labels = example(3, seed, torch.float64)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) if weighted else None
    flipped = None if weights is None else weights.flip(axis)
    for activation in ("softmax", "sigmoid"):
        loss = build(name, activation)
        torch.testing.assert_close(
            loss(scores.flip(axis), labels.flip(axis), flipped), loss(scores, labels, weights)
        )


@pytest.mark.parametrize("name", loss_names())
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 20.0))
def test_losses_are_finite_and_not_negative(name: str, seed: int, scale: float) -> None:
    scores, labels = example(3, seed)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed))
    for activation in ("softmax", "sigmoid"):
        value = build(name, activation)(scale * scores, labels, weights)
        assert torch.isfinite(value)
        assert value >= 0.0


@pytest.mark.parametrize("name", [name for name in loss_names() if name not in MEASURES_DISTANCES])
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


@every_loss
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_the_mean_is_of_what_the_others_give(name: str, activation: str, dims: int, reduction: str) -> None:
    if name in SUMS and reduction == "none":
        with pytest.raises(ConfigError, match="unknown reduction 'none'"):
            build(name, activation, reduction="none")
        return
    scores, labels = example(dims)
    values = build(name, activation, reduction=reduction)(scores, labels)
    total = build(name, activation, reduction="sum")(scores, labels)
    if reduction == "none":
        assert values.dim() == scores.dim()
        assert values.shape[0] == 2
        torch.testing.assert_close(values.sum(), total)
    else:
        assert values.shape == ()
        assert total > build(name, activation)(scores, labels)


@every_loss
def test_metatensors_give_plain_losses(name: str, activation: str, dims: int) -> None:
    scores, labels = example(dims)
    weights = torch.linspace(0.0, 5.0, labels.numel()).view(labels.shape)
    loss = build(name, activation, weight=(1.0, 2.0, 3.0), ignore_index=2)
    value = loss(MetaTensor(scores), MetaTensor(labels.float()), MetaTensor(weights))
    assert type(value) is Tensor
    torch.testing.assert_close(value, loss(scores, labels, weights))


@every_loss
def test_deep_supervision_wraps_each(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation, ignore_index=255)
    scores, labels = example(dims)
    labels[..., 0] = 255
    weights = torch.linspace(0.5, 2.0, labels.numel()).view(labels.shape)
    for inputs in (scores, [scores]):
        torch.testing.assert_close(
            DeepSupervisionLoss(loss)(inputs, labels, weights), loss(scores, labels, weights)
        )
    coarse = torch.randn(2, CLASSES, *(2,) * dims, generator=torch.Generator().manual_seed(2))
    levels = [scores.requires_grad_(), coarse.requires_grad_()]
    DeepSupervisionLoss(loss)(levels, labels, weights).backward()
    for level in levels:
        assert level.grad is not None
        assert level.grad.abs().sum() > 0.0


@every_loss
def test_steps_down_the_gradient_lower_it(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation)
    scores, labels = example(dims, dtype=torch.float64)
    scores.requires_grad_()
    value = loss(scores, labels)
    (gradient,) = torch.autograd.grad(value, scores)
    step = 1e-3 / gradient.norm()
    assert loss(scores - step * gradient, labels) < value


@every_loss
def test_training_on_it_alone_comes_to_the_labels(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation)
    scores, labels = example(dims)
    scores.requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        loss(scores, labels).backward()
        optimizer.step()
    assert (scores.argmax(1, keepdim=True) == labels).float().mean() > 0.98


@every_loss
def test_it_holds_nothing_that_a_checkpoint_would_keep(name: str, activation: str, dims: int) -> None:
    loss = build(name, activation, weight=(1.0, 2.0, 3.0))
    assert not loss.state_dict()
    assert not list(loss.parameters())
    buffers = list(copy.deepcopy(loss).to("meta").buffers())
    assert buffers
    assert all(buffer.device.type == "meta" for buffer in buffers)
    scores, labels = example(dims)
    assert copy.deepcopy(loss)(scores, labels) == loss(scores, labels)


@pytest.mark.parametrize("name", loss_names())
def test_one_channel_is_a_class_and_its_background(name: str) -> None:
    scores, labels = example(3)
    one, yes = scores[:, :1], labels.clamp(max=1)
    value = build(name, "sigmoid")(one, yes)
    torch.testing.assert_close(build(name, "sigmoid", to_onehot_y=False)(one, yes.bool()), value)
    with pytest.raises(InputError, match="has one channel"):
        build(name, "softmax")(one, yes)
    with pytest.raises(InputError, match="has one channel"):
        build(name, "sigmoid", include_background=False)(one, yes)
