"""SegNet: the paper's numbers, an independent forward pass, its sizes and its options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.segnet import CONFIGURATIONS, SegNet


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def biases_taken_away_by_norms(network: nn.Module) -> int:
    """One for each channel that a batch norm shifts anyway."""
    return sum(layer.num_features for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("name", "count", "with_all_biases"),
    [("segnet_vgg16", 29_441_419, 29_449_355), ("segnet_basic", 1_416_075, 1_416_587)],
)
def test_the_paper_s_networks(name: str, count: int, with_all_biases: int) -> None:
    with torch.device("meta"):
        network = SegNet(**CONFIGURATIONS[name])
        scores = network(torch.empty(1, 3, 360, 480))
    assert scores.shape == (1, 11, 360, 480)
    assert parameter_count(network) == count
    assert count + biases_taken_away_by_norms(network) == with_all_biases


def test_segnet_is_vgg_16_and_its_mirror_image() -> None:
    with torch.device("meta"):
        network = SegNet(**CONFIGURATIONS["segnet_vgg16"])
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    widths = [layer.out_channels for layer in layers]
    vgg = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert widths[:13] == vgg
    assert widths[13:] == [512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 11]
    assert [layer.in_channels for layer in layers[13:]] == vgg[::-1]
    assert {layer.kernel_size for layer in layers} == {(3, 3)}
    assert sum(isinstance(layer, nn.ReLU) for layer in network.modules()) == 25


def test_segnet_basic_has_no_activation_on_the_way_up() -> None:
    with torch.device("meta"):
        network = SegNet(**CONFIGURATIONS["segnet_basic"])
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in layers] == [(7, 7)] * 8 + [(1, 1)]
    assert sum(isinstance(layer, nn.ReLU) for layer in network.encoder.modules()) == 4
    assert not any(isinstance(layer, nn.ReLU) for layer in network.decoder.modules())


def written_out(weights: dict[str, Tensor], images: Tensor, counts: list[int], *, relu_up: bool) -> Tensor:
    """SegNet in 2D without norm, of torch's functions alone, its own unpooling among them."""

    def convolve(x: Tensor, name: str, relu: bool = True) -> Tensor:
        weight = weights[f"{name}.weight"]
        x = functional.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[2] // 2)
        return torch.relu(x) if relu else x

    x, remembered = images, []
    for level, count in enumerate(counts):
        for index in range(count):
            x = convolve(x, f"encoder.levels.{level}.convs.{index}.conv")
        before = x.shape
        x, indices = functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
        remembered.append((indices, before))
    for step, count in enumerate(reversed(counts)):
        indices, before = remembered.pop()
        x = functional.max_unpool2d(x, indices, 2, output_size=before[2:])
        # On the finest level the mirrored decoder's last convolution is the classifier.
        for index in range(count - (relu_up and not remembered)):
            x = convolve(x, f"decoder.levels.{step}.{index}.conv", relu=relu_up)
    return convolve(x, "head", relu=False)


@pytest.mark.parametrize(("decoder", "counts"), [("mirrored", [2, 1, 3]), ("basic", [1, 2, 1])])
def test_equals_the_network_written_out(decoder: str, counts: list[int]) -> None:
    torch.manual_seed(0)
    network = SegNet(
        2, 2, 3, features=(4, 6, 5), norm=None, counts=counts, decoder=decoder, kernel_sizes=(3, 5, 3)
    )
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    images = torch.randn(2, 2, 13, 10)
    expected = written_out(network.state_dict(), images, counts, relu_up=decoder == "mirrored")
    torch.testing.assert_close(network(images), expected)


@given(size=st.lists(st.integers(1, 17), min_size=3, max_size=3), steps=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_any_size_is_taken_and_given_back(size: list[int], steps: int) -> None:
    strides = [*[(2, 2, 2), (2, 2, 1), (1, 3, 2)][:steps], (2, 1, 1)]
    network = SegNet(3, 1, 2, features=(2, 3, 2, 3)[: steps + 1], strides=strides, counts=1).eval()
    assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_one_level_is_enough_as_planned_for_tiny_volumes() -> None:
    network = SegNet(3, 1, 2, features=[2], kernel_sizes=[[3, 3, 1]], strides=[[2, 2, 1]])
    assert network(torch.zeros(1, 1, 7, 6, 5)).shape == (1, 2, 7, 6, 5)
    assert network.pools_last_level
    assert network.coarsest_size((7, 6, 5)) == (4, 3, 5)


def test_a_stride_of_one_lets_no_neighbours_meet() -> None:
    """With kernels and strides of 1 along Z, planes are segmented on their own."""
    torch.manual_seed(0)
    network = SegNet(3, 1, 2, features=(3, 4), kernel_sizes=[(3, 3, 1)] * 2, strides=[(2, 2, 1)] * 2).eval()
    images = torch.randn(1, 1, 9, 8, 5)
    changed = images.clone()
    changed[..., 2] += 1.0
    moved = (network(images) - network(changed)).abs().amax(dim=(0, 1, 2, 3))
    assert (moved > 0).tolist() == [False, False, True, False, False]


def test_the_encoder_gives_the_maps_before_pooling_finest_first() -> None:
    network = SegNet(2, 1, 2, features=(3, 4, 5))
    images = torch.randn(2, 1, 12, 9)
    maps = network.encoder(images)
    assert network.encoder.features == (3, 4, 5)
    assert [tuple(features.shape) for features in maps] == [(2, 3, 12, 9), (2, 4, 6, 5), (2, 5, 3, 3)]
    again, indices, coarsest = network.encoder.eval().pooled(images)
    assert [index.shape[2:] for index in indices] == [(6, 5), (3, 3), (2, 2)]
    for features, index, pooled in zip(again, indices, [None, None, coarsest], strict=True):
        maxima = functional.max_pool2d(features, 2, ceil_mode=True)
        assert torch.equal(features.flatten(2).gather(2, index.flatten(2)).view_as(maxima), maxima)
        assert pooled is None or torch.equal(pooled, maxima)


def test_batch_norm_refuses_what_pools_to_one_voxel_in_training() -> None:
    network = SegNet(3, 1, 2, features=(2, 3), counts=1)
    tiny = torch.zeros(1, 1, 4, 4, 4)
    with pytest.raises(
        ValueError, match=r"leaves the coarsest level one voxel.*; give more than \(4, 4, 4\)"
    ):
        network(tiny)
    assert network.eval()(tiny).shape == (1, 2, 4, 4, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": ()}, "features names 0 levels, one or more are needed"),
        ({"strides": [2]}, "strides has 1 entries for 2 levels; give 2, one for each step down"),
        ({"kernel_sizes": [3, 3, 3]}, r"kernel_sizes has 3 entries for 2 levels"),
        ({"kernel_sizes": [3, 2]}, "has even sizes, which have no middle"),
        ({"counts": (1, 2, 3)}, "counts has 3 entries for 2 levels"),
        ({"counts": 0}, "counts=0 is not a positive whole number"),
        ({"decoder": "mirrord"}, "decoder='mirrord' is unknown; did you mean 'mirrored'"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"activation": "relo"}, "did you mean 'relu'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SegNet(2, **{"features": (4, 8), **options})


def test_dropout_stands_behind_the_two_coarsest_levels() -> None:
    network = SegNet(2, 1, 2, features=(2, 3, 4), dropout=0.25)
    where = [any(isinstance(m, nn.Dropout) for m in level.modules()) for level in network.encoder.levels]
    assert where == [False, True, True]
