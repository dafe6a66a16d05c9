"""DeepLab: its papers' networks, an independent forward pass, its rates and its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.blocks import JoinedPyramid, SummedPyramid
from medseg.networks.deeplab import CONFIGURATIONS, DeepLab


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def randomise_biases(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)


def convolutions(module: nn.Module) -> list[nn.Conv3d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv3d)]


VGG = 14_714_688
RESNET_101 = 44_549_160 - 2_049_000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deeplab_largefov_vgg16", VGG + (9 * 512 + 1 + 1024 + 1) * 1024 + 1025 * 21),
        ("deeplab_v2_vgg16", VGG + 4 * ((9 * 512 + 1 + 1024 + 1) * 1024 + 1025 * 21)),
        ("deeplab_v2_resnet101", RESNET_101 + 4 * (9 * 2048 + 1) * 21),
        # Torchvision's counts, which have another 3x3 convolution and a batch norm instead of a bias.
        ("deeplab_v3_resnet50", 39_638_869 - (9 * 256 + 2) * 256 - 256),
        ("deeplab_v3_resnet101", 58_630_997 - (9 * 256 + 2) * 256 - 256),
    ],
)
def test_the_papers_networks_have_these_counts_and_give_the_input_s_size(name: str, expected: int) -> None:
    with torch.device("meta"):
        network = DeepLab(**CONFIGURATIONS[name]).eval()
        assert network(torch.empty(1, 3, 321, 320)).shape == (1, 21, 321, 320)
    assert parameter_count(network) == expected
    assert f"{expected:,}" in (DeepLab.__doc__ or "")


def test_the_papers_backbones_dilate_from_their_output_stride_on() -> None:
    with torch.device("meta"):
        resnet = DeepLab(**{**CONFIGURATIONS["deeplab_v2_resnet101"], "counts": (0, 1, 1, 1, 1)})
        vgg = DeepLab(**CONFIGURATIONS["deeplab_largefov_vgg16"])
        maps = resnet.eval().encoder(torch.empty(1, 3, 64, 64))
    assert [features.shape[2] for features in maps] == [32, 16, 8, 8, 8]
    middles = [level.unit0.body[2].conv for level in list(resnet.encoder.levels)[1:]]
    assert [(layer.stride[0], layer.dilation[0]) for layer in middles] == [(1, 1), (2, 1), (1, 2), (1, 4)]
    dilations = [layer.dilation[0] for layer in vgg.modules() if isinstance(layer, nn.Conv2d)]
    assert dilations == [*(1,) * 10, 2, 2, 2, 12, 1, 1]


def written_out(network: DeepLab, images: Tensor, rates: tuple[int, ...]) -> Tensor:
    """Version 2 of the paper on a residual backbone of stride 4, from torch's functions alone."""
    weights = network.state_dict()

    def conv(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        pad = dilation * (weight.shape[2] // 2)
        geometry = {"stride": stride, "dilation": dilation, "padding": pad}
        return functional.conv2d(x, weight, weights[f"{name}.bias"], **geometry)

    x = conv(images, "encoder.levels.0.stem.conv").relu()
    for level, (stride, dilation) in enumerate(((2, 1), (2, 1), (1, 2)), start=1):
        unit = f"encoder.levels.{level}.unit0"
        inner = conv(x, f"{unit}.body.0.conv", stride, dilation).relu()
        x = (conv(inner, f"{unit}.body.2.conv", 1, dilation) + conv(x, f"{unit}.skip.0.conv", stride)).relu()
    scores = sum(conv(x, f"pyramid.branches.{index}", 1, rate) for index, rate in enumerate(rates))
    assert isinstance(scores, Tensor)
    scores = functional.interpolate(scores, scale_factor=4.0, mode="bilinear")
    return scores[..., : images.shape[2], : images.shape[3]]


def test_forward_is_the_network_written_out() -> None:
    torch.manual_seed(0)
    network = DeepLab(
        2,
        2,
        3,
        features=(4, 6, 8, 10),
        norm=None,
        backbone="residual",
        counts=(0, 1, 1, 1),
        rates=(2, 4, 6),
        aspp_features=None,
    )
    randomise_biases(network)
    images = torch.randn(2, 2, 37, 42)
    torch.testing.assert_close(network(images), written_out(network, images, (2, 4, 6)))


def test_the_summed_pyramid_sums_the_scores_of_its_hidden_branches() -> None:
    torch.manual_seed(0)
    pyramid = SummedPyramid(3, 4, 2, (3, 3, 1), [(1, 1, 1), (2, 3, 1)], hidden=5, norm=None)
    randomise_biases(pyramid)
    images = torch.randn(1, 4, 6, 7, 5)
    expected = torch.zeros(1, 2, 6, 7, 5)
    for branch, rate in zip(pyramid.branches, [(1, 1, 1), (2, 3, 1)], strict=True):
        first, second, last = convolutions(branch)
        seen = functional.conv3d(
            images, first.weight, first.bias, padding=(rate[0], rate[1], 0), dilation=rate
        ).relu()
        seen = functional.conv3d(seen, second.weight, second.bias).relu()
        expected = expected + functional.conv3d(seen, last.weight, last.bias)
    torch.testing.assert_close(pyramid(images), expected)


def test_the_joined_pyramid_scores_all_branches_and_the_mean_together() -> None:
    torch.manual_seed(0)
    pyramid = JoinedPyramid(
        3, 4, 2, (3, 3, 3), [(2, 2, 2)], hidden=5, image_feature=True, norm=None, activation="relu"
    )
    randomise_biases(pyramid)
    images = torch.randn(2, 4, 6, 7, 5)
    point, spread, mean, join, score = ((layer.weight, layer.bias) for layer in convolutions(pyramid))
    seen = [
        functional.conv3d(images, *point),
        functional.conv3d(images, *spread, padding=2, dilation=2),
        functional.conv3d(images.mean((2, 3, 4), keepdim=True), *mean).expand(2, 5, 6, 7, 5),
    ]
    joined = functional.conv3d(torch.cat(seen, 1).relu(), *join).relu()
    torch.testing.assert_close(pyramid(images), functional.conv3d(joined, *score))


def test_the_image_feature_alone_sees_the_whole_image() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"features": (4, 8), "version": 3, "rates": (1,), "aspp_features": 4}
    for image_feature in (False, True):
        network = DeepLab(2, norm=None, image_feature=image_feature, **options)
        images = torch.randn(1, 1, 64, 64, requires_grad=True)
        network(images)[0, :, 0, 0].sum().backward()
        assert bool(images.grad[0, 0, 40:, 40:].any()) == image_feature


def rates_of(network: DeepLab) -> list[tuple[int, ...]]:
    return [branch.dilation for branch in network.pyramid.branches]


def test_rates_follow_the_spacing_of_the_grid_that_they_stand_on() -> None:
    geometry: dict[str, Any] = {
        "features": (4, 8, 8),
        "aspp_features": None,
        "strides": ((2, 2, 1), 2),
        "kernel_sizes": ((3, 3, 1), 3, 3),
    }
    # Voxels of 2 x 2 x 4 mm after the first step, of which the second keeps the first two axes.
    network = DeepLab(**geometry, output_stride=(2, 2, 1), rates=(1, 2, 5), spacing_mm=[1.0, 1.0, 4.0])
    assert rates_of(network) == [(1, 1, 1), (2, 2, 1), (5, 5, 2)]
    # Voxels of 1 x 1 x 4 mm: a quarter of the rate along the third axis.
    network = DeepLab(**geometry, output_stride=1, rates=(2, 8), spacing_mm=(1.0, 1.0, 4.0))
    assert rates_of(network) == [(2, 2, 1), (8, 8, 2)]


def test_rates_one_an_axis_are_taken_as_they_are() -> None:
    options: dict[str, Any] = {"features": (4, 8), "aspp_features": None}
    network = DeepLab(**options, rates=((3, 2, 1), 4), spacing_mm=(1.0, 1.0, 2.0))
    assert rates_of(network) == [(3, 2, 1), (4, 4, 2)]
    assert rates_of(DeepLab(**options)) == [(1,) * 3, (2,) * 3, (4,) * 3, (6,) * 3]


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        (1, (1, 1, 1), [(1, 1, 1), (2, 2, 1), (4, 4, 2), (8, 8, 4)]),
        (2, (2, 2, 2), [(1, 1, 1), (1, 1, 1), (2, 2, 1), (4, 4, 2)]),
        (3, (2, 2, 2), [(1, 1, 1), (1, 1, 1), (2, 2, 1), (4, 4, 2)]),
        ((4, 2, 1), (4, 2, 1), [(1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 4, 4)]),
        (8, (8, 8, 4), [(1, 1, 1)] * 4),
    ],
)
def test_the_output_stride_holds_along_each_axis_by_itself(
    output_stride: int | tuple[int, ...], strides: tuple[int, ...], dilations: list[tuple[int, ...]]
) -> None:
    network = DeepLab(
        features=(4, 4, 4, 4),
        strides=((2, 2, 1), 2, 2),
        backbone="residual",
        counts=1,
        output_stride=output_stride,
    )
    assert network.total_stride() == strides
    units = [level.unit0 for level in network.encoder.levels]
    assert [unit.body[0].conv.dilation for unit in units] == dilations
    size = (16, 17, 9)
    coarsest = network.encoder(torch.zeros(2, 1, *size))[-1].shape[2:]
    assert tuple(coarsest) == tuple(-(-length // step) for length, step in zip(size, strides, strict=True))


@settings(max_examples=6, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)))
def test_any_size_is_taken(size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        network = DeepLab(3, features=(4, 4, 4), strides=((2, 3, 1), 2), output_stride=6).eval()
        assert network(torch.empty(1, 1, *size)).shape == (1, 2, *size)


def test_what_a_plan_hands_over_is_taken() -> None:
    network = DeepLab(
        features=[4, 8, 8],
        kernel_sizes=[[3, 3, 1], [3, 3, 1], [3, 3, 3]],
        strides=[[2, 2, 1], [2, 2, 2]],
        spacing_mm=[1.0, 1.0, 5.0],
    )
    assert network.encoder.features == (4, 8, 8)
    assert network(torch.randn(2, 1, 9, 8, 5)).shape == (2, 2, 9, 8, 5)


@pytest.mark.parametrize(
    ("hidden", "where"),
    [(None, ["dropout"]), (4, ["branches.0.1", "branches.0.3"])],
)
def test_dropout_stands_before_what_scores(hidden: int | None, where: list[str]) -> None:
    pyramid = DeepLab(2, features=(4, 8), dropout=0.5, rates=(1,), aspp_features=hidden).pyramid
    active = [n for n, m in pyramid.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.5]
    assert active == where


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("backbone", ["bottleneck", "residual", "vgg"])
def test_every_backbone_and_version_learns(backbone: str, version: int) -> None:
    torch.manual_seed(0)
    network = DeepLab(2, features=(8, 16), backbone=backbone, version=version, rates=(1, 2), aspp_features=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
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
        ({"backbone": "vgq"}, "backbone='vgq' is unknown; did you mean 'vgg'"),
        ({"backbone": "vgg", "stem": "resnet"}, "backbone='vgg' has no residual units; leave stem"),
        ({"backbone": "vgg", "multi_grid": (1, 2)}, "backbone='vgg' has no residual units; leave stem"),
        ({"stem": "resnet", "output_stride": 1}, "is less than that of stem='resnet'; give 2 or more"),
        ({"version": 1}, "version=1 is unknown; choose 2 or 3"),
        ({"version": 3, "aspp_features": None}, "version=3 joins features and needs aspp_features"),
        ({"image_feature": True}, "version=2 sums scores and has no image_feature; choose version=3"),
        ({"aspp_features": 0}, "aspp_features=0 is not a positive"),
        ({"rates": ()}, "rates is empty"),
        ({"rates": (0,)}, "rates=0 is not a positive"),
        ({"rates": ((1, 2),)}, r"rates has 2 numbers \(1, 2\) for 3 axes"),
        ({"output_stride": 0}, "output_stride=0 is not a positive"),
        ({"spacing_mm": (1.0, 1.0)}, "does not name the spacing of 3 axes"),
        ({"spacing_mm": (1.0, 1.0, 0.0)}, "does not name the spacing of 3 axes"),
        ({"counts": (1, 1)}, "counts has 2 entries for 3 levels"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DeepLab(**{"features": (4, 6, 8), **options})
