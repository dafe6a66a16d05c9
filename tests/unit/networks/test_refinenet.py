"""RefineNet: its paper's variants, its blocks against torch's own functions, its sizes and its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.refinenet import CONFIGURATIONS, ChainedPooling, Fusion, PlainResidualUnit, RefineNet


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def randomise_biases(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refinenet_resnet101", 109_806_677),
        ("refinenet_resnet101_2_cascaded", 85_617_493),
        ("refinenet_resnet101_single", 80_306_773),
    ],
)
def test_the_paper_s_networks_have_these_counts_and_give_the_input_s_size(name: str, expected: int) -> None:
    with torch.device("meta"):
        network = RefineNet(**CONFIGURATIONS[name]).eval()
        scores = network(torch.empty(1, 3, 321, 320))
        assert network.head(torch.empty(1, 256, 81, 80)).shape[1] == 21
    assert scores.shape == (1, 21, 321, 320)
    assert parameter_count(network) == expected
    assert f"{expected:,}" in (RefineNet.__doc__ or "")


def test_chains_of_four_poolings_make_the_published_118_million() -> None:
    with torch.device("meta"):
        network = RefineNet(**{**CONFIGURATIONS["refinenet_resnet101"], "poolings": 4})
    coarsest = (2048 + (5 * 2 + 4) * 512) * 512 + 512 * 256  # to 512, 5 units, 4 poolings, fused
    finer = (1024 + 512 + 256) * 256 + 3 * (5 * 2 + 4 + 1) * 256 * 256 + 2 * 256 * 256
    published = 42_500_160 + 9 * (coarsest + finer + 256 * 21)
    published += 5 * 512 + 15 * 256 + 21  # biases of each unit's first convolution, and the scores'
    assert parameter_count(network) - published == 14_336
    assert "118,066,773 here, of which 14,336 biases" in (RefineNet.__doc__ or "")


def test_the_cascades_take_their_maps_as_the_paper_draws_them() -> None:
    taken = {}
    for cascades in (1, 2, 3, 4):
        network = RefineNet(2, features=(4, 8, 8, 8, 16), cascades=cascades)
        taken[cascades] = [(block.start, block.stop, len(block.units)) for block in network.blocks]
    assert taken == {
        1: [(0, 4, 4)],
        2: [(2, 4, 2), (0, 2, 3)],
        3: [(2, 4, 2), (1, 2, 2), (0, 1, 2)],
        4: [(3, 4, 1), (2, 3, 2), (1, 2, 2), (0, 1, 2)],
    }


def test_fewer_maps_than_cascades_make_as_many_blocks_as_maps() -> None:
    assert len(RefineNet(2, features=(4, 8, 8), cascades=4).blocks) == 2
    assert len(RefineNet(2, features=(4, 8), cascades=4).blocks) == 1


def test_the_residual_unit_leaves_its_input_and_adds_two_convolutions() -> None:
    torch.manual_seed(0)
    unit = PlainResidualUnit(3, 3, (3, 3, 1), "relu")
    randomise_biases(unit)
    images = torch.randn(1, 3, 4, 5, 3)
    before = images.clone()
    first, second = ((unit.body[i].weight, unit.body[i].bias) for i in (1, 3))
    pad = (1, 1, 0)
    inner = functional.conv3d(images.relu(), *first, padding=pad).relu()
    torch.testing.assert_close(unit(images), before + functional.conv3d(inner, *second, padding=pad))
    assert torch.equal(images, before)


def test_fusion_sums_on_the_finest_grid_with_the_fewest_channels() -> None:
    torch.manual_seed(0)
    fusion = Fusion(2, (3, 2, 4), ((3, 3),) * 3, ((2, 1), (2, 2)))
    randomise_biases(fusion)
    maps = [torch.randn(1, 3, 7, 5), torch.randn(1, 2, 4, 5), torch.randn(1, 4, 2, 3)]
    expected = torch.zeros(1, 2, 7, 5)
    for scale, conv, features in zip(((1, 1), (2, 1), (4, 2)), fusion.convs, maps, strict=True):
        risen = functional.interpolate(
            functional.conv2d(features, conv.weight, conv.bias, padding=1),
            scale_factor=tuple(map(float, scale)),
            mode="bilinear",
        )
        expected = expected + risen[..., :7, :5]
    torch.testing.assert_close(fusion(maps), expected)


def test_the_chain_pools_what_the_step_before_gave_and_sums_all() -> None:
    torch.manual_seed(0)
    chain = ChainedPooling(3, 2, (3, 1, 3), 3, "relu")
    randomise_biases(chain)
    images = torch.randn(1, 2, 6, 4, 5)
    before = images.clone()
    total = path = images.relu()
    for step in chain.steps:
        pooled = functional.max_pool3d(path, (5, 1, 5), stride=1, padding=(2, 0, 2))
        path = functional.conv3d(pooled, step[1].weight, step[1].bias, padding=(1, 0, 1))
        total = total + path
    torch.testing.assert_close(chain(images), total)
    assert torch.equal(images, before)


def written_out(network: RefineNet, images: Tensor) -> Tensor:
    """The 4-cascaded network of the paper's figure, block by block, upon the encoder's maps."""
    maps = network.encoder(images)[1:]
    below: Tensor | None = None
    for level in (3, 2, 1, 0):
        block = network.blocks[3 - level]
        path = block.units[0](network.adapt[level](maps[level]))
        if below is not None:
            coarse = block.fuse.convs[1](block.units[1](below))
            risen = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
            path = block.fuse.convs[0](path) + risen[..., : path.shape[2], : path.shape[3]]
        below = block.after(block.pool(path))
        assert len(block.after) == (3 if level == 0 else 1)
    assert below is not None
    scores = functional.interpolate(network.head(below), scale_factor=4.0, mode="bilinear")
    return scores[..., : images.shape[2], : images.shape[3]]


def test_forward_is_the_network_written_out() -> None:
    torch.manual_seed(0)
    network = RefineNet(2, 1, 3, features=(4, 8, 8, 8, 16), stem="resnet", refine_features=(4, 4, 4, 8))
    randomise_biases(network)
    network.eval()
    images = torch.randn(1, 1, 49, 66)
    torch.testing.assert_close(network(images), written_out(network, images))


@settings(max_examples=6, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)))
def test_any_size_is_taken(size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        network = RefineNet(3, features=(4, 4, 4, 4), strides=(2, (2, 2, 1), (2, 3, 1)), cascades=2).eval()
        assert network(torch.empty(1, 1, *size)).shape == (1, 2, *size)


def test_what_a_plan_hands_over_is_taken() -> None:
    network = RefineNet(
        features=[4, 8, 8], kernel_sizes=[[3, 3, 1], [3, 3, 1], [3, 3, 3]], strides=[[2, 2, 1], [2, 2, 2]]
    )
    assert network.encoder.features == (4, 8, 8)
    images = torch.randn(2, 1, 9, 8, 5)
    assert [tuple(features.shape[2:]) for features in network.encoder(images)] == [
        (9, 8, 5),
        (5, 4, 5),
        (3, 2, 3),
    ]
    assert network.blocks[1].pool.steps[0][0](torch.zeros(1, 4, 5, 4, 5)).shape == (1, 4, 5, 4, 5)
    assert [pool.kernel_size for pool in network.blocks[1].pool.steps[0][0]] == [(5, 1, 1), (1, 5, 1)]
    assert network(images).shape == (2, 2, 9, 8, 5)


@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
def test_every_norm_learns(norm: str | None) -> None:
    torch.manual_seed(0)
    network = RefineNet(2, features=(8, 16, 16), norm=norm)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    images = torch.randn(4, 1, 16, 16)
    target = (functional.avg_pool2d(images, 5, stride=1, padding=2)[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(25):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.7 * first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cascades": 0}, "cascades=0 is not a positive whole number"),
        ({"poolings": 0}, "poolings=0 is not a positive whole number"),
        ({"refine_features": (8,)}, "refine_features has 1 entries for 2 maps; give one for each level but"),
        ({"refine_features": (8, 0)}, "refine_features=0 is not a positive"),
        ({"units": "bottle"}, "units='bottle' is unknown; did you mean 'bottleneck'"),
        ({"stem": "renset"}, "stem='renset' is unknown; did you mean 'resnet'"),
        ({"counts": (0, 1)}, "counts has 2 entries for 3 levels"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"kernel_sizes": (3, 3, 2)}, "has even sizes"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RefineNet(**{"features": (4, 6, 8), **options})
