from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medseg.networks import build_network
from medseg.networks.autoencoder import (
    Autoencoder,
    CodeDecoder,
    GaussianCode,
    PlainCode,
    SparseCode,
    corrupt,
    normal_divergence,
    sparsity_divergence,
)
from medseg.networks.blocks import SegmentationNetwork
from medseg.networks.encoder_layout import Tap, examine_encoder
from medseg.networks.stacked import StackedStages


def _unet(**options: Any) -> Any:
    torch.manual_seed(0)
    return build_network("unet", 2, 1, 2, **({"features": (4, 6)} | options))


# What spoils images


def test_noise_has_the_wanted_deviation_and_the_images_stay() -> None:
    torch.manual_seed(0)
    images = torch.full((2, 2, 40, 40), 3.0)
    spoilt = corrupt(images, noise_std=0.5)
    assert (images == 3.0).all()
    assert spoilt.mean().item() == pytest.approx(3.0, abs=0.02)
    assert spoilt.std().item() == pytest.approx(0.5, abs=0.02)


def test_masked_voxels_are_zero_in_every_channel_and_as_many_as_wanted() -> None:
    torch.manual_seed(0)
    spoilt = corrupt(torch.ones(2, 3, 50, 50), masked_fraction=0.3)
    assert set(spoilt.unique().tolist()) == {0.0, 1.0}
    assert (spoilt == spoilt[:, :1]).all()
    assert (spoilt == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_masks_lie_over_the_noise() -> None:
    torch.manual_seed(0)
    spoilt = corrupt(torch.ones(1, 1, 50, 50), noise_std=0.1, masked_fraction=0.5)
    assert (spoilt == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_nothing_to_spoil_is_a_copy_that_costs_no_random_number() -> None:
    torch.manual_seed(3)
    images = torch.ones(1, 1, 2, 2)
    copied = corrupt(images)
    assert torch.equal(copied, images)
    assert copied is not images
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)


# What codes cost


def test_sparsity_by_hand() -> None:
    # Two units; their means over batch and places are 1/2 and 1/4, the target is 1/4.
    activations = torch.tensor([[[0.25, 0.75], [0.5, 0.0]], [[1.0, 0.0], [0.25, 0.25]]]).unsqueeze(-1)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert sparsity_divergence(activations, 0.25).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_sparsity_equals_torch_s_bernoulli_divergence(means: list[float], target: float) -> None:
    activations = torch.tensor(means).view(1, -1, 1, 1, 1).expand(2, -1, 3, 2, 1)
    wanted = torch.distributions.Bernoulli(torch.full((len(means),), target))
    given_ = torch.distributions.Bernoulli(torch.tensor(means))
    expected = torch.distributions.kl_divergence(wanted, given_).sum()
    found = sparsity_divergence(activations, target)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert found >= -1e-5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_units_that_are_never_or_always_active_cost_much_but_not_infinity(value: float) -> None:
    units = torch.full((1, 1, 4, 4), value, requires_grad=True)
    cost = sparsity_divergence(units, 0.05)
    cost.backward()
    assert math.isfinite(cost.item())
    assert cost > 0.5
    assert units.grad is not None
    assert torch.isfinite(units.grad).all()


def test_normal_divergence_by_hand() -> None:
    # First image: mean 1, variance 1 and mean 0, variance 4; second: mean 3, variance 1 and N(0, 1).
    mean = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    variance = torch.tensor([[1.0, 4.0], [1.0, 1.0]])
    first = 0.5 * 1 + 0.5 * (4 - 1 - math.log(4))
    second = 0.5 * 9
    assert normal_divergence(mean, variance.log()).item() == pytest.approx((first + second) / 2, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=2, max_size=6))
def test_normal_divergence_equals_torch_s_and_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    mean, log_variance = torch.tensor(pairs, dtype=torch.float32).T.reshape(2, 1, 1, -1)
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()), standard
    ).sum()
    found = normal_divergence(mean, log_variance)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found >= -1e-6


