"""What every registered network keeps to, in 2D and 3D."""

from __future__ import annotations

import copy
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError
from medseg.networks import build_network, network_names
from medseg.networks.blocks import ContextModule
from medseg.training.memory import checkpoint_activations

SMALL: dict[str, dict[str, Any]] = {
    "deconvnet": {"features": (4, 6, 8)},
    "deeplab": {"features": (8, 12, 16), "rates": (1, 2), "aspp_features": 8},
    "fc_densenet": {"base_features": 16, "growth_rate": 8, "layers": 2, "strides": (2, 2)},
    "fcn": {"features": (4, 6, 8)},
    "refinenet": {"features": (8, 12, 16)},
    "segnet": {"features": (4, 6, 8)},
    "unet": {"features": (4, 6, 8)},
    "vnet": {"features": (4, 6, 8)},
}
"""Options that make each network tiny; a network without an entry is tested at its defaults."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deeplab-3": ("deeplab", {"version": 3, "backbone": "residual"}),
    "deeplab-3-image": ("deeplab", {"version": 3, "image_feature": True}),
    "deeplab-vgg": ("deeplab", {"backbone": "vgg", "aspp_features": None, "output_stride": 2}),
    "dilated-large": ("dilated", {"context": "large"}),
    "refinenet-resnet": ("refinenet", {"cascades": 1, "stem": "resnet"}),
    "segnet-basic": ("segnet", {"decoder": "basic", "counts": 1}),
    "unet-context": ("unet", {"context": "basic"}),
    "unet-gated": (
        "unet",
        {"attention": True, "deep_supervision": True, "upsample": "linear", "widening": "before_pooling"},
    ),
    "fcn-32s-linear": ("fcn", {"skips": 0, "upsample": "linear", "last_upsample": "linear"}),
    "unet-residual": ("unet", {"units": "residual", "attention": True}),
    "unet-strided": ("unet", {"units": "residual_encoder", "downsample": "conv"}),
    "vnet-port": ("vnet", {"variant": "port", "activation": "elu"}),
}
"""Switches of networks that the whole suite runs with as well: a name for it, the network, its options."""

IN_CHANNELS = 2
CLASSES = 3
EVEN, ODD, OTHER = (8, 12, 8), (9, 13, 7), (12, 8, 16)
# Where a map has two voxels along the first axis, oneDNN's gradients of 3D weights in bfloat16 are those of
# memory that nothing was written to.
ROOMY = (32, 8, 8)

CASES = list(itertools.product((*network_names(), *VARIANTS), (2, 3)))
every_network = pytest.mark.parametrize(
    ("name", "dims"), CASES, ids=[f"{name}-{dims}d" for name, dims in CASES]
)


def registered(name: str) -> str:
    """The registered name of a network or of a variant of it."""
    return VARIANTS[name][0] if name in VARIANTS else name


def build(name: str, dims: int, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    base, switches = VARIANTS.get(name, (name, {}))
    return build_network(base, dims, IN_CHANNELS, CLASSES, **{**SMALL.get(base, {}), **switches, **options})


def images(dims: int, size: tuple[int, ...] = EVEN, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, IN_CHANNELS, *size[:dims], generator=generator)


def loss_of(scores: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(0, CLASSES, (scores.shape[0], *scores.shape[2:]), generator=generator)
    return functional.cross_entropy(scores.float(), target)


def training_loss(network: nn.Module, batch: Tensor) -> Tensor:
    """Of all scores that training sees: networks with heads on coarser levels give theirs as well."""
    scores_of = getattr(network, "forward_deep", None)
    levels = [network(batch)] if scores_of is None else scores_of(batch)
    return torch.stack([loss_of(scores) for scores in levels]).sum()


def is_convolution(layer: nn.Module) -> bool:
    """Whether it is one; of stride 1 a transposed one is as well."""
    transposed = isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d)
    return isinstance(layer, nn.Conv2d | nn.Conv3d) or (transposed and set(layer.stride) == {1})


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every_network
@pytest.mark.parametrize("size", [EVEN, ODD])
def test_output_has_the_input_s_size(name: str, dims: int, size: tuple[int, ...]) -> None:
    for batch in (1, 2):
        scores = build(name, dims)(images(dims, size, batch))
        assert scores.shape == (batch, CLASSES, *size[:dims])
        assert scores.dtype == torch.float32
        assert torch.isfinite(scores).all()


@every_network
def test_every_parameter_has_a_gradient_before_and_after_a_step(name: str, dims: int) -> None:
    network = build(name, dims)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        training_loss(network, images(dims)).backward()
        without = [
            key
            for key, value in network.named_parameters()
            if value.grad is None or not value.grad.abs().sum() > 0
        ]
        assert not without
        optimizer.step()


@every_network
def test_checkpointed_activations_change_no_score_gradient_or_statistic(name: str, dims: int) -> None:
    plain = build(name, dims).double()
    sparing = copy.deepcopy(plain)
    assert checkpoint_activations(sparing)
    for network in (plain, sparing):
        torch.manual_seed(3)
        training_loss(network, images(dims).double()).backward()
    for (key, parameter), same in zip(plain.named_parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, same.grad, msg=key)
    assert plain.state_dict().keys() == sparing.state_dict().keys()
    for (key, buffer), same in zip(plain.named_buffers(), sparing.buffers(), strict=True):
        assert torch.equal(buffer, same), key


@every_network
def test_equal_by_seed(name: str, dims: int) -> None:
    first, again, other = (build(name, dims, seed).state_dict() for seed in (0, 0, 1))
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@every_network
@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms_run_and_repeat(name: str, dims: int) -> None:
    gradients = []
    for _ in range(2):
        network = build(name, dims)
        training_loss(network, images(dims)).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@every_network
def test_weights_are_saved_and_loaded_without_pickled_code(name: str, dims: int, tmp_path: Path) -> None:
    network = build(name, dims)
    network(images(dims))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = build(name, dims, seed=1)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(network.eval()(images(dims)), other.eval()(images(dims)))


@every_network
@pytest.mark.parametrize("capture", ["script", "trace", "fx"])
def test_a_captured_network_equals_the_eager_one_at_other_shapes(name: str, dims: int, capture: str) -> None:
    network = build(name, dims).eval()
    if capture == "script":
        captured = torch.jit.script(network)
    elif capture == "trace":
        captured = torch.jit.trace(network, images(dims), check_trace=False)
    else:
        captured = torch.fx.symbolic_trace(network)
    for size in (OTHER, ODD):
        torch.testing.assert_close(captured(images(dims, size, 1)), network(images(dims, size, 1)))


@every_network
@pytest.mark.parametrize("size", [OTHER, ODD])
def test_an_exported_network_equals_the_eager_one(name: str, dims: int, size: tuple[int, ...]) -> None:
    network = build(name, dims).eval()
    exported = torch.export.export(network, (images(dims, size, 1),)).module()
    torch.testing.assert_close(exported(images(dims, size, 1)), network(images(dims, size, 1)))


@every_network
def test_export_needs_neither_weights_nor_voxels(name: str, dims: int) -> None:
    size = (512, 480, 320)[:dims]
    with torch.device("meta"):
        network = build(name, dims).eval()
        program = torch.export.export(network, (torch.empty(1, IN_CHANNELS, *size),))
    (output,) = next(iter(reversed(program.graph.nodes))).args[0]
    assert tuple(output.meta["val"].shape) == (1, CLASSES, *size)


@every_network
def test_bfloat16_and_channels_last_run(name: str, dims: int) -> None:
    network = build(name, dims)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    expected = network(images(dims, ROOMY))
    network.to(memory_format=layout)
    batch = images(dims, ROOMY).contiguous(memory_format=layout)
    torch.testing.assert_close(network(batch), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(batch)
        training_loss(network, batch).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    # The median: where rounding makes another voxel the maximum, unpooling puts its value elsewhere.
    assert (scores.float() - expected).abs().median() < 0.1 * expected.abs().mean()
    half = copy.deepcopy(network).to(torch.bfloat16)(batch.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half).all()


@every_network
def test_what_a_network_cannot_take_is_refused_with_what_it_can(name: str, dims: int) -> None:
    network = build(name, dims)
    with pytest.raises(ValueError, match=rf"has {IN_CHANNELS + 1} channels, the network takes {IN_CHANNELS}"):
        network(torch.zeros(1, IN_CHANNELS + 1, *EVEN[:dims]))
    with pytest.raises(ValueError, match="the network takes \\(B, C, X, Y"):
        network(torch.zeros(1, IN_CHANNELS, *EVEN[: dims - 1]))


@pytest.mark.parametrize(
    ("name", "dims"), [case for case in CASES if case[0] in ("unet", "unet-context", "unet-gated")]
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest_that_do(name: str, dims: int) -> None:
    network = build(name, dims, padding="valid")
    with torch.device("meta"), pytest.raises(ValueError, match=r"axis X has 51 voxels") as error:
        network.to("meta")(torch.zeros(1, IN_CHANNELS, *(51,) * dims))
    offered = [int(number) for number in re.findall(r"\d+", str(error.value).split("crop it to")[1])]
    assert offered
    for size in offered:
        with torch.device("meta"):
            assert network(torch.zeros(1, IN_CHANNELS, *(size,) * dims)).shape[1] == CLASSES


@every_network
def test_who_has_no_valid_padding_says_so(name: str, dims: int) -> None:
    if registered(name) == "unet" and name not in ("unet-residual", "unet-strided"):
        return
    with pytest.raises(ConfigError, match="padding"):
        build(name, dims, padding="valid")


@every_network
def test_activations_keep_their_deviation_without_norm(name: str, dims: int) -> None:
    ratios = []
    for seed in range(3):
        wide = {"features": (16, 24, 32)} if "features" in SMALL.get(registered(name), {}) else {}
        network = build(name, dims, seed, norm=None, **wide)
        seen: list[float] = []
        # What ends a residual branch is small on purpose: the sum keeps the scale.
        ends = [end for m in network.modules() if hasattr(m, "branch_ends") for end in m.branch_ends()]
        # A context module draws nothing, it hands on what it was given.
        ends += [layer for m in network.modules() if isinstance(m, ContextModule) for layer in m.modules()]
        for module in network.modules():
            if is_convolution(module) and module not in ends:
                module.register_forward_hook(
                    lambda _m, _args, output, to=seen: to.append(output.std().item())
                )
        smooth = functional.avg_pool3d if dims == 3 else functional.avg_pool2d
        batch = smooth(torch.randn(1, IN_CHANNELS, *(28,) * dims), 5, stride=1)
        with torch.no_grad():
            network((batch - batch.mean()) / batch.std())
        # The very last convolution is the head, a draw of too few channels to measure.
        ratios.append(seen[-2] / seen[0])
    assert 0.5 < sum(ratios) / len(ratios) < 2.0


@every_network
def test_options_are_refused_in_medseg_s_own_words(name: str, dims: int) -> None:
    with pytest.raises(ConfigError, match=f"network '{registered(name)}': has no option 'out_chanels'"):
        build(name, dims, out_chanels=3)
    with pytest.raises(ConfigError, match=f"network '{registered(name)}': spatial_dims=4"):
        build_network(registered(name), spatial_dims=4)


def test_files_of_networks_import_torch_and_each_other_alone() -> None:
    """A bundle carries a network's file and the shared blocks, and nothing else of medseg."""
    folder = Path(build_network.__code__.co_filename).parent
    allowed = {"torch", "medseg", *sys.stdlib_module_names}
    for file in folder.glob("*.py"):
        if file.name in ("__init__.py", "receptive_fields.py", "summary.py"):
            continue  # no bundle carries these
        modules = re.findall(
            r"^(?:from|import) ([\w.]+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert modules
        for module in modules:
            assert module.split(".")[0] in allowed, (file.name, module)
            assert not module.startswith("medseg") or module.startswith("medseg.networks."), (
                file.name,
                module,
            )
