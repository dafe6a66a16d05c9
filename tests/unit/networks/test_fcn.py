"""FCN: its paper's numbers, an independent forward pass, the geometry of its upsampling, its options."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.fcn import CONFIGURATIONS, FCN, linear_transposed_convolution


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "count"), [("fcn32s", 134_346_581), ("fcn16s", 134_364_410), ("fcn8s", 134_376_863)]
)
def test_the_paper_s_networks_have_134_million_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        network = FCN(**CONFIGURATIONS[name]).eval()
        scores = network(torch.empty(1, 3, 500, 375))
    assert parameter_count(network) == count
    assert scores.shape == (1, 21, 500, 375)
    assert network.total_stride() == (32, 32)
    strides = {"fcn32s": [32.0], "fcn16s": [2, 16.0], "fcn8s": [2, 2, 8.0]}[name]
    assert [up.stride[0] for up in network.up] + [network.last_up.scale_factor[0]] == strides


def test_the_paper_s_body_is_vgg_16() -> None:
    """VGG-16 has 138,357,544 parameters; its last layer of 1000 classes is not carried over."""
    with torch.device("meta"):
        network = FCN(**CONFIGURATIONS["fcn32s"])
    assert parameter_count(network.encoder) == 138_357_544 - (4096 + 1) * 1000
    convolutions = [layer for layer in network.encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 15
    assert [layer.kernel_size[0] for layer in convolutions] == [3] * 13 + [7, 1]
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network.encoder.modules()) == 5


def test_the_score_layers_see_pool4_and_pool3() -> None:
    with torch.device("meta"):
        network = FCN(**CONFIGURATIONS["fcn8s"]).eval()
        maps = network.encoder.pooled(torch.empty(1, 3, 64, 96))
    assert [(m.shape[1], *m.shape[2:]) for m in maps[2:]] == [(256, 8, 12), (512, 4, 6), (4096, 2, 3)]
    assert [layer.in_channels for layer in (network.score, *network.skip_scores)] == [4096, 512, 256]


def written_out(weights: dict[str, Tensor], images: Tensor, last: str) -> Tensor:
    """FCN-8s on five levels, from torch's functions alone."""

    def convolve(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def upsampled(x: Tensor, name: str, stride: int, like: Tensor) -> Tensor:
        # All that the transposed convolution gives; then the crop that aligns it.
        whole = functional.conv_transpose2d(x, weights[f"{name}.weight"], stride=stride)
        begin = (weights[f"{name}.weight"].shape[2] - stride) // 2
        return whole[..., begin : begin + like.shape[2], begin : begin + like.shape[3]]

    x, pooled = images, []
    for level, count in enumerate((2, 2, 3, 3)):
        for index in range(count):
            x = torch.relu(convolve(x, f"encoder.levels.{level}.{index}.conv"))
        x = functional.max_pool2d(x, 2, ceil_mode=True)
        pooled.append(x)
    x = torch.relu(convolve(x, "encoder.levels.4.fc6.conv", padding=2))
    x = torch.relu(convolve(x, "encoder.levels.4.fc7.conv", padding=0))
    x = convolve(x, "score", padding=0)
    for index, grid in enumerate((2, 1)):
        skip = convolve(pooled[grid], f"skip_scores.{index}", padding=0)
        x = upsampled(x, f"up.{index}", 2, skip) + skip
    if last == "linear":
        x = functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
        return x[..., : images.shape[2], : images.shape[3]]
    return upsampled(x, "last_up", 4, images)


@pytest.mark.parametrize("last", ["transposed", "linear"])
@pytest.mark.parametrize("size", [(32, 48), (37, 21)])
def test_forward_is_the_network_written_out(last: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = FCN(
        2, 2, 3, (3, 4, 5, 6, 7), skips=2, norm=None, kernel_sizes=(3, 3, 3, 3, 5), last_upsample=last
    )
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or "up" in name:
            nn.init.normal_(parameter)
    images = torch.randn(1, 2, *size)
    expected = written_out(network.state_dict(), images, last)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_bilinear_weights_by_hand() -> None:
    two = linear_transposed_convolution(2, (2, 2)).weight
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(two[0, 0], line[:, None] * line)
    assert torch.equal(two[1, 1], two[0, 0])
    assert two[0, 1].abs().sum() == two[1, 0].abs().sum() == 0
    three = linear_transposed_convolution(1, (3, 1)).weight[0, 0, :, 0]
    torch.testing.assert_close(three, torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]) / 3)