def test_a_sparse_code_lies_between_zero_and_one_and_can_reach_its_target() -> None:
    torch.manual_seed(0)
    code = SparseCode(2, 3, target=0.1)
    features = torch.rand(2, 3, 4, 4)  # rectified: their own sigmoid could not come below 1/2
    optimizer = torch.optim.Adam(code.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        activations, penalty = code(features)
        penalty.backward()
        optimizer.step()
    assert activations.min() > 0.0
    assert activations.max() < 1.0
    assert activations.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.1] * 3, abs=0.02)
    assert penalty.item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
def test_a_target_that_is_no_mean_activation_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="is no mean activation; give a number between 0 and 1"):
        Autoencoder(_unet(), "sparse", target=target)


def test_a_gaussian_code_is_drawn_in_training_and_its_mean_otherwise() -> None:
    torch.manual_seed(0)
    code = GaussianCode(2, 2)
    nn.init.constant_(code.log_variance.weight, 0.0)  # type: ignore[arg-type]
    nn.init.constant_(code.log_variance.bias, 2 * math.log(3.0))  # type: ignore[arg-type]
    features = torch.rand(1, 2, 1, 1).expand(4000, 2, 1, 1)
    drawn, penalty = code(features)
    mean = code.mean(features)
    assert (drawn - mean).std(dim=0).flatten().tolist() == pytest.approx([3.0, 3.0], rel=0.05)
    assert (drawn - mean).mean(dim=0).flatten().tolist() == pytest.approx([0.0, 0.0], abs=0.2)
    expected = (0.5 * (9 - 1 - math.log(9)) * 2 + 0.5 * mean[0].square().sum()).item()
    assert penalty.item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(code.eval()(features)[0], mean)


def test_gradients_pass_through_the_draw() -> None:
    torch.manual_seed(0)
    code = GaussianCode(2, 2)
    drawn, _ = code(torch.rand(2, 2, 3, 3))
    drawn.square().sum().backward()
    for parameter in code.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_a_variational_autoencoder_starts_with_deviations_of_one() -> None:
    autoencoder = Autoencoder(_unet(), "gaussian")
    log_variance = autoencoder.code.log_variance(torch.rand(1, 6, 4, 4))  # type: ignore[operator]
    assert log_variance.abs().max() == 0.0


# What comes back


@pytest.mark.parametrize("code", ["plain", "sparse", "gaussian"])
def test_the_decoder_sees_nothing_but_the_code(code: str) -> None:
    """Two images whose code is made one and the same come back the same, however fine the other maps are."""
    autoencoder = Autoencoder(_unet(), code).eval()
    coarse = autoencoder.encoder.levels[-1]  # type: ignore[index,union-attr]
    coarse.register_forward_hook(lambda _m, _a, made: torch.ones_like(made))
    first, second = (autoencoder(torch.randn(1, 1, 10, 7)).images for _ in range(2))
    assert torch.equal(first, second)


def test_the_encoder_is_the_network_s_own() -> None:
    network = _unet()
    autoencoder = Autoencoder(network)
    assert autoencoder.encoder is network.encoder
    assert isinstance(autoencoder.code, PlainCode)


def test_strides_by_axis_lead_back_to_any_size() -> None:
    network = build_network("unet", 3, 2, 2, features=(2, 3, 4), strides=[(2, 2, 1), (3, 2, 2)])
    autoencoder = Autoencoder(network)  # type: ignore[arg-type]
    assert autoencoder.layout.strides == ((1, 1, 1), (2, 2, 1), (3, 2, 2))
    for size in ((12, 8, 4), (11, 9, 5), (7, 13, 1)):
        assert autoencoder(torch.zeros(2, 2, *size)).images.shape == (2, 2, *size)


def test_an_encoder_whose_finest_map_is_coarse_leads_back_too() -> None:
    decoder = CodeDecoder(2, (40, 50), ((4, 4), (2, 2)), 3, norm=None)
    assert decoder(torch.zeros(1, 50, 2, 3), [(13, 17), (4, 6)]).shape == (1, 3, 13, 17)
    assert decoder.head.in_channels == 16  # the image's grid is wide, so its maps are thin


