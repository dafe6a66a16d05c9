"""FC-DenseNet: its paper's numbers, an independent forward pass, its sizes and its options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.fc_densenet import CONFIGURATIONS, DenseBlock, FCDenseNet

TINY = {"base_features": 5, "growth_rate": 3, "layers": (1, 2, 2), "strides": (2, 2)}


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return [module for module in network.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize(
    ("name", "layers", "count", "biases"),
    [
        ("fc_densenet56", 56, 1_375_019, 1_776),
        ("fc_densenet67", 67, 3_460_475, 2_768),
        ("fc_densenet103", 103, 9_318_075, 4_016),
    ],
)
def test_the_paper_s_networks(name: str, layers: int, count: int, biases: int) -> None:
    with torch.device("meta"):
        network = FCDenseNet(**CONFIGURATIONS[name])
        scores = network(torch.empty(2, 3, 224, 224))
    assert scores.shape == (2, 11, 224, 224)
    assert len(convolutions(network)) == layers  # which the names tell
    assert parameter_count(network) == count
    without_bias = [layer for layer in convolutions(network) if layer.bias is None]
    assert sum(layer.out_channels for layer in without_bias) == biases
    assert sum(isinstance(module, nn.Dropout) for module in network.modules()) == layers - 7


def test_channels_are_the_paper_s_for_103() -> None:
    """Channels behind each block, the m of its table; only the new ones of the coarsest go up."""
    with torch.device("meta"):
        network = FCDenseNet(**CONFIGURATIONS["fc_densenet103"])
        down = network.encoder(torch.empty(1, 3, 224, 224))
    assert [features.shape[1] for features in down] == [112, 192, 304, 464, 656, 240]
    assert network.encoder.features == (112, 192, 304, 464, 656, 240)
    up = [level.layers[-1].conv.in_channels + 16 for level in network.decoder.levels]
    assert up == [1088, 816, 576, 384, 256]


def written_out(weights: dict[str, Tensor], images: Tensor, norm: str | None) -> Tensor:
    """The network TINY from torch's functions alone; maps of even sizes."""

    def layer(x: Tensor, name: str, pad: int) -> Tensor:
        if norm == "batch":
            running = weights[f"{name}.norm.running_mean"], weights[f"{name}.norm.running_var"]
            scale, shift = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
            x = functional.batch_norm(x, *running, scale, shift)
        x = torch.relu(x)
        return functional.conv3d(
            x, weights[f"{name}.conv.weight"], weights.get(f"{name}.conv.bias"), padding=pad
        )

    def block(x: Tensor, name: str, count: int) -> tuple[Tensor, Tensor]:
        everything = x
        for index in range(count):
            made = layer(everything, f"{name}.layers.{index}", 1)
            everything = torch.cat([everything, made], 1)
        return everything, everything[:, x.shape[1] :]

    first = "encoder.first"
    x = functional.conv3d(images, weights[f"{first}.weight"], weights.get(f"{first}.bias"), padding=1)
    skips = []
    for level, count in enumerate((1, 2)):
        everything, _ = block(x, f"encoder.levels.{level}", count)
        skips.append(everything)
        x = functional.max_pool3d(layer(everything, f"encoder.downs.{level}", 0), 2)
    _, made = block(x, "encoder.coarsest", 2)
    for step, count in enumerate((2, 1)):
        up = f"decoder.ups.{step}"
        weight, bias = weights[f"{up}.weight"], weights.get(f"{up}.bias")
        x = functional.conv_transpose3d(made, weight, bias, stride=2, padding=1, output_padding=1)
        everything, made = block(torch.cat([skips[1 - step], x], 1), f"decoder.levels.{step}", count)
    return functional.conv3d(everything, weights["head.weight"], weights["head.bias"])


@pytest.mark.parametrize("norm", ["batch", None])
def test_forward_is_the_network_written_out(norm: str | None) -> None:
    torch.manual_seed(0)
    network = FCDenseNet(3, 2, 3, norm=norm, **TINY).eval()
    for name, value in network.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            nn.init.normal_(value)
        elif name.endswith(("norm.weight", "running_var")):
            nn.init.uniform_(value, 0.5, 2.0)
    images = torch.randn(2, 2, 8, 12, 4)
    expected = written_out(network.state_dict(), images, norm)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@given(
    size=st.tuples(*[st.integers(1, 40)] * 3),
    strides=st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=3),
)
@settings(max_examples=12, deadline=None)
def test_any_size_and_stride_is_taken_and_given_back(
    size: tuple[int, ...], strides: list[tuple[int, ...]]
) -> None:
    network = FCDenseNet(3, 1, 2, base_features=2, growth_rate=1, layers=1, strides=strides).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_maps_of_odd_sizes_are_those_of_the_strides() -> None:
    network = FCDenseNet(3, base_features=2, growth_rate=2, layers=1, strides=[(2, 2, 1), (3, 1, 2)])
    maps = network.encoder(torch.zeros(2, 1, 9, 7, 5))
    assert [tuple(features.shape) for features in maps] == [
        (2, 4, 9, 7, 5),
        (2, 6, 5, 4, 5),
        (2, 2, 2, 4, 3),
    ]
    assert network.total_stride() == (6, 2, 2)


