"""HighRes3DNet: the paper's numbers, MONAI's network with the same weights, thick slices, options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks import nets
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.highresnet import CONFIGURATIONS, HighResNet


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]


def test_the_paper_s_configuration() -> None:
    with torch.device("meta"):
        network = HighResNet(**CONFIGURATIONS["highres3dnet"])
        assert network(torch.empty(1, 1, 96, 96, 96)).shape == (1, 160, 96, 96, 96)
        assert [tuple(m.shape) for m in network.encoder(torch.empty(2, 1, 9, 8, 7))] == [(2, 80, 9, 8, 7)]
    assert network.encoder.features == (80,)
    assert parameter_count(network) == 821_744
    layers = convolutions(network)
    assert sum(layer.weight.numel() for layer in layers) == 820_144
    assert len(layers) == 20 + 1
    stages = [(16, 3, 1)] * 7 + [(32, 3, 2)] * 6 + [(64, 3, 4)] * 6
    found = [(layer.out_channels, layer.kernel_size[0], layer.dilation[0]) for layer in layers]
    assert found == [*stages, (80, 1, 1), (160, 1, 1)]


def test_an_output_voxel_sees_87_voxels_an_axis() -> None:
    network = HighResNet(2, 1, 1, base_features=1, norm=None).double()
    for layer in convolutions(network):
        nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 91, 91, dtype=torch.float64)
    image[..., 45, 45] = 1.0
    reached = network(image)[0, 0] > 0
    assert (int(reached.any(1).sum()), int(reached.any(0).sum())) == (87, 87)


def layers_as_they_run(network: nn.Module, images: Tensor) -> list[nn.Module]:
    layers: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d)
    hooks = [
        module.register_forward_pre_hook(lambda layer, _args: layers.append(layer))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return layers


@pytest.mark.parametrize("dims", [2, 3])
def test_monai_s_highresnet_with_the_same_weights_trains_the_same(dims: int) -> None:
    torch.manual_seed(0)
    ours = HighResNet(dims, 2, 3, base_features=16)
    theirs = nets.HighResNet(dims, 2, 3)
    # MONAI normalises and rectifies the class scores as well, so that none is negative: taken away.
    theirs.blocks[-1] = theirs.blocks[-1].conv
    images = torch.randn(2, 2, *(24, 20, 12)[:dims])
    pairs = zip(layers_as_they_run(ours, images), layers_as_they_run(theirs, images), strict=True)
    for here, there in pairs:
        assert type(here) is type(there)
        if isinstance(here, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(here.weight, mean=1.0, std=0.2)
            nn.init.normal_(here.bias, std=0.2)
        there.load_state_dict(here.state_dict(), strict=here is not ours.head)
    assert not ours.head.bias.any()
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "prelu"])
def test_without_norm_a_unit_adds_to_its_input_as_it_was(activation: str) -> None:
    """An activation in place would rectify the input before the sum."""
    torch.manual_seed(0)
    network = HighResNet(2, 1, 2, base_features=4, norm=None, activation=activation)
    unit = network.encoder.units[3]
    features = torch.randn(1, 4, 6, 6)
    before = features.clone()
    added = unit(features) - functional.pad(before, [0, 0, 0, 0, 2, 2])
    assert torch.equal(features, before)
    torch.testing.assert_close(added, unit.layers(before))


def test_thick_slices_come_in_with_the_second_stage() -> None:
    network = HighResNet(3, base_features=2, kernel_size=[3, 3, 1])
    found = [(layer.kernel_size, layer.dilation) for layer in convolutions(network)]
    assert found[0] == found[6] == ((3, 3, 1), (1, 1, 1))
    assert found[7] == found[12] == ((3, 3, 3), (2, 2, 1))
    assert found[13] == found[18] == ((3, 3, 3), (4, 4, 2))
    assert network(torch.zeros(2, 1, 7, 6, 3)).shape == (2, 2, 7, 6, 3)


@settings(max_examples=10, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)))
def test_any_size_is_taken_and_given_back(size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        network = HighResNet(3, base_features=2).eval()
        assert network(torch.empty(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
def test_every_norm_learns(norm: str | None) -> None:
    torch.manual_seed(0)
    network = HighResNet(2, base_features=4, norm=norm)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images = torch.randn(4, 1, 16, 16)
    target = (functional.avg_pool2d(images, 3, stride=1, padding=1)[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.7 * first


def test_dropout_stands_before_the_layer_that_classifies_and_only_in_training() -> None:
    torch.manual_seed(0)
    network = HighResNet(2, base_features=2, dropout=0.5, norm=None)
    images = torch.randn(1, 1, 12, 12)
    assert torch.equal(network.encoder(images)[0], network.encoder(images)[0])
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 is not supported; choose 2 or 3"),
        ({"out_channels": 0}, "out_channels=0 is not a positive"),
        ({"base_features": 0}, "base_features=0 is not a positive whole number"),
        ({"kernel_size": (3, 3)}, r"kernel_size has 2 numbers \(3, 3\) for 3 axes"),
        ({"kernel_size": 2}, "is even"),
        ({"norm": "bach"}, "norm='bach' is unknown; did you mean 'batch'"),
        ({"activation": "softplus"}, "activation='softplus' is unknown"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HighResNet(**options)
