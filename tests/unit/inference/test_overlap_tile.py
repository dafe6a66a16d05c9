"""Tiles against one pass over the mirrored image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.networks.nets import UNet as MonaiUNet
from scipy import ndimage
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError, ResourceError
from medseg.inference.allocator import ALLOCATOR_STAGE
from medseg.inference.forward_memory import forward_peak_bytes
from medseg.inference.mirroring import Mirrored
from medseg.inference.overlap_tile import OverlapTileInferer
from medseg.inference.overlap_tile.fitting import AxisFit, TileFit, fit_tiles
from medseg.inference.overlap_tile.tiles import Layout, cut_out, source_indices
from medseg.inference.slabs import WORK_STAGE
from medseg.networks import build_configuration, build_network


def unet(spatial_dims: int, classes: int = 3, **options: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"features": (4, 6, 8), "padding": "valid", **options}
    network = build_network("unet", spatial_dims, 1, classes, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def whole_pass(image: Tensor, network: nn.Module, fit: TileFit, mode: str = "reflect") -> Tensor:
    """One pass over the image with mirrored borders, as large as the network needs it."""
    lengths = image.shape[2:]
    sizes = [along.at_least(length) for along, length in zip(fit.axes, lengths, strict=True)]
    hanging = [size - length for size, length in zip(sizes, lengths, strict=True)]
    margins = [(along.before, along.after + over) for along, over in zip(fit.axes, hanging, strict=True)]
    numpys = {"reflect": "reflect", "replicate": "edge", "constant": "constant"}
    padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), *margins], mode=numpys[mode]))
    with torch.no_grad():
        scores = network(padded)
    kept = [slice(along.trim, along.trim + length) for along, length in zip(fit.axes, lengths, strict=True)]
    return scores[(slice(None), slice(None), *kept)]


def assert_same(scores: Tensor, expected: Tensor) -> None:
    assert scores.shape == expected.shape
    tolerance = 1e-6 * float(expected.max() - expected.min())
    torch.testing.assert_close(scores, expected, rtol=0, atol=tolerance)


class TestFit:
    def test_the_papers_network_takes_572_to_388(self) -> None:
        with torch.device("meta"):
            network = build_configuration("unet_2015")

        for along in fit_tiles(network, channels=1, spatial_dims=2).axes:
            assert (along.stride, along.before, along.after, along.trim) == (16, 92, 92, 0)
            assert along.at_least(388) == 388
            assert along.input_length(388) == 572
            assert along.at_least(389) == 404

    def test_the_3d_papers_network_takes_132_to_44(self) -> None:
        with torch.device("meta"):
            network = build_configuration("unet3d_2016")

        for along in fit_tiles(network, channels=3, spatial_dims=3).axes:
            assert (along.stride, along.input_length(along.at_least(44))) == (8, 132)

    def test_sizes_that_fit_are_those_that_the_network_takes(self) -> None:
        network = unet(2, features=(2, 2, 2, 2))
        (along, _) = fit_tiles(network, channels=1, spatial_dims=2).axes
        lengths = range(along.input_length(1), along.input_length(60))

        taken = [n for n in lengths if network.nearest_sizes(n, 0) == (n,)]

        assert taken
        assert (
            taken == sorted({along.input_length(along.at_least(size)) for size in range(1, 61)})[: len(taken)]
        )

    def test_an_axis_with_other_kernels_fits_other_sizes(self) -> None:
        network = unet(3, features=(2, 2, 2, 2), kernel_sizes=[(3, 3, 1), 3, 3, 3])

        fits = fit_tiles(network, channels=1, spatial_dims=3).axes

        assert [(along.before, along.remainder) for along in fits] == [(44, 4), (44, 4), (40, 0)]

    def test_sizes_that_a_pooling_would_cut_are_not_taken(self) -> None:
        # It takes any size, but drops a voxel of odd ones and then crops its skip askew.
        class Skipping(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.inner = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 3)

            def forward(self, images: Tensor) -> Tensor:
                fine = self.first(images)
                coarse = self.inner(nn.functional.max_pool2d(fine, 2))
                risen = nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
                gap = fine.shape[-1] - risen.shape[-1]
                crop = slice(gap // 2, gap // 2 + risen.shape[-1])
                return torch.cat([fine[:, :, crop, crop], risen], 1)

        (along, _) = fit_tiles(Skipping(), channels=1, spatial_dims=2).axes

        assert along == AxisFit(stride=2, remainder=0, before=2, after=3)

    def test_what_padding_touches_is_thrown_away(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 3))

        (along, _) = fit_tiles(network, channels=1, spatial_dims=2).axes

        assert along == AxisFit(stride=1, remainder=0, before=3, after=3, trim=2, trim_after=2)

    @pytest.mark.parametrize(
        ("network", "named"),
        [
            (nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)), "'1' (instance_norm)"),
            (nn.Sequential(nn.Conv2d(1, 2, 3), nn.UpsamplingBilinear2d(scale_factor=2)), "aligns corners"),
            (nn.Conv2d(1, 2, 3, stride=2), "one score per 2 voxels"),
        ],
    )
    def test_networks_that_cannot_be_tiled_are_refused_by_name(self, network: nn.Module, named: str) -> None:
        with pytest.raises(ConfigError) as refusal:
            OverlapTileInferer(tile_size=8)(torch.zeros(1, 1, 9, 9), network)

        assert named in str(refusal.value)

    def test_a_network_for_other_images_is_refused(self) -> None:
        with pytest.raises(InputError):
            OverlapTileInferer()(torch.zeros(1, 3, 9, 9), nn.Conv2d(1, 2, 3))


class TestTiles:
    @given(st.integers(1, 7), st.integers(-30, 30), st.integers(1, 40))
    @settings(max_examples=40, deadline=None)
    def test_borders_are_mirrored_as_scipy_does_it(self, length: int, first: int, count: int) -> None:
        values = np.arange(float(length))
        expected = ndimage.map_coordinates(values, [np.arange(first, first + count)], order=0, mode="mirror")

        assert source_indices(first, count, length, "reflect") == expected.tolist()

    @pytest.mark.parametrize(
        ("mode", "expected"), [("replicate", [0, 0, 0, 1, 2, 2]), ("constant", [-1, -1, 0, 1, 2, -1])]
    )
    def test_other_borders(self, mode: str, expected: list[int]) -> None:
        assert source_indices(-2, 6, 3, mode) == expected

    def test_a_cut_out_is_made_of_the_voxels_named(self) -> None:
        image = torch.arange(12.0).reshape(1, 1, 3, 4)

        tile = cut_out(image, [[1, 0, 1], [-1, 3]])

        assert tile.tolist() == [[[[0.0, 7.0], [0.0, 3.0], [0.0, 7.0]]]]

    @given(
        st.integers(1, 70),
        st.integers(1, 40),
        st.integers(1, 8),
        st.integers(0, 7),
    )
    @settings(max_examples=80, deadline=None)
    def test_every_voxel_is_given_once(self, length: int, size: int, stride: int, remainder: int) -> None:
        along = AxisFit(stride, remainder % stride, before=3, after=3)
        layout = Layout((length,), TileFit((along,), 2, 4), (along.rounded(size, length),))

        spans = layout.spans(0)

        given_voxels = [voxel for span in spans for voxel in range(span.start, span.start + span.used)]
        assert given_voxels == list(range(length))
        assert all(span.start % stride == 0 for span in spans)
        assert all(span.size % stride == along.remainder and span.used <= span.size for span in spans)


class TestEquality:
    @pytest.mark.parametrize("shape", [(50, 37), (61, 20), (5, 3), (1, 1)])
    @pytest.mark.parametrize("tile_size", [4, (17, 9), 30, 100])
    def test_2d(self, shape: tuple[int, int], tile_size: int | tuple[int, int]) -> None:
        network, image = unet(2), torch.randn(2, 1, *shape)

        scores = OverlapTileInferer(tile_size)(image, network)

        assert_same(scores, whole_pass(image, network, fit_tiles(network, 1, 2)))

    @pytest.mark.parametrize("mode", ["reflect", "replicate", "constant"])
    def test_3d(self, mode: str) -> None:
        network, image = unet(3, features=(2, 3), norm=None), torch.randn(1, 1, 23, 14, 6)

        scores = OverlapTileInferer((10, 7, 5), padding_mode=mode)(image, network)

        assert_same(scores, whole_pass(image, network, fit_tiles(network, 1, 3), mode))

    @pytest.mark.parametrize(
        "options",
        [
            {"padding": "same"},
            {"upsample": "linear"},
            {"kernel_sizes": [(3, 1), 3, 3]},
            {"strides": [(2, 1), (3, 2)]},
            {"padding": "same", "downsample": "conv", "units": "residual"},
        ],
    )
    def test_kinds_of_networks(self, options: dict[str, object]) -> None:
        network, image = unet(2, **options), torch.randn(1, 1, 75, 44)

        scores = OverlapTileInferer((30, 20))(image, network)

        assert_same(scores, whole_pass(image, network, fit_tiles(network, 1, 2)))

    def test_monais_unet(self) -> None:
        torch.manual_seed(0)
        network = MonaiUNet(2, 1, 3, channels=(4, 8, 8), strides=(2, 2), norm="batch").eval()
        image = torch.randn(1, 1, 75, 44)

        scores = OverlapTileInferer((30, 20))(image, network)

        assert_same(scores, whole_pass(image, network, fit_tiles(network, 1, 2)))

    @given(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.integers(1, 3),
    )
    @settings(max_examples=15, deadline=None)
    def test_any_size(self, shape: tuple[int, int], tile_size: tuple[int, int], at_a_time: int) -> None:
        image = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))

        scores = OverlapTileInferer(tile_size, tiles_at_a_time=at_a_time)(image, SHARED)

        assert_same(scores, whole_pass(image, SHARED, fit_tiles(SHARED, 1, 2)))

    def test_inside_the_image_it_is_the_networks_own_answer(self) -> None:
        network, image = unet(2), torch.randn(1, 1, 60, 60)

        scores = OverlapTileInferer(12)(image, network)

        with torch.no_grad():
            assert_same(scores[:, :, 20:40, 20:40], network(image))

    @pytest.mark.parametrize("options", [{}, {"upsample": "linear"}])
    def test_mirrored_networks(self, options: dict[str, object]) -> None:
        # In double precision, for exponentials of scores magnify what single precision rounds off.
        network = Mirrored(unet(2, **options), axes=(0, 1), swapped=(0, 2, 1)).double()
        image = torch.randn(1, 1, 40, 31, dtype=torch.float64)

        scores = OverlapTileInferer((14, 9))(image, network)

        expected = whole_pass(image, network, fit_tiles(network, 1, 2))
        assert_same(scores, expected)


SHARED = unet(2)


class TestSlabs:
    @pytest.mark.parametrize("tile_size", [4, (17, 9, 4), 100])
    def test_they_are_the_whole_result_and_read_forward(self, tile_size: int | tuple[int, ...]) -> None:
        network, image = unet(3, features=(2, 3)), torch.randn(1, 1, 9, 26, 14)
        inferer = OverlapTileInferer(tile_size)
        plan = inferer.plan(network, tuple(image.shape))
        read: list[tuple[int, int]] = []

        def reader(start: int, stop: int) -> Tensor:
            read.append((start, stop))
            return image.narrow(2 + plan.axis, start, stop - start)

        slabs = list(inferer.slabs(reader, network, tuple(image.shape), plan))

        assert_same(torch.cat([slab for _, slab in slabs], 2 + plan.axis), inferer(image, network))
        lengths = [slab.shape[2 + plan.axis] for _, slab in slabs]
        assert [start for start, _ in slabs] == [sum(lengths[:i]) for i in range(len(lengths))]
        assert max(lengths) == plan.slab
        assert [start for start, _ in read] == [0, *(stop for _, stop in read[:-1])]
        assert read[-1][1] == image.shape[2 + plan.axis]

    def test_a_mirrored_border_behind_the_end_is_made_of_slices_at_hand(self) -> None:
        # The last row needs slices from before its own: the margin is wider than the image is long.
        network, image = nn.Conv2d(1, 1, 21), torch.randn(1, 1, 7, 30)
        inferer = OverlapTileInferer((2, 30))
        plan = inferer.plan(network, (1, 1, 7, 30))

        slabs = inferer.slabs(
            lambda start, stop: image.narrow(2 + plan.axis, start, stop - start), network, (1, 1, 7, 30), plan
        )

        joined = torch.cat([slab for _, slab in slabs], 2 + plan.axis)
        assert_same(joined, whole_pass(image, network, fit_tiles(network, 1, 2)))


class TestResult:
    def test_argmax_is_that_of_the_scores(self) -> None:
        network, image = unet(2), torch.randn(2, 1, 33, 20)

        labels = OverlapTileInferer(12, reduce="argmax")(image, network)

        assert labels.dtype == torch.uint8
        assert torch.equal(labels, OverlapTileInferer(12)(image, network).argmax(1, keepdim=True).byte())

    def test_a_metatensor_comes_back_as_one_and_the_network_sees_none(self) -> None:
        seen: list[type] = []

        class Noting(nn.Conv2d):
            def forward(self, images: Tensor) -> Tensor:
                seen.append(type(images))
                return super().forward(images)

        affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
        network = Noting(1, 2, 3)
        result = OverlapTileInferer(4)(MetaTensor(torch.ones(1, 1, 9, 9), affine=affine), network)

        assert isinstance(result, MetaTensor)
        torch.testing.assert_close(result.affine, affine)
        assert MetaTensor not in seen

    def test_scores_have_the_images_precision(self) -> None:
        result = OverlapTileInferer(4)(torch.ones(1, 1, 9, 9, dtype=torch.float64), nn.Conv2d(1, 2, 3))

        assert result.dtype == torch.float64

    def test_the_network_is_evaluated_and_left_in_its_mode(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.9)).train()
        image = torch.randn(1, 1, 12, 12)

        assert torch.equal(*(OverlapTileInferer(5)(image, network) for _ in range(2)))
        assert network.training

    @pytest.mark.parametrize(
        "options",
        [
            {"padding_mode": "circular"},
            {"reduce": "mean"},
            {"tile_size": 0},
            {"tile_size": (4, -1)},
            {"tiles_at_a_time": 0},
            {"max_ram_bytes": 0},
        ],
    )
    def test_wrong_arguments_are_refused(self, options: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            OverlapTileInferer(**options)

    @pytest.mark.parametrize("shape", [(1, 9, 9), (1, 1, 0, 9)])
    def test_what_is_no_image_is_refused(self, shape: Sequence[int]) -> None:
        with pytest.raises(InputError):
            OverlapTileInferer()(torch.zeros(shape), nn.Conv2d(1, 2, 3))

    def test_a_tile_size_of_other_axes_is_refused(self) -> None:
        with pytest.raises(ConfigError):
            OverlapTileInferer((4, 4, 4))(torch.zeros(1, 1, 9, 9), nn.Conv2d(1, 2, 3))

    def test_a_network_that_gives_what_its_layers_do_not_say_is_refused(self) -> None:
        class Moody(nn.Conv2d):
            def forward(self, images: Tensor) -> Tensor:
                small = images.shape[-1] < 40
                return nn.functional.pad(super().forward(images), [0, 1] if small else [0, 0])

        with pytest.raises(ConfigError, match="its layers say"):
            OverlapTileInferer(4)(torch.zeros(1, 1, 9, 9), Moody(1, 2, 3))


class TestMemory:
    def test_a_pass_is_counted_with_what_the_code_holds_on_to(self) -> None:
        class Holding(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                kept = images * 2.0
                changed = (images + 1.0).relu_()
                return changed[:, :, :4].clone() + kept.sum()

        # The image, what is kept, what is changed in place, a part of it, a sum, and the result.
        assert forward_peak_bytes(Holding(), (1, 1, 8, 8)) == 4 * (3 * 64 + 32 + 1 + 32)

    @pytest.mark.parametrize("limit", [4_000_000, 20_000_000])
    def test_tiles_keep_to_the_limit(self, limit: int) -> None:
        network = unet(3, features=(4, 8))

        plan = OverlapTileInferer(max_ram_bytes=limit).plan(network, (1, 1, 60, 80, 70))

        assert plan.mode == "overlap-tile"
        assert plan.peak_bytes <= limit
        assert set(plan.by_stage) == {WORK_STAGE, "image", "scores", ALLOCATOR_STAGE}

    def test_more_memory_is_less_work(self) -> None:
        network = unet(3, features=(4, 8))
        work = [
            OverlapTileInferer(max_ram_bytes=limit)
            .plan(network, (1, 1, 60, 80, 70))
            .details["computed_voxels"]
            for limit in (4_000_000, 20_000_000, 500_000_000)
        ]

        assert work[0] > work[1] > work[2]

    def test_with_room_enough_there_is_one_tile(self) -> None:
        network = unet(2)

        plan = OverlapTileInferer().plan(network, (1, 1, 60, 80))

        assert plan.details["tiles"] == 1

    @pytest.mark.parametrize("tile_size", [None, 40])
    def test_too_little_memory_is_refused_with_what_would_do(self, tile_size: int | None) -> None:
        network = unet(2)

        with pytest.raises(ResourceError, match="overlapping tiles take"):
            OverlapTileInferer(tile_size, max_ram_bytes=1000).plan(network, (1, 1, 60, 80))

    def test_a_plan_fits_a_manifest(self) -> None:
        import json

        plan = OverlapTileInferer(8).plan(unet(2), (1, 1, 60, 80))

        assert json.loads(json.dumps(plan.as_dict()))["peak_bytes"] == plan.peak_bytes

    def test_the_peak_is_what_was_planned(self, peaks: Callable[..., list[Any]]) -> None:
        rows = peaks(PEAKS)

        assert len(rows) == 2
        assert all(row.holds() for row in rows), rows


PEAKS = """
from medseg.inference.allocator import ALLOCATOR_STAGE
from medseg.inference.overlap_tile import OverlapTileInferer
from medseg.networks import build_network

network = build_network("unet", 3, 1, 6, features=(16, 32), padding="valid").eval()
image = torch.randn(1, 1, 100, 100, 100)
shape = tuple(image.shape)
inferer = OverlapTileInferer((60, 100, 100))
inferer(torch.randn(1, 1, 8, 8, 8), network)

def slab_by_slab():
    read = lambda start, stop: image.narrow(2 + plan.axis, start, stop - start).clone()
    for start, slab in inferer.slabs(read, network, shape, plan):
        pass

plan = inferer.plan(network, shape)
print(plan.peak_bytes, plan.by_stage[ALLOCATOR_STAGE], measured(slab_by_slab))
in_one = inferer.plan(network, shape, result=True)
print(in_one.peak_bytes, in_one.by_stage[ALLOCATOR_STAGE], measured(lambda: inferer(image, network)))
"""