@pytest.mark.parametrize(("stride", "reach"), [(1, [2]), (2, [3, 4, 5]), (3, [5, 6, 7, 8, 9])])
def test_a_step_up_spreads_a_voxel_over_its_block_and_its_neighbours(stride: int, reach: list[int]) -> None:
    """Voxel 2 of the coarse line stands for voxels 2s to 3s - 1 of the fine one."""
    network = FCDenseNet(2, base_features=1, growth_rate=1, layers=1, strides=[(1, stride)], norm=None)
    (up,) = network.decoder.ups
    nn.init.ones_(up.weight)
    coarse = torch.zeros(1, 1, 1, 5)
    coarse[..., 2] = 1.0
    fine = up(coarse)
    assert fine.shape == (1, 1, 1, 5 * stride)
    assert fine.flatten().nonzero().flatten().tolist() == reach


def test_an_axis_that_no_kernel_crosses_is_many_images() -> None:
    torch.manual_seed(0)
    network = FCDenseNet(
        base_features=4, growth_rate=2, layers=1, kernel_sizes=[(3, 3, 1)] * 2, strides=[(2, 2, 1)]
    ).eval()
    images = torch.randn(1, 1, 6, 8, 5)
    alone = [network(images[..., index : index + 1]) for index in range(5)]
    torch.testing.assert_close(network(images), torch.cat(alone, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "elu", "leaky_relu"])
def test_without_norm_a_layer_leaves_its_input_to_the_others(activation: str) -> None:
    torch.manual_seed(0)
    network = FCDenseNet(2, norm=None, activation=activation, **TINY)
    features = torch.randn(1, 5, 4, 4)
    kept = features.clone()
    network.encoder.levels[0](features)
    assert torch.equal(features, kept)


def test_dropout_acts_only_in_training() -> None:
    torch.manual_seed(0)
    network = FCDenseNet(2, dropout=0.5, **TINY)
    images = torch.randn(2, 1, 16, 16)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    assert not any(isinstance(module, nn.Dropout) for module in FCDenseNet(2, **TINY).modules())


def test_the_default_has_more_layers_the_coarser_the_level() -> None:
    assert FCDenseNet().layers == (2, 3, 4, 5)
    assert FCDenseNet(strides=[(2, 2, 1)], kernel_sizes=[3, 3]).layers == (2, 3)


@pytest.mark.parametrize("name", ["flat", "default"])
def test_activations_keep_their_deviation_without_norm(name: str) -> None:
    """Block by block without pooling; with it, which takes the larger values, from first to last."""
    options = {"flat": {"strides": [1] * 5, "layers": 4}, "default": {}}[name]
    deviations = torch.zeros(20)
    for seed in range(3):
        torch.manual_seed(seed)
        network = FCDenseNet(2, norm=None, **options)
        seen: list[float] = []
        for module in network.modules():
            if module is network.encoder.first or isinstance(module, DenseBlock | nn.ConvTranspose2d):
                module.register_forward_hook(
                    lambda _m, _args, output, to=seen: to.append(output.std().item())
                )
        images = functional.avg_pool2d(torch.randn(1, 1, 68, 68), 5, stride=1)
        with torch.no_grad():
            network((images - images.mean()) / images.std())
        deviations[: len(seen)] += torch.tensor(seen) / 3
    ratios = deviations[deviations > 0] / deviations[0]
    assert len(ratios) == {"flat": 17, "default": 11}[name]
    checked = ratios if name == "flat" else ratios[-1:]
    assert checked.min() > 0.5
    assert checked.max() < 2.0


def test_a_step_up_keeps_the_deviation_of_what_was_not_rectified() -> None:
    torch.manual_seed(0)
    network = FCDenseNet(2, growth_rate=32, layers=2, norm=None)
    for up in network.decoder.ups:
        assert up(torch.randn(1, 64, 32, 32)).std().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
def test_a_tiny_network_learns(norm: str | None) -> None:
    torch.manual_seed(0)
    network = FCDenseNet(2, base_features=8, growth_rate=4, layers=2, strides=(2, 2), norm=norm)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images = torch.randn(4, 1, 16, 16)
    target = (functional.avg_pool2d(images, 3, stride=1, padding=1)[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(25):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.6 * first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 is not supported; choose 2 or 3"),
        ({"in_channels": 0}, "in_channels=0 is not a positive whole number"),
        ({"base_features": 0}, "base_features=0 is not a positive whole number"),
        ({"growth_rate": 1.5}, "growth_rate=1.5 is not a positive whole number"),
        ({"layers": 0}, "layers=0 is not a positive whole number"),
        ({"layers": (2, 2)}, "layers has 2 entries for 3 levels; give one for each, or one"),
        ({"norm": "bach"}, "norm='bach' is unknown; did you mean 'batch'"),
        ({"activation": "softplus"}, "activation='softplus' is unknown"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"kernel_sizes": (3, 3)}, "kernel_sizes has 2 entries for 3 levels"),
        ({"kernel_sizes": (3, 3, 2)}, "has even sizes"),
        ({"strides": ()}, "strides names no step down, one or more are needed; give"),
        ({"strides": (2, 0)}, "strides=0"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FCDenseNet(**{"strides": (2, 2), **options})
