"""The U-Net: an independent forward pass, its sizes and its plain options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from medseg.networks.unet import UNet

RONNEBERGER = (64, 128, 256, 512, 1024)


def written_out(weights: dict[str, Tensor], images: Tensor, depth: int, padding: str) -> Tensor:
    """The 3D U-Net of the paper from torch's functions alone."""
    pad = 1 if padding == "same" else 0

    def two(x: Tensor, name: str) -> Tensor:
        for i in range(2):
            x = functional.conv3d(
                x, weights[f"{name}.{i}.conv.weight"], weights[f"{name}.{i}.conv.bias"], padding=pad
            )
            x = torch.relu(x)
        return x

    skips = []
    x = images
    for level in range(depth):
        x = two(x if level == 0 else functional.max_pool3d(x, 2), f"encoder.levels.{level}.convs")
        skips.append(x)
    for step in range(depth - 1):
        up = f"decoder.up.{step}.conv"
        x = torch.relu(
            functional.conv_transpose3d(x, weights[f"{up}.weight"], weights[f"{up}.bias"], stride=2)
        )
        skip = skips[depth - 2 - step]
        cut = [(a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True)]
        i, j, k = (slice(c, c + n) for c, n in zip(cut, x.shape[2:], strict=True))
        x = two(torch.cat([skip[:, :, i, j, k], x], 1), f"decoder.levels.{step}")
    return functional.conv3d(x, weights["head.weight"], weights["head.bias"])


@pytest.mark.parametrize(("padding", "size"), [("same", (8, 12, 16)), ("valid", (44, 48, 44))])
def test_forward_is_the_network_written_out(padding: str, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = UNet(3, 2, 3, features=(3, 4, 6), norm=None, padding=padding)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    images = torch.randn(1, 2, *size)
    expected = written_out(network.state_dict(), images, 3, padding)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)))
