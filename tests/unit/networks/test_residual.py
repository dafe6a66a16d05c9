"""Residual units and levels, against torch's own functions and the paper's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medseg.networks import blocks

RESNET_101 = {
    "features": (64, 256, 512, 1024, 2048),
    "kernel_sizes": ((7, 7), *((3, 3),) * 4),
    "strides": ((2, 2),) * 4,
    "counts": (0, 3, 4, 23, 3),
    "stem": "resnet",
    "bottleneck": True,
}


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((0, 3, 4, 6, 3), 25_557_032 - 2_049_000), ((0, 3, 4, 23, 3), 44_549_160 - 2_049_000)],
)
def test_resnet_50_and_101_have_the_known_counts_without_their_classifier(
    counts: tuple[int, ...], expected: int
) -> None:
    with torch.device("meta"):
        encoder = blocks.ResidualEncoder(2, 3, **{**RESNET_101, "counts": counts})
        maps = encoder(torch.empty(1, 3, 224, 225))
    assert parameter_count(encoder) == expected
    assert [tuple(features.shape[1:]) for features in maps] == [
        (64, 112, 113),
        (256, 56, 57),
        (512, 28, 29),
        (1024, 14, 15),
        (2048, 7, 8),
    ]


def test_a_basic_unit_is_two_convolutions_and_the_projected_input() -> None:
    torch.manual_seed(0)
    unit = blocks.ResidualUnit(3, 2, 4, (3, 3, 1), stride=(2, 2, 1), dilation=(1, 2, 1), norm=None)
    weights = dict(unit.named_parameters())
    for name, parameter in weights.items():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    images = torch.randn(1, 2, 7, 6, 5)
    first, second, project = (
        (weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"])
        for name in ("body.0", "body.2", "skip.0")
    )
    geometry = {"padding": (1, 2, 0), "dilation": (1, 2, 1)}
    inner = functional.conv3d(images, *first, stride=(2, 2, 1), **geometry).relu()
    expected = functional.conv3d(inner, *second, **geometry) + functional.conv3d(
        images, *project, stride=(2, 2, 1)
    )
    torch.testing.assert_close(unit(images), expected.relu())


def test_a_unit_that_changes_nothing_adds_its_very_input_and_leaves_it_alone() -> None:
    torch.manual_seed(0)
    unit = blocks.ResidualUnit(2, 3, 3, norm="instance", activation="leaky_relu")
    assert len(unit.skip) == 0
    images = torch.randn(1, 3, 6, 6)
    before = images.clone()
    expected = functional.leaky_relu(images + unit.body(images), 0.01)
    torch.testing.assert_close(unit(images), expected)
    assert torch.equal(images, before)


def test_widths_one_by_one_say_how_many_convolutions_there_are() -> None:
    unit = blocks.ResidualUnit(2, 1, (2, 3, 5))
    convs = [layer for layer in unit.body.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convs] == [2, 3, 5]


def test_a_bottleneck_strides_and_dilates_in_its_middle() -> None:
    unit = blocks.ResidualUnit(3, 8, 16, bottleneck=True, stride=2, dilation=3)
    layers = [layer for layer in unit.body.modules() if isinstance(layer, nn.Conv3d)]
    assert [layer.kernel_size[0] for layer in layers] == [1, 3, 1]
    assert [layer.stride[0] for layer in layers] == [1, 2, 1]
    assert [layer.out_channels for layer in layers] == [4, 4, 16]
    assert layers[1].dilation == (3, 3, 3)
    assert unit(torch.zeros(1, 8, 9, 8, 7)).shape == (1, 16, 5, 4, 4)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_deep_chain_without_norm_keeps_its_scale(bottleneck: bool) -> None:
    deviations = []
    for seed in range(3):
        torch.manual_seed(seed)
        encoder = blocks.ResidualEncoder(
            2, 1, (64, 64), ((3, 3),) * 2, ((1, 1),), counts=(0, 20), bottleneck=bottleneck, norm=None
        )
        blocks.he_initialise(encoder)
        blocks.shrink_branches(encoder)
        first, last = encoder(torch.randn(1, 1, 24, 24))
        deviations.append((last.square().mean() / first.square().mean()).sqrt().item())
    assert 0.5 < sum(deviations) / 3 < 2.0


def test_branches_with_a_norm_are_left_as_they_are() -> None:
    torch.manual_seed(0)
    encoder = blocks.ResidualEncoder(2, 1, (4, 8), ((3, 3),) * 2, ((2, 2),))
    before = [parameter.clone() for parameter in encoder.parameters()]
    blocks.shrink_branches(encoder)
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_sliding_max_pool_is_torch_s(spatial_dims: int) -> None:
    torch.manual_seed(0)
    kernel, stride = (5, 3, 1)[:spatial_dims], (1, 2, 2)[:spatial_dims]
    images = torch.randn(2, 3, *(8, 9, 5)[:spatial_dims])
    pool = functional.max_pool2d if spatial_dims == 2 else functional.max_pool3d
    expected = pool(images, kernel, stride=stride, padding=tuple(size // 2 for size in kernel))
    assert torch.equal(blocks.sliding_max_pool(spatial_dims, kernel, stride)(images), expected)


def test_dropout_and_dilations_stand_where_they_are_said_to() -> None:
    encoder = blocks.ResidualEncoder(
        2, 1, (4, 6, 8), ((3, 3),) * 3, ((2, 2), (1, 1)), dilations=((1, 1), (1, 1), (2, 1)), dropout=0.5
    )
    where = [name for name, module in encoder.named_modules() if isinstance(module, nn.Dropout)]
    assert where == ["levels.1.dropout", "levels.2.dropout"]
    assert encoder.levels[2].unit1.body[0].conv.dilation == (2, 1)
    assert encoder.levels[1].unit0.body[0].conv.stride == (2, 2)
    assert encoder.levels[1].unit1.body[0].conv.stride == (1, 1)


def test_multi_grid_multiplies_the_coarsest_level_s_dilations() -> None:
    levels = (2, 1, (4, 8), ((3, 3),) * 2, ((1, 1),))
    encoder = blocks.ResidualEncoder(*levels, counts=3, dilations=((1, 1), (2, 1)), multi_grid=(1, 2, 4))
    units = [getattr(encoder.levels[1], f"unit{index}") for index in range(3)]
    assert [unit.body[2].conv.dilation for unit in units] == [(2, 1), (4, 2), (8, 4)]
    assert encoder.levels[0].unit2.body[2].conv.dilation == (1, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"counts": (1, 2, 3)}, "counts has 3 entries for 2 levels; give one for each"),
        ({"counts": (1, 0)}, "leaves a level without units; give each but the finest 1 or more"),
        ({"stem": "resent"}, "stem='resent' is unknown; did you mean 'resnet'"),
        ({"padding": "valid"}, "padding='valid' is unknown"),
        ({"multi_grid": (1, 2, 4)}, "multi_grid has 3 entries for the 2 units of the coarsest level"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        blocks.ResidualEncoder(2, 1, (4, 8), ((3, 3),) * 2, ((2, 2),), **options)


def test_sliding_max_pool_refuses_even_windows() -> None:
    with pytest.raises(ValueError, match="is even, so that no voxel is its middle"):
        blocks.sliding_max_pool(2, (3, 2))
