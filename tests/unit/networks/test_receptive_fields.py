"""Receptive fields: tables from papers, sums done by hand, random networks, and networks of others."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import BasicUNet, DynUNet, HighResNet, SegResNet
from monai.networks.nets import UNet as MonaiUNet
from monai.networks.nets import VNet as MonaiVNet
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.network_graph import capture
from medseg.networks import build_configuration, build_network, receptive_fields
from medseg.networks.blocks import ContextModule
from medseg.networks.receptive_fields import halo, input_channels, layer_receptive_fields, receptive_field

# From papers


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_context_module_of_yu_2016(kind: str) -> None:
    module = ContextModule(2, 4, kind)
    fields = [layer.receptive_field for layer in layer_receptive_fields(module, spatial_dims=2)]
    assert fields == [(n, n) for n in (3, 5, 9, 17, 33, 65, 67, 67)]


def test_dilations_that_double_grow_the_field_by_powers_of_two() -> None:
    layers = [nn.Conv3d(1, 1, 3, padding=2**n, dilation=2**n) for n in range(7)]
    fields = [layer.receptive_field for layer in layer_receptive_fields(nn.Sequential(*layers))]
    assert fields == [(2 ** (n + 2) - 1,) * 3 for n in range(7)]


def test_vgg_16_as_published() -> None:
    layers = layer_receptive_fields(build_configuration("fcn32s"), spatial_dims=2)
    pools = [layer.receptive_field for layer in layers if layer.kind == "max_pool"]
    assert pools == [(6, 6), (16, 16), (44, 44), (100, 100), (212, 212)]
    assert next(layer.receptive_field for layer in layers if layer.stride == (32, 32)) == (212, 212)
    assert (404, 404) in [layer.receptive_field for layer in layers]  # fc6


def test_highres3dnet_sees_87_voxels() -> None:
    assert receptive_field(build_configuration("highres3dnet")) == (87, 87, 87)


def test_the_bottom_of_u_net_sees_140_pixels() -> None:
    layers = layer_receptive_fields(build_configuration("unet_2015"), spatial_dims=2)
    bottom = [layer for layer in layers if layer.stride == (16, 16)]
    assert bottom[-1].receptive_field == (140, 140)
    assert [layer.kind for layer in bottom] == ["max_pool", "convolution", "convolution"]


# By hand


def plain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 1, 1), *layers)


@pytest.mark.parametrize(
    ("network", "field", "reach"),
    [
        (plain(), (1, 1), (0, 0)),
        (plain(nn.Conv2d(1, 1, (3, 5), padding="same")), (3, 5), (1, 2)),
        (plain(nn.Conv2d(1, 1, (3, 5))), (3, 5), (1, 2)),  # what valid convolutions lose counts
        (plain(nn.MaxPool2d((2, 4))), (2, 4), (0, 0)),
        (plain(nn.MaxPool2d(2), nn.Upsample(scale_factor=2.0)), (2, 2), (1, 1)),
        (plain(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 2, 2)), (2, 2), (1, 1)),
        (plain(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 4, 2, 1)), (4, 4), (2, 2)),
        (plain(nn.MaxPool2d(2), nn.Upsample(scale_factor=2.0, mode="bilinear")), (4, 4), (2, 2)),
        (plain(nn.MaxPool2d(2), nn.Upsample(scale_factor=2.0, mode="bicubic")), (8, 8), (4, 4)),
        (plain(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 1, 1)), (7, 7), (3, 3)),
        (plain(nn.Upsample(scale_factor=2.0), nn.Conv2d(1, 1, 3, 1, 1)), (2, 2), (1, 1)),
    ],
)
def test_small_networks(network: nn.Module, field: tuple[int, ...], reach: tuple[int, ...]) -> None:
    assert receptive_field(network, spatial_dims=2) == field
    assert halo(network, spatial_dims=2) == reach


def test_each_axis_has_its_own() -> None:
    network = build_network(
        "unet",
        features=(2, 3, 4),
        kernel_sizes=[(3, 3, 1), (3, 3, 3), (3, 3, 3)],
        strides=[(2, 2, 1), (2, 2, 2)],
    )
    # Along the thick axis one level less, and its finest convolutions see a single slice.
    thin = build_network("unet", features=(2, 3), kernel_sizes=[1, 3], strides=[1])
    along = receptive_field(network)
    assert along[0] == along[1] == 44
    assert (
        along[2]
        == receptive_field(build_network("unet", features=(2, 3, 4), kernel_sizes=[1, 3, 3], strides=[1, 2]))[
            0
        ]
    )
    assert receptive_field(thin) == (5, 5, 5)


def test_cumulative_strides_go_up_and_down() -> None:
    network = plain(nn.MaxPool2d((4, 2)), nn.ConvTranspose2d(1, 1, 2, 2), nn.ConvTranspose2d(1, 1, 4, 4))
    strides = [layer.stride for layer in layer_receptive_fields(network, spatial_dims=2)]
    assert strides == [(1, 1), (4, 2), (2, 1), (Fraction(1, 2), Fraction(1, 4))]


def test_of_several_outputs_the_first_counts() -> None:
    class Two(nn.Module):
        in_channels = 1

        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 9)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return self.near(images), self.far(images)

    assert receptive_field(Two(), spatial_dims=2) == (3, 3)


def test_interpolation_to_grids_that_never_meet_again() -> None:
    network = plain(nn.MaxPool2d(2), nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True))
    assert receptive_field(network, spatial_dims=2) == (4, 4)


# Volumes are large enough, whatever it takes


def test_larger_volumes_are_tried_until_no_border_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("unet", features=(2, 3, 4, 5))
    expected = receptive_field(network), halo(network)
    sizes = []

    def spy(network: nn.Module, shape: tuple[int, ...]) -> object:
        sizes.append(shape[2])
        return capture(network, shape)

    monkeypatch.setattr(receptive_fields, "_FIRST_SIZE", 16)
    monkeypatch.setattr(receptive_fields, "capture", spy)
    assert receptive_field(network) == expected[0]
    assert sizes == [16, 32, 64, 128]
    assert halo(network) == expected[1]


def test_a_field_without_end_in_sight_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receptive_fields, "_FIRST_SIZE", 16)
    monkeypatch.setattr(receptive_fields, "_LARGEST_SIZE", 32)
    with pytest.raises(ConfigError, match="'1': the receptive field of convolution exceeds 32 voxels"):
        receptive_field(plain(nn.Conv2d(1, 1, 3, dilation=30, padding=30)), spatial_dims=2)


def test_networks_that_take_some_sizes_only() -> None:
    network = build_network("unet", 2, features=(2, 3, 4), padding="valid", norm=None)
    same = build_network("unet", 2, features=(2, 3, 4), norm=None)
    assert receptive_field(network, 2) == receptive_field(same, 2) == (44, 44)
    # 40 voxels are lost on both sides together, 2 · (2 + 4 + 8) + ...: valid and same have the same windows.
    assert halo(network, 2) == halo(same, 2) == (23, 23)


# Refusals


def test_layers_that_look_at_everything_are_named() -> None:
    network = build_network("unet", features=(2, 3), norm="instance")
    with pytest.raises(ConfigError) as error:
        receptive_field(network)
    assert error.value.where == "layer 'encoder.levels.0.convs.0.norm'"
    with pytest.raises(ConfigError):
        halo(network)
    fields = [layer.receptive_field for layer in layer_receptive_fields(network)]
    assert fields[0] == (3, 3, 3)
    assert set(fields[1:]) == {None}


def test_unknown_channels() -> None:
    with pytest.raises(ConfigError, match="how many channels"):
        receptive_field(nn.ReLU(), spatial_dims=2)
    assert input_channels(nn.Sequential(nn.ReLU(), nn.ConvTranspose3d(5, 2, 1))) == 5


def test_what_no_size_helps_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Branching(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return images if bool(images.sum() > 0) else super().forward(images)

    tried = []

    def spy(network: nn.Module, shape: tuple[int, ...]) -> object:
        tried.append(shape)
        return capture(network, shape)

    monkeypatch.setattr(receptive_fields, "capture", spy)
    with pytest.raises(InputError, match="cannot be captured"):
        receptive_field(Branching(1, 1, 3), spatial_dims=2)
    assert len(tried) == 2


# Random networks, voxel by voxel

_pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def _layers(draw: st.DrawFn) -> nn.Module:
    kernel, stride = draw(_pairs)
    dilation, padding = draw(_pairs)
    return draw(
        st.sampled_from(
            [
                nn.Conv2d(1, 1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1)),
                nn.Conv2d(1, 1, (kernel + 1, 1), padding="same", dilation=(dilation, 1)),
                nn.ConvTranspose2d(1, 1, (kernel + stride, 1), (stride, 1), (1, 0)),
                nn.MaxPool2d((kernel, 1), (stride, 1), (kernel // 2, 0), (dilation, 1), ceil_mode=True),
                nn.AvgPool2d((kernel, 1), (stride, 1), (kernel // 2, 0)),
                nn.Upsample(scale_factor=(float(stride), 1.0), mode="nearest"),
                nn.Upsample(scale_factor=(float(stride), 1.0), mode="bilinear"),
                nn.ReplicationPad2d((0, 0, padding, stride)),
                nn.ZeroPad2d((0, 0, -padding, stride)),
            ]
        )
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(_layers(), min_size=1, max_size=5))
def test_walking_back_finds_the_voxels_that_matter(layers: list[nn.Module]) -> None:
    length = 48
    network = nn.Sequential(nn.Conv2d(1, 1, 1), *layers).double().eval()
    for entry in network.parameters():
        nn.init.ones_(entry)
    image = torch.rand(1, 1, length, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        changes = torch.eye(length, dtype=torch.float64).view(length, 1, length, 1)
        clean = network(image)
        # Large, so that it is the maximum of every pooling that it reaches.
        matters = ((network(image + 1e3 * changes) - clean).abs() > 1e-3).view(length, -1)
    graph = capture(network, image.shape)
    for voxel in range(clean.shape[2]):
        needed = graph.needed(graph.outputs[0], 0, voxel, voxel + 1)
        sources = matters[:, voxel].nonzero().ravel().tolist()
        if any(a < 0 or b > graph.nodes[name].size[0] for name, (a, b) in needed.items()):
            continue  # padding by copies is not followed beyond a border
        found = needed.get(graph.input, (0, 0))
        assert all(found[0] <= source < found[1] for source in sources)
        if sources:
            assert (sources[0], sources[-1] + 1) == found


# Networks of others


def _nan_reach(network: nn.Module, size: int, period: int) -> int:
    """How far a NaN in the middle gets along the first axis, at most over the phases, in a 3D network."""
    reaches = []
    for phase in range(period):
        image = torch.zeros(1, 1, size, 16, 16)
        position = size // 2 // period * period + phase
        image[0, 0, position, 8, 8] = torch.nan
        with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
            marked = network(image).isnan().flatten(3).any(-1).any(1).ravel().nonzero().ravel()
        reaches += [position - int(marked[0]), int(marked[-1]) - position]
    return max(reaches)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize(
    ("network", "period"),
    [
        (MonaiUNet(3, 1, 2, (4, 6, 8), (2, 2), num_res_units=1, norm="batch"), 4),
        (BasicUNet(3, 1, 2, (4, 4, 4, 4, 4, 4), norm="batch"), 16),
        (SegResNet(3, 4, 1, 2, norm="batch", blocks_down=(1, 1), blocks_up=(1,)), 2),
        (HighResNet(3, 1, 2), 1),
        (DynUNet(3, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 6, 8), norm_name="batch"), 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_monai_s_networks(network: nn.Module, period: int) -> None:
    reach = halo(network)
    assert len(set(reach)) == 1
    size = -(-(2 * reach[0] + 4) // 16) * 16 + 32
    assert _nan_reach(network.eval(), size, period) == reach[0]


def test_monai_s_v_net_is_captured() -> None:
    with torch.device("meta"):
        network = MonaiVNet(3, 1, 2)
    assert receptive_field(network) == (396, 396, 396)