def test_what_does_not_fit_is_refused() -> None:
    autoencoder = Autoencoder(_unet())
    with pytest.raises(ValueError, match="has 3 channels, the network takes 1"):
        autoencoder(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="code='spars' is unknown; did you mean 'sparse'"):
        Autoencoder(_unet(), "spars")
    with pytest.raises(ValueError, match="lose the image's border; build it with padding='same'"):
        Autoencoder(_unet(padding="valid"))
    with pytest.raises(ValueError, match="has no encoder that gives feature maps"):
        Autoencoder(SegmentationNetwork(2, 1, 2))


def test_building_costs_no_random_number_beside_the_new_weights() -> None:
    """The encoder is looked at on a copy that is not there: buffers and modes stay as they are."""
    network = _unet()
    network.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    Autoencoder(network)
    assert not network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


# Levels


class _Joined(nn.Module):
    """Its finer map is no module's output, and lies before ``down``."""

    features = (3, 4)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        joined = torch.cat([images, self.first(images)], 1)
        return [joined, self.down(joined)]


def test_maps_are_found_where_they_are_given_or_taken() -> None:
    layout = examine_encoder(_Joined(), 2, 1)
    assert layout.taps == (Tap("down", at_input=True), Tap("down", at_input=False))
    assert (layout.level_of["first"], layout.level_of["down"], layout.level_of["down.0"]) == (0, 1, 1)
    unet = examine_encoder(_unet(dropout=0.1).encoder, 2, 1)
    assert unet.taps == (Tap("levels.0", at_input=False), Tap("levels.1", at_input=False))
    assert unet.level_of["levels.0.convs.1.conv"] == 0
    assert unet.level_of["levels.1.pool"] == 1


class _Joining(SegmentationNetwork):
    def __init__(self) -> None:
        super().__init__(2, 1, 2)
        self.encoder = _Joined()


@pytest.mark.parametrize("make", [_unet, _Joining])
def test_a_stage_mends_the_spoilt_code_below_towards_the_clean_one(make: Any) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(make())
    stages = StackedStages(autoencoder)
    stages.enter(1)
    images = torch.randn(2, 1, 8, 8)
    clean = autoencoder.encoder(images)[0]
    seen: list[Tensor] = []

    def spoil(code: Tensor) -> Tensor:
        seen.append(code)
        return torch.zeros_like(code)

    loss = stages.loss(1, images, spoil)
    (given_,) = seen
    torch.testing.assert_close(given_ * clean.std(), clean)
    assert given_.std().item() == pytest.approx(1.0)
    # A code of zeros is what the second level was given, and the loss knows the clean one.
    layout = autoencoder.layout.taps[1]
    assert layout is not None
    blank = autoencoder.encoder.get_submodule(layout.module)(torch.zeros_like(clean))
    mended = autoencoder.decoder.step(1, blank, (8, 8))
    assert loss.item() == pytest.approx((mended - clean).square().mean().item(), rel=1e-5)
    assert len(autoencoder.encoder(images)) == 2
    assert torch.equal(autoencoder.encoder(images)[0], clean)  # nothing stays hooked


def test_what_another_stage_learns_stands_still() -> None:
    autoencoder = Autoencoder(_unet(dropout=0.5))
    stages = StackedStages(autoencoder)
    stages.enter(1)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=0.1, weight_decay=0.1)
    before = {key: value.clone() for key, value in autoencoder.state_dict().items()}
    stages.loss(1, torch.randn(2, 1, 8, 8), lambda code: corrupt(code, 0.5)).backward()
    optimizer.step()
    changed = {key for key, value in autoencoder.state_dict().items() if not torch.equal(before[key], value)}
    assert changed
    assert all(key.startswith(("encoder.levels.1", "decoder.steps.1")) for key in changed)


def test_stages_need_a_plain_code() -> None:
    with pytest.raises(ValueError, match="stacked with a plain code"):
        StackedStages(Autoencoder(_unet(), "sparse"))


class _Between(SegmentationNetwork):
    """Its finer map is neither given nor taken by a module."""

    def __init__(self) -> None:
        super().__init__(2, 1, 2)
        self.encoder = _BetweenEncoder()


class _BetweenEncoder(nn.Module):
    features = (2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        finer = self.first(images) + 1
        return [finer, self.second(finer * 2)]


def test_levels_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="levels cannot be told apart; choose another method"):
        StackedStages(Autoencoder(_Between()))
