"""The U-Net: its papers' numbers, an independent forward pass, its sizes and its options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import BasicUNet
from torch import Tensor
from torch.nn import functional

from medseg.networks.unet import UNet

RONNEBERGER = (64, 128, 256, 512, 1024)


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_ronneberger_2015_has_31_030_658_parameters() -> None:
    with torch.device("meta"):
        network = UNet(2, 1, 2, features=RONNEBERGER, norm=None, padding="same")
    assert parameter_count(network) == 31_030_658


def test_ronneberger_2015_maps_572_to_388() -> None:
    with torch.device("meta"):
        network = UNet(2, 1, 2, features=RONNEBERGER, norm=None, padding="valid")
        scores = network(torch.empty(1, 1, 572, 572))
    assert scores.shape == (1, 2, 388, 388)
    assert network.output_size((572, 572)) == (388, 388)


def test_cicek_2016_maps_132_132_116_to_44_44_28() -> None:
    with torch.device("meta"):
        network = UNet(3, 3, 3, features=(64, 128, 256, 512), padding="valid")
        scores = network(torch.empty(1, 3, 132, 132, 116))
    assert scores.shape == (1, 3, 44, 44, 28)


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


def layers_as_they_run(network: torch.nn.Module, images: Tensor) -> list[torch.nn.Module]:
    layers: list[torch.nn.Module] = []
    kinds = (torch.nn.Conv3d, torch.nn.ConvTranspose3d, torch.nn.BatchNorm3d, torch.nn.InstanceNorm3d)
    hooks = [
        module.register_forward_pre_hook(lambda layer, _args: layers.append(layer))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return layers


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("training", [True, False])
def test_monai_s_basic_unet_with_the_same_weights_gives_the_same(norm: str, training: bool) -> None:
    torch.manual_seed(0)
    # MONAI does not halve the channels at its last step up: with two equal widths there is no difference.
    ours = UNet(3, 2, 3, features=(4, 4, 8, 16, 32), norm=norm)
    theirs = BasicUNet(
        3, 2, 3, features=(4, 4, 8, 16, 32, 4), act="relu", norm=(norm, {"affine": True}), upsample="deconv"
    )
    images = torch.randn(2, 2, 32, 32, 32)
    pairs = zip(layers_as_they_run(ours, images), layers_as_they_run(theirs, images), strict=True)
    for here, there in pairs:
        assert type(here) is type(there)
        if isinstance(here, torch.nn.Conv3d) and here.bias is None:
            torch.nn.init.zeros_(there.bias)
        there.load_state_dict(here.state_dict(), strict=False)
    ours.train(training)
    theirs.train(training)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-4)


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


def test_deep_supervision_adds_heads_and_changes_nothing_else() -> None:
    networks = []
    for deep in (True, False):
        torch.manual_seed(3)
        networks.append(UNet(3, features=(4, 6, 8, 10), deep_supervision=deep).eval())
    deep, plain = networks
    extra = {name for name in deep.state_dict() if name not in plain.state_dict()}
    assert extra == {f"deep_heads.{level}.{kind}" for level in (0, 1) for kind in ("weight", "bias")}
    shared = {name: value for name, value in deep.state_dict().items() if name not in extra}
    plain.load_state_dict(shared)
    images = torch.randn(1, 1, 9, 8, 8)
    assert torch.equal(deep(images), plain(images))
    maps = deep.forward_deep(images)
    assert [tuple(scores.shape) for scores in maps] == [(1, 2, 9, 8, 8), (1, 2, 5, 4, 4), (1, 2, 3, 2, 2)]
    assert torch.equal(maps[0], deep(images))
    assert len(plain.forward_deep(images)) == 1


def test_deep_supervision_by_seed_starts_as_without() -> None:
    states = []
    for deep in (True, False):
        torch.manual_seed(3)
        states.append(UNet(2, features=(4, 6, 8), deep_supervision=deep).state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_deep_heads_receive_gradients() -> None:
    torch.manual_seed(0)
    network = UNet(2, features=(4, 6, 8), deep_supervision=True)
    torch.stack(
        [scores.square().mean() for scores in network.forward_deep(torch.randn(2, 1, 16, 16))]
    ).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_forward_deep_checks_the_input_too() -> None:
    network = UNet(2, features=(4, 6), deep_supervision=True)
    with pytest.raises(ValueError, match="channels"):
        network.forward_deep(torch.zeros(1, 3, 8, 8))


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
    ],
)
def test_invalid_options_say_what_is_valid(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(**{"features": (4, 6, 8), **options})