strides = st.lists(st.integers(1, 5), min_size=2, max_size=3)


@settings(max_examples=30, deadline=None)
@given(stride=strides)
def test_upsampling_keeps_a_linear_ramp_and_its_place(stride: list[int]) -> None:
    """Block means of the voxels' coordinates, upsampled, are the voxels' coordinates again."""
    size = [4 * step for step in stride]
    coordinates = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))[None]
    mean = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(stride)]
    coarse = mean(coordinates, tuple(stride))
    scores = linear_transposed_convolution(len(stride), stride)(coarse)
    assert scores.shape == coordinates.shape
    # Linear between the centres of the first and the last block along each axis.
    inside = (..., *(slice(math.ceil((s - 1) / 2), 4 * s - math.ceil((s - 1) / 2)) for s in stride))
    torch.testing.assert_close(scores[inside], coordinates[inside], rtol=1e-5, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(stride=strides)
def test_upsampling_starts_as_interpolation_in_the_interior(stride: list[int]) -> None:
    images = torch.randn(2, 3, *(4,) * len(stride))
    mode = {2: "bilinear", 3: "trilinear"}[len(stride)]
    expected = functional.interpolate(images, scale_factor=tuple(map(float, stride)), mode=mode)
    inside = (..., *(slice(step, 3 * step) for step in stride))
    scores = linear_transposed_convolution(3, stride)(images)
    torch.testing.assert_close(scores[inside], expected[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("upsample", "last_upsample"), [("transposed", "transposed"), ("linear", "linear")])
def test_the_network_puts_scores_where_their_voxels_are(upsample: str, last_upsample: str) -> None:
    """With a body that pools the mean of a ramp, each score layer alone gives the ramp back."""
    strides = ((2, 3), (1, 2), (3, 2), (2, 1))
    network = FCN(
        2, 1, 1, (1,) * 5, norm=None, strides=strides, upsample=upsample, last_upsample=last_upsample
    )
    for parameter in network.encoder.parameters():
        nn.init.zeros_(parameter)
    for layer in network.encoder.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[0, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1.0
    network.encoder.pools = nn.ModuleList(
        [nn.Identity(), *(nn.AvgPool2d(step, step, ceil_mode=True) for step in strides)]
    )
    ramp = (torch.arange(72.0)[:, None] + 2 * torch.arange(60.0))[None, None]
    score_layers = (network.score, *network.skip_scores)
    assert len(score_layers) == 4
    for chosen in score_layers:
        for layer in score_layers:
            nn.init.constant_(layer.weight, float(layer is chosen))
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            scores = network(ramp)
        torch.testing.assert_close(scores[..., 24:-24, 24:-24], ramp[..., 24:-24, 24:-24])


def test_by_default_every_pooled_map_is_scored() -> None:
    network = FCN(features=(4, 6, 8, 10), strides=(2, (2, 2, 1), 2))
    assert network.skips == 2
    assert [layer.in_channels for layer in network.skip_scores] == [6, 4]
    assert [up.stride for up in network.up] == [(2, 2, 2), (2, 2, 1)]
    assert network.up[1].kernel_size == (4, 4, 1)
    assert network.last_up.stride == (2, 2, 2)
    assert parameter_count(FCN()) == 1_893_336
    assert FCN(features=[2, 4]).skips == 0


def test_score_layers_sum_to_the_deviation_of_one() -> None:
    torch.manual_seed(0)
    network = FCN(2, out_channels=64, features=(256,) * 4)
    for layer in (network.score, *network.skip_scores):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 256 / 3), rel=0.05)
        assert layer.bias.abs().sum() == 0


def test_anisotropic_kernels_and_strides_as_they_come_from_json() -> None:
    network = FCN(
        features=[4, 6, 8],
        kernel_sizes=[[3, 3, 1], [3, 3, 1], 3],
        strides=[[2, 2, 1], [1, 1, 1]],
        counts=[1, 2],
    )
    assert network.total_stride() == (2, 2, 1)
    assert sum(isinstance(layer, nn.MaxPool3d) for layer in network.modules()) == 1
    maps = network.encoder(torch.zeros(2, 1, 9, 8, 3))
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 9, 8, 3), (6, 5, 4, 3), (8, 5, 4, 3)]
    assert network.encoder.features == (4, 6, 8)
    assert network(torch.zeros(2, 1, 9, 8, 3)).shape == (2, 2, 9, 8, 3)


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)), skips=st.integers(0, 2))
def test_any_size_is_taken_and_given_back(size: tuple[int, int, int], skips: int) -> None:
    with torch.device("meta"):
        network = FCN(3, 1, 2, (2, 2, 2, 2), skips=skips, strides=(2, (2, 3, 1), 2)).eval()
        assert network(torch.empty(1, 1, *size)).shape == (1, 2, *size)


