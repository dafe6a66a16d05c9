"""The U-Net's switches, and the papers' networks that they make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from medseg.networks.blocks import ConvEncoder, ConvStack, ResidualUnit
from medseg.networks.unet import CONFIGURATIONS, UNet


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "size", "output"),
    [
        ("unet_2015", 31_030_658, (572, 572), (388, 388)),
        ("unet3d_2016", 19_073_187, (132, 132, 116), (44, 44, 28)),
    ],
)
def test_the_papers_networks(
    name: str, parameters: int, size: tuple[int, ...], output: tuple[int, ...]
) -> None:
    options = CONFIGURATIONS[name]
    with torch.device("meta"):
        network = UNet(**options)
        scores = network(torch.empty(1, options["in_channels"], *size))
    assert parameter_count(network) == parameters
    assert scores.shape == (1, options["out_channels"], *output)
    assert network.output_size(size) == output


def test_every_configuration_is_tested() -> None:
    assert set(CONFIGURATIONS) == {"unet_2015", "unet3d_2016"}


def test_cicek_2016_has_19_069_955_parameters_as_the_paper_counts_them() -> None:
    """With a bias for each convolution but the up-convolutions, and without the norms."""
    with torch.device("meta"):
        layers = list(UNet(**CONFIGURATIONS["unet3d_2016"]).modules())
    weights = sum(
        layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)
    )
    biases = sum(layer.out_channels for layer in layers if isinstance(layer, nn.Conv3d))
    assert weights + biases == 19_069_955


def test_channels_double_before_pooling() -> None:
    network = UNet(2, features=(8, 16, 32), widening="before_pooling")
    convs = [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nn.Conv2d)]
    down = [(1, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32)]
    up = [(48, 16), (16, 16), (24, 8), (8, 8)]
    assert convs == [*down, *up, (8, 2)]
    ups = [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert ups == [(32, 32), (16, 16)]


@pytest.mark.parametrize(
    ("units", "down", "up"),
    [
        ("plain", ConvStack, ConvStack),
        ("residual", ResidualUnit, ResidualUnit),
        ("residual_encoder", ResidualUnit, ConvStack),
    ],
)
def test_units_on_the_way_down_and_up(units: str, down: type[nn.Module], up: type[nn.Module]) -> None:
    network = UNet(2, features=(4, 6, 8), units=units)
    assert [type(level.convs) for level in network.encoder.levels] == [down] * 3
    assert [type(level) for level in network.decoder.levels] == [up] * 2


def test_a_residual_level_adds_what_it_was_given() -> None:
    torch.manual_seed(0)
    network = UNet(2, features=(4, 4), strides=(1,), units="residual", norm=None)
    level = network.encoder.levels[1].convs
    nn.init.zeros_(level.body[-1].conv.weight)
    given = torch.randn(1, 4, 5, 5).relu()
    assert torch.equal(level(given), given)


@pytest.mark.parametrize("widening", ["after_pooling", "before_pooling"])
@pytest.mark.parametrize("units", ["plain", "residual"])
def test_strides_of_convolutions_replace_the_pooling(units: str, widening: str) -> None:
    network = UNet(
        3, features=(4, 6, 8), strides=(2, (2, 2, 1)), downsample="conv", units=units, widening=widening
    )
    assert not any(isinstance(module, nn.MaxPool3d) for module in network.modules())
    maps = network.encoder(torch.zeros(1, 1, 9, 12, 7))
    assert [tuple(features.shape[2:]) for features in maps] == [(9, 12, 7), (5, 6, 4), (3, 3, 4)]


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)))
def test_strided_residual_gated_networks_take_any_size(size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        network = UNet(
            3,
            features=(2, 2, 2),
            strides=(2, (3, 2, 1)),
            downsample="conv",
            units="residual",
            attention=True,
        )
        assert network.eval()(torch.empty(1, 1, *size)).shape == (1, 2, *size)


def test_every_skip_is_gated_in_half_of_its_channels() -> None:
    network = UNet(2, features=(4, 6, 8), attention=True, padding="valid")
    gates = [join.attention for join in network.decoder.join]
    assert [gate.skip.conv.out_channels for gate in gates] == [3, 2]
    assert network(torch.zeros(1, 1, 44, 44)).shape[2:] == network.output_size((44, 44))


def test_shut_gates_leave_the_skips_out() -> None:
    torch.manual_seed(0)
    network = UNet(2, features=(4, 6), attention=True, norm=None)
    nn.init.constant_(network.decoder.join[0].attention.psi.conv.bias, -100.0)
    maps = network.encoder(torch.randn(1, 1, 8, 8))
    (shut,) = network.decoder(maps)
    (without,) = network.decoder([torch.zeros_like(maps[0]), maps[1]])
    torch.testing.assert_close(shut, without)


SWITCHES: list[dict[str, Any]] = [
    {"units": "residual"},
    {"units": "residual_encoder", "downsample": "conv"},
    {"attention": True},
    {"widening": "before_pooling"},
]


@pytest.mark.parametrize("norm", ["batch", "instance", None])
@pytest.mark.parametrize("options", SWITCHES, ids=["residual", "strided", "gated", "early"])
def test_every_switch_learns(options: dict[str, Any], norm: str | None) -> None:
    torch.manual_seed(0)
    network = UNet(2, features=(8, 16), norm=norm, **options)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images = torch.randn(4, 1, 16, 16)
    target = (functional.avg_pool2d(images, 3, stride=1, padding=1)[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(25):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.6 * first


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("options", SWITCHES, ids=["residual", "strided", "gated", "early"])
@pytest.mark.parametrize("features", [(32, 32, 32, 32), (16, 32, 64, 96)])
def test_activations_keep_their_deviation_without_norm(
    options: dict[str, Any], features: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """Without pooling at every level; with it, which takes the larger values, from first to last."""
    ratios = torch.zeros(6)
    for seed in range(3):
        torch.manual_seed(seed)
        network = UNet(2, features=features, norm=None, strides=strides, **options)
        images = functional.avg_pool2d(torch.randn(1, 1, 80, 80), 5, stride=1)
        with torch.no_grad():
            maps = network.encoder((images - images.mean()) / images.std())
            later = [*maps[1:], *network.decoder(maps)]
        ratios += torch.stack([features.std() / maps[0].std() for features in later]) / 3
    checked = ratios if strides == (1, 1, 1) else ratios[-1:]
    assert checked.min() > 0.5
    assert checked.max() < 2.0


def test_an_encoder_refuses_as_many_counts_as_it_has_not_levels() -> None:
    with pytest.raises(ValueError, match="counts has 3 entries for 2 levels; give one for each"):
        ConvEncoder(2, 1, (4, 8), ((3, 3), (3, 3)), ((2, 2),), counts=(1, 2, 3))


def test_an_encoder_s_convolutions_are_as_wide_as_told() -> None:
    encoder = ConvEncoder(2, 1, (4, 8), ((3, 3), (3, 3)), ((2, 2),), widths=((2, 3, 4), (8,)))
    convs = [(m.in_channels, m.out_channels) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [(1, 2), (2, 3), (3, 4), (4, 8)]