def test_same_padding_takes_any_size(size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        network = UNet(3, 1, 2, features=(2, 2, 2), strides=(2, (2, 2, 1))).eval()
        assert network(torch.empty(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize(("norm", "batch"), [("batch", 1), ("instance", 2)])
def test_a_size_that_leaves_nothing_to_standardise_is_refused(norm: str, batch: int) -> None:
    network = UNet(2, features=(4, 6, 8), norm=norm)
    with pytest.raises(
        ValueError, match=r"one voxel, which .* give more than \(4, 4\) voxels along one axis"
    ):
        network(torch.randn(batch, 1, 4, 3))
    assert network(torch.randn(batch, 1, 4, 5)).shape == (batch, 2, 4, 5)
    if norm == "batch":
        assert network.eval()(torch.randn(batch, 1, 4, 3)).shape == (batch, 2, 4, 3)


def test_an_odd_size_agrees_with_the_even_one_far_from_the_added_end() -> None:
    torch.manual_seed(0)
    network = UNet(2, 1, 2, features=(4, 4), norm=None)
    images = torch.randn(1, 1, 33, 33)
    padded = functional.pad(images, (0, 1, 0, 1))
    torch.testing.assert_close(network(images)[..., :16, :16], network(padded)[..., :16, :16])


VALID = {"features": (2, 2, 2), "kernel_sizes": (3, (3, 1), 3), "strides": (2, (2, 3)), "padding": "valid"}


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(st.integers(1, 80), st.integers(1, 80)))
def test_valid_padding_takes_what_it_says(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = UNet(2, **VALID)
        images = torch.empty(1, 1, *size)
        near = tuple(network.nearest_sizes(length, axis) for axis, length in enumerate(size))
        if all(length in fits for length, fits in zip(size, near, strict=True)):
            assert network(images).shape[2:] == network.output_size(size)
        else:
            with pytest.raises(ValueError, match="pad or crop it to") as error:
                network(images)
            axis = 0 if size[0] not in near[0] else 1
            assert f"axis {'XY'[axis]} has {size[axis]} voxels" in str(error.value)
            assert str(error.value).endswith(" or ".join(str(n) for n in near[axis]))
            fitting = tuple(fits[-1] for fits in near)
            assert network(torch.empty(1, 1, *fitting)).shape[2:] == network.output_size(fitting)


def test_nearest_sizes_skip_nothing() -> None:
    with torch.device("meta"):
        network = UNet(2, **VALID)
    taken = [n for n in range(1, 120) if n in network.nearest_sizes(n, 0)]
    # Unevenly poolable sizes would let torch drop voxels: check the rule itself by hand at each step.
    by_hand = [n for n in range(1, 120) if (n - 4) % 2 == 0 and ((n - 4) // 2 - 4) % 2 == 0 and n >= 40]
    by_hand = [n for n in by_hand if ((((n - 4) // 2 - 4) // 2 - 4) * 2 - 4) * 2 - 4 >= 1]
    assert taken == by_hand


def test_output_size_refuses_what_does_not_fit() -> None:
    with torch.device("meta"):
        network = UNet(2, features=RONNEBERGER, padding="valid")
        same = UNet(2, features=(2, 2))
    with pytest.raises(
        ValueError, match=r"axis Y has 573 voxels of size \(572, 573\), .*; pad or crop it to 572 or 588"
    ):
        network.output_size((572, 573))
    with pytest.raises(ValueError, match="does not have 2 axes"):
        network.output_size((572,))
    assert same.output_size((5, 6)) == (5, 6)
    assert network.total_stride() == (16, 16)


def test_anisotropic_kernels_and_strides() -> None:
    network = UNet(
        3, features=(4, 6, 8), kernel_sizes=((3, 3, 1), 3, 3), strides=((2, 2, 1), (2, 2, 2)), norm="instance"
    )
    assert network.encoder.levels[0].convs[0].conv.kernel_size == (3, 3, 1)
    assert network.decoder.levels[1][0].conv.kernel_size == (3, 3, 1)
    assert network.decoder.up[1].conv.stride == (2, 2, 1)
    assert network.total_stride() == (4, 4, 2)
    sizes = [tuple(features.shape[2:]) for features in network.encoder(torch.zeros(1, 1, 16, 16, 6))]
    assert sizes == [(16, 16, 6), (8, 8, 6), (4, 4, 3)]


def test_lists_as_they_come_from_yaml_are_taken() -> None:
    network = UNet(3, features=[4, 6], kernel_sizes=[[3, 3, 1], 3], strides=[[2, 2, 1]])
    assert network(torch.zeros(1, 1, 8, 8, 4)).shape == (1, 2, 8, 8, 4)


@pytest.mark.parametrize("upsample", ["transposed", "linear"])
@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
def test_every_norm_and_upsampling_learns(norm: str | None, upsample: str) -> None:
    torch.manual_seed(0)
    network = UNet(2, features=(8, 16), norm=norm, upsample=upsample)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images = torch.randn(4, 1, 16, 16)
    target = (functional.avg_pool2d(images, 3, stride=1, padding=1)[:, 0] > 0).long()
    first = functional.cross_entropy(network(images), target).item()
    for _ in range(25):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), target).backward()
        optimizer.step()
    assert functional.cross_entropy(network(images), target).item() < 0.6 * first


def test_dropout_stands_at_the_end_of_the_contracting_path_and_only_in_training() -> None:
    torch.manual_seed(0)
    network = UNet(2, features=(4, 6, 8, 10), dropout=0.5, norm=None)
    where = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert where == ["encoder.levels.2.dropout", "encoder.levels.3.dropout"]
    images = torch.randn(1, 1, 16, 16)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 2)])
def test_activations_keep_their_deviation_without_norm(strides: tuple[int, ...]) -> None:
    """Without pooling at every layer; with it, which takes the larger values, from first to last."""
    deviations = torch.zeros(14)
    for seed in range(3):
        torch.manual_seed(seed)
        network = UNet(2, features=(32, 32, 64, 64), norm=None, strides=strides)
        seen: list[float] = []
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d) and module is not network.head:
                module.register_forward_hook(
                    lambda _m, _args, output, to=seen: to.append(output.std().item())
                )
        images = functional.avg_pool2d(torch.randn(1, 1, 80, 80), 5, stride=1)
        with torch.no_grad():
            network((images - images.mean()) / images.std())
        deviations += torch.tensor(seen) / 3
    ratios = deviations / deviations[0]
    checked = ratios if strides == (1, 1, 1) else ratios[-1:]
    assert checked.min() > 0.5
    assert checked.max() < 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 is not supported; choose 2 or 3"),
        ({"in_channels": 0}, "in_channels=0 is not a positive whole number"),
        ({"out_channels": -1}, "out_channels=-1 is not a positive whole number"),
        ({"features": (8,)}, "names 1 levels"),
        ({"features": (8, 0)}, "features=0"),
        ({"norm": "bach"}, "norm='bach' is unknown; did you mean 'batch'"),
        ({"activation": "softplus"}, "activation='softplus' is unknown"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"dropout": -0.1}, "dropout=-0.1 is no probability"),
        ({"padding": "reflect"}, "padding='reflect' is unknown; choose one of same, valid"),
        ({"upsample": "nearest"}, "upsample='nearest' is unknown"),
        ({"kernel_sizes": (3, 3)}, "kernel_sizes has 2 entries for 3 levels"),
        ({"kernel_sizes": (3, 3, 2)}, "has even sizes"),
        ({"kernel_sizes": (3, 3, (3, 3))}, r"kernel_sizes has 2 numbers \(3, 3\) for 3 axes"),
        ({"strides": (2, 2, 2)}, "strides has 3 entries for 3 levels; give 2"),
        ({"strides": (2, 0)}, "strides=0"),
        ({"units": "resdual"}, "units='resdual' is unknown; did you mean 'residual'"),
        ({"downsample": "avg"}, "downsample='avg' is unknown; choose one of conv, max"),
        ({"widening": "before"}, "widening='before' is unknown"),
        (
            {"downsample": "conv", "padding": "valid"},
            "does not go with downsample='conv' and units='plain'; choose padding='same'",
        ),
        ({"units": "residual", "padding": "valid"}, "does not go with downsample='max' and units='residual'"),
        (
            {"downsample": "conv", "kernel_sizes": (3, 3, 1)},
            r"kernel \(1, 1, 1\) at stride \(2, 2, 2\) leaves voxels out; give kernels as large",
        ),
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(**{"features": (4, 6, 8), **options})