def test_dropout_stands_behind_fc6_and_fc7_and_only_in_training() -> None:
    torch.manual_seed(0)
    network = FCN(2, features=(4, 6, 8), dropout=0.5, norm=None)
    where = [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    assert where == ["encoder.levels.2.fc6_dropout", "encoder.levels.2.fc7_dropout"]
    images = torch.randn(1, 1, 16, 16)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
@pytest.mark.parametrize(("skips", "upsample"), [(0, "transposed"), (1, "linear")])
def test_every_norm_and_upsampling_learns(norm: str | None, skips: int, upsample: str) -> None:
    torch.manual_seed(0)
    network = FCN(2, features=(8, 16, 16), norm=norm, skips=skips, upsample=upsample, last_upsample=upsample)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images = functional.interpolate(torch.randn(4, 1, 4, 4), scale_factor=6.0, mode="bilinear")
    target = (images[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.6 * first


@pytest.mark.parametrize("skips", [0, 1, 2])
def test_every_number_of_skips_is_scripted(skips: int) -> None:
    torch.manual_seed(0)
    network = FCN(2, features=(2, 3, 4, 5), skips=skips, last_upsample="linear").eval()
    images = torch.randn(1, 1, 19, 24)
    torch.testing.assert_close(torch.jit.script(network)(images), network(images))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 is not supported; choose 2 or 3"),
        ({"features": (8,)}, "names 1 levels"),
        ({"features": (8, 0)}, "features=0"),
        ({"norm": "bach"}, "norm='bach' is unknown; did you mean 'batch'"),
        ({"activation": "softplus"}, "activation='softplus' is unknown"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"skips": 2}, "skips=2 does not fit 3 levels; give 0 to 1"),
        ({"skips": -1}, "skips=-1 does not fit"),
        ({"skips": True}, "skips=True does not fit"),
        ({"skips": 1.0}, "skips=1.0 does not fit"),
        ({"counts": (2, 2, 2)}, "counts has 3 entries for 3 levels; give 2, one for each but the coarsest"),
        ({"counts": (2, 0)}, "counts=0"),
        ({"upsample": "nearest"}, "upsample='nearest' is unknown"),
        ({"last_upsample": "lineal", "skips": 0}, "last_upsample='lineal' is unknown; did you mean 'linear'"),
        ({"kernel_sizes": (3, 3)}, "kernel_sizes has 2 entries for 3 levels"),
        ({"kernel_sizes": (3, 3, 2)}, "has even sizes"),
        ({"strides": (2, 2, 2)}, "strides has 3 entries for 3 levels; give 2"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FCN(**{"features": (4, 6, 8), **options})
