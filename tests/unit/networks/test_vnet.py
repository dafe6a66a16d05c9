"""V-Net: its paper's numbers, an independent forward pass, its sizes and its options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.vnet import CONFIGURATIONS, VNet, VNetStage


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "count"), [("vnet_2016", 65_175_314), ("vnet_monai", 45_597_658)])
def test_the_configurations_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        network = VNet(**CONFIGURATIONS[name])
        scores = network(torch.empty(1, 1, 128, 128, 64))
    assert scores.shape == (1, 2, 128, 128, 64)
    assert parameter_count(network) == count


def test_the_paper_s_widths_and_numbers_of_convolutions() -> None:
    with torch.device("meta"):
        network = VNet(**CONFIGURATIONS["vnet_2016"])
        maps = network.encoder(torch.empty(1, 1, 128, 128, 64))
    assert [tuple(features.shape[1:]) for features in maps] == [
        (16, 128, 128, 64),
        (32, 64, 64, 32),
        (64, 32, 32, 16),
        (128, 16, 16, 8),
        (256, 8, 8, 4),
    ]
    assert network.encoder.features == (16, 32, 64, 128, 256)
    stages = [module for module in network.modules() if isinstance(module, VNetStage)]
    assert [len(stage.convs) for stage in stages] == [1, 2, 3, 3, 3, 3, 3, 2, 1]
    assert [stage.convs[-1].conv.out_channels for stage in stages] == [16, 32, 64, 128, 256, 256, 128, 64, 32]
    slopes = [module for module in network.modules() if isinstance(module, nn.PReLU)]
    assert len(slopes) == 12 + 9 + 4 + 4  # convolutions before a stage's last, stages, ways down and up
    assert {slope.num_parameters for slope in slopes} == {16, 32, 64, 128, 256}


def test_receptive_fields_on_the_way_down_are_the_paper_s() -> None:
    """Its table: 5, 22, 72, 172, 372 voxels. Along one axis, by what a deep voxel's gradient reaches."""
    paper = CONFIGURATIONS["vnet_2016"]
    network = VNet(
        2,
        features=(1,) * 5,
        counts=paper["counts"],
        norm=None,
        kernel_sizes=[(kernel, 1) for kernel in paper["kernel_sizes"]],
        strides=[(2, 1)] * 4,
    )
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)  # nothing cancels out
    line = torch.ones(1, 1, 800, 1, requires_grad=True)
    fields = []
    for features in network.encoder(line):
        middle = features[0, 0, features.shape[2] // 2, 0]
        (gradient,) = torch.autograd.grad(middle, line, retain_graph=True)
        fields.append(int(gradient.count_nonzero()))
    assert fields == [5, 22, 72, 172, 372]


def written_out(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Three levels without norm from torch's functions alone; maps of even sizes."""

    def convolve(x: Tensor, name: str, **geometry: int) -> Tensor:
        return functional.conv3d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **geometry)

    def slope(x: Tensor, name: str) -> Tensor:
        return functional.prelu(x, weights[f"{name}.weight"])

    def stage(x: Tensor, name: str, count: int, added: Tensor | None = None) -> Tensor:
        total = x if added is None else added
        for index in range(count):
            x = convolve(x, f"{name}.convs.{index}.conv", padding=1)
            if index < count - 1:
                x = slope(x, f"{name}.convs.{index}.act")
        return slope(x + total, f"{name}.act")

    x = stage(images, "encoder.levels.0.sum", 1, added=images.repeat(1, 2, 1, 1, 1))
    skips = [x]
    for level, count in ((1, 2), (2, 3)):
        down = f"encoder.levels.{level}.down"
        x = slope(convolve(x, f"{down}.conv", stride=2), f"{down}.act")
        x = stage(x, f"encoder.levels.{level}.sum", count)
        skips.append(x)
    for step, count in ((0, 2), (1, 1)):
        up = f"decoder.ups.{step}"
        weight, bias = weights[f"{up}.conv.weight"], weights[f"{up}.conv.bias"]
        x = slope(functional.conv_transpose3d(x, weight, bias, stride=2), f"{up}.act")
        x = stage(torch.cat([skips[1 - step], x], 1), f"decoder.levels.{step}", count)
    return convolve(x, "head.0")


def test_forward_is_the_network_written_out() -> None:
    torch.manual_seed(0)
    network = VNet(3, 2, 3, features=(4, 6, 8), norm=None)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.25 if name.endswith("weight") else 0.0)
    images = torch.randn(2, 2, 8, 12, 4)
    expected = written_out(network.state_dict(), images)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@given(
    size=st.tuples(*[st.integers(1, 40)] * 3),
    strides=st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=3),
)
@settings(max_examples=12, deadline=None)
def test_any_size_and_stride_is_taken_and_given_back(
    size: tuple[int, ...], strides: list[tuple[int, ...]]
) -> None:
    network = VNet(3, 1, 2, features=[1] * (len(strides) + 1), strides=strides).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_what_hangs_over_the_end_is_seen_with_zeros_behind_it() -> None:
    torch.manual_seed(0)
    network = VNet(2, features=(2, 3), strides=[(3, 1)], norm=None)
    level = network.encoder.levels[1]
    features = torch.randn(1, 2, 7, 4)
    filled = functional.pad(features, (0, 0, 0, 2))
    expected = functional.conv2d(filled, level.down.conv.weight, level.down.conv.bias, stride=(3, 1))
    torch.testing.assert_close(level.down(level.pad(features)), level.down.act(expected))
    assert expected.shape == (1, 3, 3, 4)


