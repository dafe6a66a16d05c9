"""What every network that can be streamed keeps to: slabs are what the whole pass gives."""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.networks import nets
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.inference.streaming import StreamingInferer
from medseg.networks import build_network, network_names

IN_CHANNELS, CLASSES = 2, 3
TOLERANCE = 1e-5
"""Of the range of the scores."""

SIZE = {2: (37, 26), 3: (17, 19, 16)}
DIVISIBLE = {2: (48, 32), 3: (32, 16, 16)}


def _networks_suite() -> ModuleType:
    """The suite of all networks, for its small configurations."""
    path = Path(__file__).with_name("test_networks.py")
    spec = importlib.util.spec_from_file_location("suite_of_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUITE = _networks_suite()
LOOKS_AT_EVERYTHING = {"deeplab-3-image"}
STREAMED = [name for name in (*network_names(), *SUITE.VARIANTS) if name not in LOOKS_AT_EVERYTHING]

MONAI: dict[str, Callable[[int], nn.Module]] = {
    "BasicUNet": lambda dims: nets.BasicUNet(
        dims, IN_CHANNELS, CLASSES, features=(4, 4, 8, 8, 16, 4), norm="batch"
    ),
    "DynUNet": lambda dims: nets.DynUNet(
        dims, IN_CHANNELS, CLASSES, (3, 3, 3), (1, 2, 2), (2, 2), (4, 8, 16), norm_name="batch"
    ),
    "HighResNet": lambda dims: nets.HighResNet(
        dims, IN_CHANNELS, CLASSES, layer_params=_thin_layers(), dropout_prob=0.1
    ),
    "SegResNet": lambda dims: nets.SegResNet(
        dims, 4, IN_CHANNELS, CLASSES, norm="batch", blocks_down=(1, 1, 1), blocks_up=(1, 1)
    ),
    "UNet": lambda dims: nets.UNet(
        dims, IN_CHANNELS, CLASSES, (4, 8, 16), (2, 2), num_res_units=1, norm="batch"
    ),
    "VNet": lambda dims: nets.VNet(dims, IN_CHANNELS, CLASSES),
}
TAKES_ANY_SIZE = {"BasicUNet", "HighResNet"}


def _thin_layers() -> tuple[dict[str, Any], ...]:
    from monai.networks.nets.highresnet import DEFAULT_LAYER_PARAMS_3D

    return tuple({**layer, "n_features": 4} for layer in DEFAULT_LAYER_PARAMS_3D)


def _architectures(name: str, dims: int) -> nn.Module:
    """A network of dynamic-network-architectures, with batch norm."""
    unet = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet",
        reason="dynamic-network-architectures is not installed",
    )
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    options = {
        "n_stages": 3, "features_per_stage": (4, 8, 16), "conv_op": convolution, "kernel_sizes": 3,
        "strides": (1, 2, 2), blocks: 1, "num_classes": CLASSES, "n_conv_per_stage_decoder": 1,
        "conv_bias": True, "norm_op": norm, "norm_op_kwargs": {}, "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True}, "deep_supervision": False,
    }  # fmt: skip
    network: nn.Module = getattr(unet, name)(IN_CHANNELS, **options)
    return network


def images_of(size: tuple[int, ...]) -> Tensor:
    return torch.randn(1, IN_CHANNELS, *size, generator=torch.Generator().manual_seed(1))


def settled(network: nn.Module, size: tuple[int, ...]) -> nn.Module:
    """In evaluation mode, with biases, and statistics and scales of norms, that change something."""
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(getattr(layer, "bias", None), nn.Parameter):
            nn.init.uniform_(layer.bias, -0.3, 0.3, generator=generator)
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, IN_CHANNELS, *size, generator=generator))
    return network.eval()


@functools.cache
def registered(name: str, dims: int) -> nn.Module:
    """A registered network; nobody changes it, so that it is captured once."""
    return settled(SUITE.build(name, dims), (24, 24, 24)[:dims])


