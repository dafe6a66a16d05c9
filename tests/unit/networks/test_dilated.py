"""Dilated nets and the context module: the paper's numbers, hand-computed weights, other networks with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.networks.blocks import ContextModule, WithContext
from medseg.networks.dilated import CONFIGURATIONS, DilatedNet
from medseg.networks.unet import UNet


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]


# The context module


@pytest.mark.parametrize("channels", [1, 3, 21])
@pytest.mark.parametrize("dims", [2, 3])
def test_basic_context_starts_as_max_of_input_and_zero(dims: int, channels: int) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, channels, *(11, 9, 8)[:dims])
    context = ContextModule(dims, channels, "basic")
    assert torch.equal(context(scores), scores.clamp(min=0.0))


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_large_context_starts_as_max_of_input_and_zero_but_for_noise(dims: int, channels: int) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, channels, *(11, 9, 8)[:dims])
    context = ContextModule(dims, channels, "large")
    expected = scores.clamp(min=0.0)
    error = (context(scores) - expected).abs().mean() / expected.mean()
    assert 0.0 < error < 0.2
    for layer in convolutions(context):
        without = layer.weight.abs() < 0.5 * channels / layer.out_channels
        layer.weight.data[without] = 0.0
    torch.testing.assert_close(context(scores), expected)


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_the_paper_s_initialisation_weight_by_weight(kind: str) -> None:
    torch.manual_seed(0)
    channels = 3
    for layer in convolutions(ContextModule(2, channels, kind)):
        into, out = layer.in_channels, layer.out_channels
        middle = layer.kernel_size[0] // 2
        noise = []
        for b in range(out):
            for a in range(into):
                for t in range(layer.weight[b, a].numel()):
                    row, column = divmod(t, layer.kernel_size[0])
                    weight = layer.weight[b, a, row, column].item()
                    if row == column == middle and a * channels // into == b * channels // out:
                        assert weight == pytest.approx(channels / out)
                    else:
                        noise.append(weight)
        deviation = math.sqrt(sum(weight**2 for weight in noise) / len(noise))
        expected = 0.0 if kind == "basic" else 0.01 * channels / out
        assert deviation == pytest.approx(expected, rel=0.6 if len(noise) < 500 else 0.2)
        assert not layer.bias.any()


def test_large_context_s_first_layer_by_hand() -> None:
    first = convolutions(ContextModule(2, 2, "large"))[0]
    kept = first.weight[..., 1, 1].detach().round(decimals=1)
    assert kept.tolist() == [[0.5, 0.0], [0.5, 0.0], [0.0, 0.5], [0.0, 0.5]]


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_context_layers_see_what_the_paper_s_table_says(kind: str) -> None:
    context = ContextModule(2, 1, kind)
    for layer in convolutions(context):
        nn.init.ones_(layer.weight)
    features = torch.zeros(1, 1, 75, 75, dtype=torch.float64)
    features[..., 37, 37] = 1.0
    seen = []
    for layer in context.double():
        features = layer(features)
        reached = features[0, 0] > 0
        seen.append((int(reached.any(1).sum()), int(reached.any(0).sum())))
    assert seen == [(size, size) for size in (3, 5, 9, 17, 33, 65, 67, 67)]


def test_context_looks_along_no_axis_of_kernel_one() -> None:
    context = ContextModule(3, 1, kernel_size=(3, 3, 1))
    for layer in convolutions(context):
        nn.init.ones_(layer.weight)
    impulse = torch.zeros(1, 1, 69, 5, 5, dtype=torch.float64)
    impulse[..., 34, 2, 2] = 1.0
    reached = context.double()(impulse)[0, 0] > 0
    assert [int(reached.any((1, 2)).sum()), int(reached.any((0, 2)).sum())] == [67, 5]
    assert reached.any(0).any(0).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(("dims", "basic", "large"), [(2, 64, 15_422), (3, 190, 46_202)])
def test_context_has_as_many_parameters_as_the_docstring_says(dims: int, basic: int, large: int) -> None:
    for channels in (1, 3, 21):
        with torch.device("meta"):
            counts = [parameter_count(ContextModule(dims, channels, kind)) for kind in ("basic", "large")]
        assert counts == [basic * channels**2 + 8 * channels, large * channels**2 + 97 * channels]


@pytest.mark.parametrize("kind", ["basic", "large"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_weight_of_a_context_learns(dims: int, kind: str) -> None:
    """Rectified scores and zero weights leave no parameter without a gradient, in three steps running."""
    torch.manual_seed(0)
    context = ContextModule(dims, 3, kind)
    scores = torch.randn(2, 3, *(8, 12, 8)[:dims])
    target = torch.randint(0, 3, (2, *(8, 12, 8)[:dims]))
    optimizer = torch.optim.SGD(context.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(context(scores), target)
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in context.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


def test_context_refuses_invalid_options() -> None:
    with pytest.raises(ValueError, match="context='bassic' is unknown; did you mean 'basic'"):
        ContextModule(2, 3, "bassic")
    with pytest.raises(ValueError, match="channels=0 is not a positive whole number"):
        ContextModule(2, 0)
    with pytest.raises(ValueError, match="is even"):
        ContextModule(2, 3, kernel_size=2)


# The front end


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dilated_frontend", 134_346_581),
        ("dilated_context_basic", 134_346_581 + 28_392),
        ("dilated_context_large", 134_346_581 + 6_803_139),
    ],
)
def test_the_paper_s_configurations(name: str, count: int) -> None:
    with torch.device("meta"):
        network = DilatedNet(**CONFIGURATIONS[name])
        images = torch.empty(1, 3, 500, 375)
        assert network(images).shape == (1, 21, 500, 375)
        assert network.encoder(images)[-1].shape == (1, 4096, 63, 47)
    assert parameter_count(network) == count


def test_the_front_end_is_vgg_16_with_dilated_conv5_and_fc6() -> None:
    with torch.device("meta"):
        network = DilatedNet(**CONFIGURATIONS["dilated_frontend"])
    found = [(conv.out_channels, conv.kernel_size[0], conv.dilation[0]) for conv in convolutions(network)]
    vgg = [(64, 3, 1)] * 2 + [(128, 3, 1)] * 2 + [(256, 3, 1)] * 3 + [(512, 3, 1)] * 3 + [(512, 3, 2)] * 3
    assert found == [*vgg, (4096, 7, 4), (4096, 1, 1), (21, 1, 1)]
    assert sum(isinstance(module, nn.MaxPool2d) for module in network.modules()) == 3
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5]


def written_out(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """A front end of four levels of which two dilate, and basic context, from torch's functions alone."""

    def conv(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        pad = dilation * (weight.shape[-1] // 2)
        return functional.conv3d(x, weight, weights[f"{name}.bias"], padding=pad, dilation=dilation)

    x = images
    for level, dilation in enumerate((1, 1, 2, 4)):
        x = functional.max_pool3d(x, 2) if level == 1 else x
        for index in range(2):
            x = torch.relu(conv(x, f"encoder.levels.{level}.convs.{index}.conv", dilation))
    x = torch.relu(conv(x, "classifier.1.conv"))
    x = conv(x, "classifier.3")
    for index, dilation in enumerate((1, 1, 2, 4, 8, 16, 1)):
        x = torch.relu(conv(x, f"context.{index}.conv", dilation))
    x = conv(x, "context.7")
    return functional.interpolate(x, size=images.shape[2:], mode="trilinear", align_corners=False)


def test_forward_is_the_network_written_out() -> None:
    torch.manual_seed(0)
    network = DilatedNet(3, 2, 3, features=(3, 4, 5, 6), pointwise_features=(7,), norm=None)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or name.startswith("context"):
            nn.init.normal_(parameter, std=0.3)
    images = torch.randn(1, 2, 8, 12, 16)
    expected = written_out(network.state_dict(), images)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dilated_steps", "stride"), [(0, 8), (1, 4), (2, 2), (3, 1), (9, 1)])
def test_dilated_steps_decide_on_which_grid_scores_lie(dilated_steps: int, stride: int) -> None:
    network = DilatedNet(2, features=(2, 2, 2, 2), dilated_steps=dilated_steps, norm=None)
    images = torch.randn(1, 1, 16, 24)
    assert network.total_stride() == (stride, stride)
    assert network.encoder(images)[-1].shape[2:] == (16 // stride, 24 // stride)
    last = convolutions(network.encoder)[-1]
    assert last.dilation == (8 // stride, 8 // stride)
    assert network(images).shape == (1, 2, 16, 24)


def test_scores_go_back_where_their_voxels_came_from() -> None:
    """What is linear in the place stays so: a pooled voxel stands at the middle of its block."""
    network = DilatedNet(2, 1, 1, features=(2, 2, 2, 2), context=None)
    ramp = torch.arange(16.0)[:, None] + 100 * torch.arange(24.0)
    pooled = functional.avg_pool2d(ramp[None, None], 2)
    torch.testing.assert_close(network.upsample(pooled)[0, 0, 1:-1, 1:-1], ramp[1:-1, 1:-1])


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)))
def test_any_size_is_taken_and_given_back(size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        network = DilatedNet(3, features=(2, 2, 2, 2), strides=(2, (2, 2, 1), 2), dilated_steps=1).eval()
        assert network(torch.empty(1, 1, *size)).shape == (1, 2, *size)


def test_anisotropic_kernels_and_strides_as_they_come_from_json() -> None:
    network = DilatedNet(
        3,
        features=[4, 6, 8, 8],
        kernel_sizes=[[3, 3, 1], [3, 3, 1], 3, 3],
        strides=[[2, 2, 1], [2, 2, 1], 2],
    )
    layers = [(conv.kernel_size, conv.dilation) for conv in convolutions(network.encoder)[::2]]
    assert layers == [
        ((3, 3, 1), (1, 1, 1)),
        ((3, 3, 1), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 1)),
        ((3, 3, 3), (4, 4, 2)),
    ]
    assert convolutions(network.context)[0].kernel_size == (3, 3, 1)
    sizes = [tuple(features.shape[2:]) for features in network.encoder(torch.zeros(2, 1, 8, 8, 5))]
    assert sizes == [(8, 8, 5), (4, 4, 5), (4, 4, 5), (4, 4, 5)]
    assert network(torch.zeros(2, 1, 9, 8, 5)).shape == (2, 2, 9, 8, 5)


@pytest.mark.parametrize("context", ["basic", "large", None])
@pytest.mark.parametrize("norm", ["batch", None])
def test_it_learns_end_to_end(norm: str | None, context: str | None) -> None:
    torch.manual_seed(0)
    network = DilatedNet(2, features=(8, 16, 16), norm=norm, context=context)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    images = torch.randn(4, 1, 16, 16)
    target = (functional.avg_pool2d(images, 3, stride=1, padding=1)[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.7 * first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 is not supported; choose 2 or 3"),
        ({"features": (8,)}, "names 1 levels"),
        ({"pointwise_features": (0,)}, "pointwise_features=0 is not a positive"),
        ({"counts": (1, 2)}, "counts has 2 entries for 3 levels"),
        ({"counts": 0}, "counts=0 is not a positive"),
        ({"norm": "bach"}, "norm='bach' is unknown; did you mean 'batch'"),
        ({"activation": "softplus"}, "activation='softplus' is unknown"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"kernel_sizes": (3, 3)}, "kernel_sizes has 2 entries for 3 levels"),
        ({"strides": (2, 2, 2)}, "strides has 3 entries for 3 levels; give 2"),
        ({"dilated_steps": -1}, "dilated_steps=-1 is no number of steps; give 0 or more"),
        ({"context": "small"}, "context='small' is unknown; choose one of basic, large"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DilatedNet(**{"features": (4, 6, 8), **options})


# The context module plugged onto other networks


def unet_and_with_context(**options: Any) -> tuple[nn.Module, nn.Module]:
    networks = []
    for context in (None, "basic"):
        torch.manual_seed(3)
        networks.append(build_network("unet", 2, 2, 3, features=(4, 6, 8), context=context, **options).eval())
    return networks[0], networks[1]


def test_a_plugged_context_starts_as_max_of_scores_and_zero() -> None:
    plain, plugged = unet_and_with_context()
    images = torch.randn(1, 2, 13, 16)
    assert isinstance(plain, UNet)
    assert isinstance(plugged, WithContext)
    assert torch.equal(plugged(images), plain(images).clamp(min=0.0))


def test_a_plugged_network_keeps_encoder_channels_checks_and_weights_names() -> None:
    plain, plugged = unet_and_with_context()
    assert plugged.encoder is plugged.network.encoder
    assert plugged.encoder.features == (4, 6, 8)
    assert (plugged.spatial_dims, plugged.in_channels, plugged.out_channels) == (2, 2, 3)
    for refuse in (plugged, plugged.check_input):
        with pytest.raises(ValueError, match="has 5 channels, the network takes 2"):
            refuse(torch.zeros(1, 5, 8, 8))
    names = {name for name in plugged.state_dict() if not name.startswith("context.")}
    assert names == {f"network.{name}" for name in plain.state_dict()}


def test_a_plugged_network_supervises_coarser_levels_as_they_are() -> None:
    plain, plugged = unet_and_with_context(deep_supervision=True)
    images = torch.randn(1, 2, 16, 16)
    expected = plain.forward_deep(images)
    found = plugged.forward_deep(images)
    assert len(found) == len(expected) == 2
    assert torch.equal(found[0], expected[0].clamp(min=0.0))
    assert torch.equal(found[1], expected[1])
    highres = build_network("highresnet", 2, 1, 3, base_features=2, context="basic").eval()
    (scores,) = highres.forward_deep(images[:, :1])
    assert torch.equal(scores, highres(images[:, :1]))


@pytest.mark.parametrize(
    ("name", "options", "kernel"),
    [
        ("unet", {"features": (2, 4)}, (3, 3, 3)),
        ("unet", {"features": (2, 4), "kernel_sizes": [[3, 3, 1], 3]}, (3, 3, 1)),
        ("highresnet", {"base_features": 2, "kernel_size": [3, 1, 3]}, (3, 1, 3)),
    ],
)
def test_a_plugged_context_has_the_finest_level_s_kernel(
    name: str, options: dict[str, Any], kernel: tuple[int, ...]
) -> None:
    network = build_network(name, 3, context="large", **options)
    assert convolutions(network.context)[0].kernel_size == kernel
    assert convolutions(network.context)[0].out_channels == 4


def test_dilated_has_its_own_context_and_an_unknown_one_is_refused_everywhere() -> None:
    assert isinstance(build_network("dilated", 2, features=(2, 4), context="large"), DilatedNet)
    for name in ("unet", "dilated"):
        with pytest.raises(ConfigError, match="context='larg' is unknown; did you mean 'large'") as error:
            build_network(name, 2, features=(2, 4), context="larg")
        assert error.value.where == f"network '{name}'"
