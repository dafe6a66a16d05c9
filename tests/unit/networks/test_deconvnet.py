"""DeconvNet: the paper's numbers, an independent forward pass, its sizes and its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.deconvnet import CONFIGURATIONS, DeconvNet

PAPER = CONFIGURATIONS["deconvnet_vgg16"]


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("fc_padding", ["valid", "same"])
def test_the_paper_s_network(fc_padding: str) -> None:
    with torch.device("meta"):
        network = DeconvNet(**{**PAPER, "fc_padding": fc_padding})
        scores = network(torch.empty(2, 3, 224, 224))
    assert scores.shape == (2, 21, 224, 224)
    assert parameter_count(network) == 251_788_949
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 29
    assert parameter_count(network) + sum(layer.num_features for layer in norms) == 251_805_653


def test_the_paper_s_code_is_one_vector() -> None:
    with torch.device("meta"):
        network = DeconvNet(**PAPER)
        maps = network.encoder(torch.empty(2, 3, 224, 224))
    assert maps[-1].shape == (2, 4096, 1, 1)
    assert network.encoder.features == tuple(features.shape[1] for features in maps)
    assert [features.shape[-1] for features in maps] == [224, 112, 56, 28, 14, 1]


def test_the_way_up_mirrors_vgg_16() -> None:
    with torch.device("meta"):
        network = DeconvNet(**PAPER)
    down = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d)]
    vgg = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096]
    assert [layer.out_channels for layer in down] == [*vgg, 21]
    assert [layer.in_channels for layer in up] == [4096, *vgg[12::-1]]
    assert [layer.kernel_size[0] for layer in up] == [7] + [3] * 13


def written_out(weights: dict[str, Tensor], images: Tensor, counts: list[int], padding: str) -> Tensor:
    """DeconvNet in 2D without norm, of torch's functions alone, its own unpooling among them."""

    def layer(x: Tensor, name: str, kind: Any, pad: bool = True, relu: bool = True) -> Tensor:
        weight = weights[f"{name}.weight"]
        x = kind(x, weight, weights[f"{name}.bias"], padding=weight.shape[2] // 2 if pad else 0)
        return torch.relu(x) if relu else x

    down, up, padded = functional.conv2d, functional.conv_transpose2d, padding == "same"
    x, remembered = images, []
    for level, count in enumerate(counts):
        for index in range(count):
            x = layer(x, f"encoder.convolutions.levels.{level}.convs.{index}.conv", down)
        before = x.shape
        x, indices = functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
        remembered.append((indices, before))
    x = layer(x, "encoder.fully_connected.fc6.conv", down, padded)
    x = layer(x, "encoder.fully_connected.fc7.conv", down)
    x = layer(x, "fc6_deconv.deconv", up, padded)
    for step, count in enumerate(reversed(counts)):
        indices, before = remembered.pop()
        x = functional.max_unpool2d(x, indices, 2, output_size=before[2:])
        for index in range(count):
            x = layer(x, f"decoder.levels.{step}.{index}.deconv", up)
    return layer(x, "head", down, relu=False)


@pytest.mark.parametrize("fc_padding", ["same", "valid"])
def test_equals_the_network_written_out(fc_padding: str) -> None:
    torch.manual_seed(0)
    network = DeconvNet(
        2, 2, 3, features=(4, 6, 8), norm=None, kernel_sizes=(3, 5, 3), counts=(1, 3), fc_padding=fc_padding
    )
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    images = torch.randn(2, 2, 13, 10)
    torch.testing.assert_close(network(images), written_out(network.state_dict(), images, [1, 3], fc_padding))


@given(size=st.lists(st.integers(1, 17), min_size=3, max_size=3), steps=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_any_size_is_taken_and_given_back(size: list[int], steps: int) -> None:
    strides = [(2, 2, 2), (2, 2, 1), (1, 3, 2)][:steps]
    network = DeconvNet(3, 1, 2, features=(2, 3, 2, 4)[: steps + 1], strides=strides, counts=1).eval()
    assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


@given(size=st.lists(st.integers(1, 40), min_size=2, max_size=2))
@settings(max_examples=40, deadline=None)
def test_without_padding_a_size_is_given_back_or_refused_with_one_that_fits(size: list[int]) -> None:
    network = DeconvNet(
        2, 1, 2, features=(2, 2, 2), kernel_sizes=(3, 3, (5, 3)), strides=(2, (3, 2)), fc_padding="valid"
    ).eval()
    # Six voxels of X and four of Y make one of the coarsest grid, five by three of which fc6 needs.
    smallest = (25, 9)
    if all(length >= least for length, least in zip(size, smallest, strict=True)):
        assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)
        return
    axis = 0 if size[0] < smallest[0] else 1
    with pytest.raises(
        ValueError, match=rf"axis {'XY'[axis]} has {size[axis]} voxels .* {smallest[axis]} or"
    ):
        network(torch.zeros(1, 1, *size))


def test_batch_norm_refuses_a_code_of_one_vector_in_training() -> None:
    network = DeconvNet(2, 1, 2, features=(2, 3), fc_padding="valid")
    with pytest.raises(ValueError, match="leaves the coarsest level one voxel"):
        network(torch.zeros(1, 1, 6, 6))
    assert network(torch.zeros(2, 1, 6, 6)).shape == (2, 2, 6, 6)
    assert network.eval()(torch.zeros(1, 1, 6, 6)).shape == (1, 2, 6, 6)


def test_a_stride_of_one_lets_no_neighbours_meet() -> None:
    """With kernels and strides of 1 along Z, planes are segmented on their own."""
    torch.manual_seed(0)
    network = DeconvNet(3, 1, 2, features=(3, 4, 5), kernel_sizes=[[3, 3, 1]] * 3, strides=[[2, 2, 1]] * 2)
    images = torch.randn(1, 1, 9, 8, 5)
    changed = images.clone()
    changed[..., 2] += 1.0
    network.eval()
    moved = (network(images) - network(changed)).abs().amax(dim=(0, 1, 2, 3))
    assert (moved > 0).tolist() == [False, False, True, False, False]


def test_dropout_stands_behind_the_fully_connected_layers() -> None:
    torch.manual_seed(0)
    network = DeconvNet(2, 1, 2, features=(8, 64), norm=None, dropout=0.5)
    code = network.encoder(torch.randn(1, 1, 16, 16))[-1]
    assert 0.5 < (code == 0.0).float().mean() < 0.9
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": (4,)}, "two or more are needed"),
        ({"strides": [2, 2]}, "strides has 2 entries for 2 levels"),
        ({"counts": (1, 2)}, "counts has 2 entries for 1 levels"),
        ({"counts": 0}, "counts=0 is not a positive whole number"),
        ({"fc_padding": "vaild"}, "fc_padding='vaild' is unknown; did you mean 'valid'"),
        ({"dropout": -0.1}, "dropout=-0.1 is no probability"),
        ({"norm": "layer"}, "norm='layer' is unknown"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DeconvNet(2, **{"features": (4, 8), **options})