def whole_pass(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = network(images)
    return scores


def assert_slabs_are_the_whole(network: nn.Module, size: tuple[int, ...]) -> None:
    """Along every axis, in slabs of every kind, for both orders of memory, and chosen automatically."""
    images, dims = images_of(size), len(size)
    whole = whole_pass(network, images)
    layouts = (torch.contiguous_format, {2: torch.channels_last, 3: torch.channels_last_3d}[dims])
    ways = [("auto", None), *((axis, slab) for axis in range(dims) for slab in (1, 5, size[axis], None))]
    for number, (axis, slab) in enumerate(ways):
        # Two ways with the same slab lie an odd number apart along one axis and the next.
        layout = layouts[(number + number // 4) % 2]
        scores = StreamingInferer(axis=axis, slab=slab)(images.contiguous(memory_format=layout), network)
        assert scores.shape == whole.shape
        assert scores.dtype == torch.float32
        assert_same(scores, whole)


def assert_same(scores: Tensor, whole: Tensor) -> None:
    allowed = TOLERANCE * (whole.max() - whole.min())
    assert (scores - whole).abs().max() <= allowed
    best, second = whole.topk(2, dim=1).values.unbind(1)
    decided = best - second > 2 * allowed
    assert torch.equal(scores.argmax(1)[decided], whole.argmax(1)[decided])
    assert decided.float().mean() > 0.9


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", STREAMED)
def test_registered_networks(name: str, dims: int) -> None:
    assert_slabs_are_the_whole(registered(name, dims), SIZE[dims])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", MONAI)
def test_networks_of_monai(name: str, dims: int) -> None:
    torch.manual_seed(0)
    network = settled(MONAI[name](dims), DIVISIBLE[dims])
    assert_slabs_are_the_whole(network, (SIZE if name in TAKES_ANY_SIZE else DIVISIBLE)[dims])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_networks_of_dynamic_network_architectures(name: str, dims: int) -> None:
    torch.manual_seed(0)
    assert_slabs_are_the_whole(settled(_architectures(name, dims), DIVISIBLE[dims]), DIVISIBLE[dims])


@pytest.mark.parametrize("name", sorted(LOOKS_AT_EVERYTHING))
def test_what_looks_at_the_whole_image_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"pyramid\.branches\.3.* looks at the whole image"):
        StreamingInferer()(images_of(SIZE[2]), SUITE.build(name, 2))


def test_instance_norms_that_a_network_has_whatever_it_is_told_are_refused() -> None:
    network = nets.AttentionUnet(2, IN_CHANNELS, CLASSES, (4, 8, 16), (2, 2))
    with pytest.raises(ConfigError, match=r"merge.* looks at the whole image"):
        StreamingInferer()(images_of(DIVISIBLE[2]), network)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", STREAMED)
def test_bfloat16_is_as_near_as_the_whole_pass_in_bfloat16(name: str, dims: int) -> None:
    network = registered(name, dims)
    images = images_of(SIZE[dims])
    exact = whole_pass(network, images)
    scores = StreamingInferer(axis=dims - 1, slab=5, precision="bf16")(images, network)
    assert scores.dtype == torch.float32
    rounded = whole_pass(copy.deepcopy(network).bfloat16(), images.bfloat16()).float()
    error, usual = (scores - exact).square().mean().sqrt(), (rounded - exact).square().mean().sqrt()
    # Where values of a window are nearly equal, rounding decides where a network with unpooling puts them.
    assert 0 < error <= 3 * usual


def test_labels_and_metadata() -> None:
    network = settled(build_network("unet", 3, IN_CHANNELS, CLASSES, features=(4, 6)), (16, 16, 16))
    images = MetaTensor(images_of(SIZE[3]), affine=torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0])))
    labels = StreamingInferer(axis=1, slab=4, reduce="argmax")(images, network)
    assert isinstance(labels, MetaTensor)
    assert torch.equal(labels.affine, images.affine)
    assert labels.dtype == torch.uint8
    scores = StreamingInferer(axis=1, slab=4)(images.as_tensor(), network)
    assert torch.equal(labels.as_tensor().long(), scores.argmax(1, keepdim=True))