def test_an_axis_that_no_kernel_crosses_is_many_images() -> None:
    torch.manual_seed(0)
    network = VNet(features=(4, 6), kernel_sizes=[(3, 3, 1)] * 2, strides=[(2, 2, 1)]).eval()
    images = torch.randn(1, 1, 6, 8, 5)
    alone = [network(images[..., index : index + 1]) for index in range(5)]
    torch.testing.assert_close(network(images), torch.cat(alone, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("in_channels", "width"), [(1, 4), (2, 4), (4, 4), (3, 4), (5, 4)])
def test_the_image_is_repeated_or_taken_to_the_first_stage_s_channels(in_channels: int, width: int) -> None:
    torch.manual_seed(0)
    network = VNet(2, in_channels, features=(width, 6), norm=None, activation="relu")
    (stage,) = network.encoder.levels[0]
    nn.init.zeros_(stage.convs[0].conv.weight)
    images = torch.rand(1, in_channels, 5, 4)
    (finest, _) = network.encoder(images)
    if width % in_channels == 0:
        assert torch.equal(finest, images.repeat(1, width // in_channels, 1, 1))
    else:
        torch.testing.assert_close(
            finest, functional.conv2d(images, stage.skip.weight, stage.skip.bias).relu()
        )


@pytest.mark.parametrize("variant", ["paper", "port"])
def test_numbers_of_convolutions(variant: str) -> None:
    network = VNet(2, features=(2, 2, 2), counts=(2, 1, 4), up_counts=(3, 1), norm=None, variant=variant)
    down = [len(level.sum.convs) for level in network.encoder.levels]
    up = [len(level.convs) for level in network.decoder.levels]
    assert (down, up) == ([2, 1, 4], [1, 3])
    assert VNet(features=(2,) * 5).counts == (1, 2, 3, 3, 3)
    assert VNet(features=(2,) * 5).up_counts == (1, 2, 3, 3)


@pytest.mark.parametrize("variant", ["paper", "port"])
@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
def test_a_tiny_network_learns(norm: str | None, variant: str) -> None:
    torch.manual_seed(0)
    network = VNet(2, features=(8, 16), norm=norm, variant=variant)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images = torch.randn(4, 1, 16, 16)
    target = (functional.avg_pool2d(images, 3, stride=1, padding=1)[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(25):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.6 * first


def test_dropout_stands_at_the_end_of_the_way_down_and_only_in_training() -> None:
    torch.manual_seed(0)
    network = VNet(2, features=(4, 6, 8, 10), dropout=0.5, norm=None)
    where = [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    assert where == ["encoder.levels.2.dropout", "encoder.levels.3.dropout"]
    images = torch.randn(1, 1, 16, 16)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("variant", ["paper", "port"])
def test_sums_keep_their_deviation_without_norm(variant: str) -> None:
    """VNetStage by stage, of the network's full depth."""
    deviations = torch.zeros(9)
    for seed in range(3):
        torch.manual_seed(seed)
        network = VNet(2, features=(16, 32, 64, 64, 64), norm=None, variant=variant)
        seen: list[float] = []
        for module in network.modules():
            if isinstance(module, VNetStage):
                module.register_forward_hook(
                    lambda _m, _args, output, to=seen: to.append(output.std().item())
                )
        images = functional.avg_pool2d(torch.randn(1, 1, 68, 68), 5, stride=1)
        with torch.no_grad():
            network((images - images.mean()) / images.std())
        deviations += torch.tensor(seen) / 3
    ratios = deviations / deviations[0]
    assert ratios.min() > 0.5
    assert ratios.max() < 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 is not supported; choose 2 or 3"),
        ({"in_channels": 0}, "in_channels=0 is not a positive whole number"),
        ({"features": (8,)}, "names 1 levels"),
        ({"features": (8, 0)}, "features=0"),
        ({"counts": (1, 2)}, "counts has 2 entries, 3 are needed; give one for each level"),
        ({"counts": (1, 2, 0)}, "counts=0 is not a positive whole number"),
        ({"up_counts": (1, 2, 3)}, "up_counts has 3 entries, 2 are needed"),
        ({"norm": "bach"}, "norm='bach' is unknown; did you mean 'batch'"),
        ({"activation": "softplus"}, "activation='softplus' is unknown"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"variant": "prot"}, "variant='prot' is unknown; did you mean 'port'"),
        ({"kernel_sizes": (3, 3)}, "kernel_sizes has 2 entries for 3 levels"),
        ({"kernel_sizes": (3, 3, 2)}, "has even sizes"),
        ({"strides": (2, 2, 2)}, "strides has 3 entries for 3 levels; give 2"),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VNet(**{"features": (4, 6, 8), **options})
