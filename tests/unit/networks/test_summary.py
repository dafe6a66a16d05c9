"""Summaries: counts by hand, and against what a real run does and keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medseg.errors import ConfigError, InputError
from medseg.networks import build_configuration, build_network, configurations, network_names, summarize

FLOAT, INDEX = 4, 8


def test_a_small_network_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),  # 4 maps of 10 x 12
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # of 5 x 6
        nn.Conv2d(4, 6, (1, 3), groups=2),  # 6 maps of 5 x 4
        nn.ConvTranspose2d(6, 2, 2, stride=2),  # 2 maps of 10 x 8
    )
    network[1].weight.requires_grad_(False)
    summary = summarize(network, (2, 1, 10, 12))
    assert summary.shape == (2, 1, 10, 12)
    assert summary.output_shapes == ((2, 2, 10, 8),)
    assert summary.parameters == 36 + 8 + (6 * 2 * 3 + 6) + (6 * 2 * 4 + 2)
    assert summary.trainable_parameters == summary.parameters - 4
    products = [4 * 1 * 9 * 10 * 12, 6 * 2 * 3 * 5 * 4, 6 * 2 * 4 * 5 * 4]
    assert summary.multiply_adds == 2 * sum(products)
    image, maps, pooled, narrow, output = (2 * FLOAT * n for n in (120, 480, 120, 120, 160))
    # The norm makes a map beside the convolution's, the activation overwrites it.
    assert summary.peak_bytes == maps + maps
    kept = image + maps + maps + pooled + narrow
    assert summary.training_bytes == kept + 2 * INDEX * 120
    assert output < summary.peak_bytes
    assert summary.receptive_field == (4, 8)
    assert summary.total_stride == (2, 2)
    assert summary.whole_layers == ()
    assert [(row.kind, row.kernel_size, row.stride) for row in summary.layers] == [
        ("convolution", (3, 3), (1, 1)),
        ("batch_norm", None, None),
        ("max_pool", (2, 2), (2, 2)),
        ("convolution", (1, 3), (1, 1)),
        ("transposed_convolution", (2, 2), (2, 2)),
    ]
    assert [row.multiply_adds for row in summary.layers] == [
        2 * products[0],
        0,
        0,
        *(2 * n for n in products[1:]),
    ]
    assert [row.parameters for row in summary.layers] == [36, 8, 0, 42, 50]


def test_a_skip_stays_alive_until_it_is_read() -> None:
    class Skip(nn.Module):
        in_channels = 1

        def forward(self, images: Tensor) -> Tensor:
            skip = images.exp()
            return torch.cat([skip, skip.sin().cos()], 1)

    # exp is alive throughout; sin and cos beside it; then both with the joined maps, which are two.
    assert summarize(Skip(), (1, 1, 8, 8)).peak_bytes == 4 * 64 * FLOAT


def test_views_take_no_memory() -> None:
    class Views(nn.Module):
        in_channels = 2

        def forward(self, images: Tensor) -> Tensor:
            first, second = images.chunk(2, 1)
            return first[:, :, 2:6].relu() + second[:, :, 2:6]

    # The image, the relu of half of one channel, and the sum.
    assert summarize(Views(), (1, 2, 8, 8)).peak_bytes == (128 + 32 + 32) * FLOAT


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": None, "activation": "leaky_relu", "upsample": "linear"},
        {"dropout": 0.5, "norm": "instance"},
        {"deep_supervision": True, "activation": "silu"},
    ],
    ids=str,
)
def test_u_net_against_a_real_run(options: dict[str, object], dims: int) -> None:
    network = build_network("unet", dims, features=(4, 6, 8), **options)
    shape = (2, 1, *(20, 24, 16)[:dims])
    summary = summarize(network, shape)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape))
    assert counter.get_total_flops() == 2 * summary.multiply_adds
    # Norms keep their statistics as well, which are no maps.
    assert summary.training_bytes <= kept_bytes(network, shape) < 1.03 * summary.training_bytes


def kept_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes of storage that autograd keeps of a real forward pass, parameters left out."""
    own = {entry.untyped_storage().data_ptr() for entry in (*network.parameters(), *network.buffers())}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda entry: kept.append(entry) or entry, lambda entry: entry
    ):
        network.train()(torch.zeros(shape))
    storages = {entry.untyped_storage().data_ptr(): entry.untyped_storage().nbytes() for entry in kept}
    return sum(size for pointer, size in storages.items() if pointer not in own)


def test_what_is_not_local() -> None:
    summary = summarize(build_network("unet", features=(4, 6), norm="group"), (1, 1, 16, 16, 16))
    assert (summary.receptive_field, summary.halo) == (None, None)
    assert summary.whole_layers[0] == "encoder.levels.0.convs.0.norm"
    assert summary.total_stride == (2, 2, 2)
    assert summary.layers[0].receptive_field == (3, 3, 3)
    assert summary.layers[1].receptive_field is None


def test_the_meta_device_will_do() -> None:
    with torch.device("meta"):
        network = build_network("unet")
    summary = summarize(network, (1, 1, 512, 512, 512))
    assert summary.parameters == 16_544_130
    assert summary.output_shapes == ((1, 2, 512, 512, 512),)


def test_weights_that_are_used_twice_count_once() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    assert summarize(nn.Sequential(layer, layer), (1, 2, 8, 8)).parameters == 38


def test_a_wrong_shape() -> None:
    with pytest.raises(InputError, match="the network takes 1"):
        summarize(build_network("unet", 2), (1, 3, 16, 16))


# The papers' configurations


def test_every_configuration_names_a_network_and_spells_it_out() -> None:
    found = configurations()
    assert {"fcn8s", "unet_2015", "segnet_vgg16", "fc_densenet103"} <= set(found)
    assert list(found) == sorted(found)
    for network, options in found.values():
        assert network in network_names()
        assert {"spatial_dims", "in_channels", "out_channels"} <= set(options)


@pytest.mark.parametrize(("name", "parameters"), [("unet_2015", 31_030_658), ("fcn32s", 134_346_581)])
def test_configurations_are_built_by_name(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build_configuration(name)
    assert sum(entry.numel() for entry in network.parameters()) == parameters


def test_an_unknown_configuration() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fcn8s'"):
        build_configuration("fcn8")
