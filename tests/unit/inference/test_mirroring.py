"""Mirroring against flips by hand, and networks whose answer does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.inference.allocator import ALLOCATOR_STAGE
from medseg.inference.mirrored_slabs import MirroredSlabs
from medseg.inference.mirroring import (
    Mirrored,
    flips_of,
    mean_scores,
    partner_permutation,
)
from medseg.inference.overlap_tile import OverlapTileInferer
from medseg.inference.slabs import WORK_STAGE, MemoryPlan
from medseg.inference.sliding_window import SlidingWindowInferer
from medseg.inference.streaming import StreamingInferer
from medseg.labels import LabelScheme
from medseg.network_graph import capture
from medseg.networks import build_network


def network_of(classes: int, spatial_dims: int = 3) -> nn.Module:
    torch.manual_seed(3)
    convolution = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    return nn.Sequential(convolution(1, 4, 3, padding=1), nn.ReLU(), convolution(4, classes, 3, padding=1))


class TestPermutation:
    def test_partners_are_exchanged_and_others_stay(self) -> None:
        labels = LabelScheme.from_names({2: "kidney left", 5: "liver", 9: "kidney right", 11: "left eye"})

        assert partner_permutation(labels) == (0, 3, 2, 1, 4)

    def test_flips_are_all_subsets(self) -> None:
        assert flips_of((0, 1, 2)) == ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


class TestMean:
    def test_by_hand(self) -> None:
        # Probabilities of 3/4 and 1/4, then of 1/2 each: 5/8 and 3/8.
        first, second = torch.tensor([[[3.0], [1.0]]]).log(), torch.zeros(1, 2, 1)

        torch.testing.assert_close(mean_scores([first, second]).exp().flatten(), torch.tensor([0.625, 0.375]))

    def test_sigmoid_by_hand(self) -> None:
        # Odds of 3:1 and of 1:1 are probabilities of 3/4 and 1/2.
        scores = mean_scores([torch.tensor([[[3.0]]]).log(), torch.zeros(1, 1, 1)], "sigmoid")

        torch.testing.assert_close(scores.sigmoid().flatten(), torch.tensor([0.625]))

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
    def test_scores_that_are_sure_stay_finite(self, activation: str) -> None:
        sure = torch.tensor([[[500.0], [-500.0]]])

        assert mean_scores([sure, -sure, sure], activation).isfinite().all()
        assert mean_scores([sure, sure], activation).isfinite().all()

    def test_one_class_has_no_softmax(self) -> None:
        with pytest.raises(ConfigError):
            mean_scores([torch.zeros(1, 1, 4)])

    def test_nothing_has_no_mean(self) -> None:
        with pytest.raises(ConfigError):
            mean_scores([])


class TestMirrored:
    @pytest.mark.parametrize("axes", [(), (1,), (0, 2), (0, 1, 2)])
    def test_against_flips_by_hand(self, axes: tuple[int, ...]) -> None:
        network, image = network_of(4), torch.randn(2, 1, 5, 6, 7)
        swapped = np.array([0, 2, 1, 3])

        with torch.no_grad():
            scores = Mirrored(network, axes, swapped.tolist(), left_right_axis=2)(image)
            answers = []
            for bits in range(2 ** len(axes)):
                flip = [2 + axis for position, axis in enumerate(axes) if bits >> position & 1]
                seen = torch.from_numpy(np.flip(image.numpy(), flip).copy())
                answer = np.flip(network(seen).softmax(1).numpy(), flip)
                answers.append(answer[:, swapped] if 4 in flip else answer)

        np.testing.assert_allclose(scores.exp().numpy(), np.mean(answers, axis=0), rtol=1e-5, atol=1e-6)

    def test_sigmoid_against_flips_by_hand(self) -> None:
        network, image = network_of(1, 2), torch.randn(1, 1, 5, 6)

        with torch.no_grad():
            scores = Mirrored(network, (1,), activation="sigmoid")(image)
            expected = (network(image).sigmoid() + network(image.flip(3)).sigmoid().flip(3)) / 2

        torch.testing.assert_close(scores.sigmoid(), expected)

    def test_a_symmetric_network_gives_itself(self) -> None:
        network = nn.Conv3d(1, 3, 3, padding=1)
        with torch.no_grad():
            for axis in (2, 3, 4):
                network.weight.copy_((network.weight + network.weight.flip(axis)) / 2)
            image = torch.randn(1, 1, 6, 5, 4)

            scores = Mirrored(network)(image)

            torch.testing.assert_close(scores.softmax(1), network(image).softmax(1))

    def test_a_side_is_known_by_its_place(self) -> None:
        # It calls the half with the lower index left (1), the other right (2), in mirror images too.
        class Sides(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                place = torch.linspace(-5, 5, images.shape[2]).reshape(1, 1, -1, 1).expand_as(images)
                return torch.cat([torch.full_like(place, -9.0), -place, place], 1)

        image = torch.zeros(1, 1, 8, 3)

        torch.testing.assert_close(
            Mirrored(Sides(), (0,), (0, 2, 1))(image).softmax(1), Sides()(image).softmax(1)
        )
        assert Mirrored(Sides(), (0,))(image)[:, 1:].diff(dim=1).abs().max() < 1e-5

    @pytest.mark.parametrize(
        "options",
        [
            {"axes": (0, 0)},
            {"axes": (3,)},
            {"axes": (-1,)},
            {"swapped": (1, 2, 0)},
            {"swapped": (0, 1, 1)},
            {"activation": "relu"},
        ],
    )
    def test_wrong_arguments_are_refused(self, options: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            Mirrored(nn.Identity(), **options)

    def test_an_axis_that_the_image_lacks_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="axis 2"):
            Mirrored(network_of(2, 2), axes=(2,))(torch.zeros(1, 1, 4, 4))

    def test_a_permutation_of_other_classes_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="names 3 classes"):
            Mirrored(network_of(4, 2), (0,), (0, 2, 1))(torch.zeros(1, 1, 4, 4))

    def test_a_capture_names_the_flip(self) -> None:
        with pytest.raises(ConfigError, match="flip"):
            capture(Mirrored(network_of(2, 2), (0,)), (1, 1, 8, 8))


class TestInferers:
    def test_on_windows(self) -> None:
        mirrored, image = Mirrored(network_of(3), (0, 1)), torch.randn(1, 1, 6, 6, 6)

        with torch.no_grad():
            scores = SlidingWindowInferer((6, 6, 6))(image, mirrored)

            torch.testing.assert_close(scores, mirrored(image))

    @pytest.mark.parametrize("axes", [(1, 2), (2,), ()])
    def test_slabs_in_lockstep_are_what_the_mirrored_network_gives(self, axes: tuple[int, ...]) -> None:
        network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 3, 1))
        image = torch.randn(1, 1, 12, 5, 6)
        swapped = (0, 2, 1)

        scores = MirroredSlabs(_AlongAxis0((4, 3, 6)), axes, swapped, left_right_axis=2)(image, network)

        inferer = OverlapTileInferer((4, 3, 6))
        expected = inferer(image, Mirrored(network, axes, swapped, left_right_axis=2))
        torch.testing.assert_close(scores.softmax(1), expected.softmax(1))

    def test_the_plan_has_memory_for_every_mirror_image(self) -> None:
        inferer, network = _AlongAxis0((4, 3, 6)), nn.Conv3d(1, 2, 3)

        alone = inferer.plan(network, (1, 1, 12, 5, 6))
        mirrored = MirroredSlabs(inferer, (1, 2)).plan(network, (1, 1, 12, 5, 6))

        assert mirrored.details["mirrored_axes"] == [1, 2]
        turns = {WORK_STAGE, ALLOCATOR_STAGE}
        held = sum(size for stage, size in alone.by_stage.items() if stage not in turns)
        taken_in_turns = sum(size for stage, size in alone.by_stage.items() if stage in turns)
        # A row of tiles of two classes, in single precision.
        slab = 2 * 4 * 5 * 6 * 4
        assert alone.slab_bytes == slab
        assert mirrored.by_stage["mean"] == slab + max(0, 4 * slab - alone.by_stage[WORK_STAGE])
        assert mirrored.peak_bytes == 4 * held + taken_in_turns + mirrored.by_stage["mean"]

    def test_the_result_of_a_call_is_planned_for(self) -> None:
        slabs, network = MirroredSlabs(_AlongAxis0((4, 3, 6)), (1,)), nn.Conv3d(1, 2, 3)

        given_on = slabs.plan(network, (1, 1, 12, 5, 6))
        whole = slabs.plan(network, (1, 1, 12, 5, 6), result=True)

        assert whole.peak_bytes - given_on.peak_bytes == 2 * 12 * 5 * 6 * 4

    @pytest.mark.parametrize("axes", [(1,), (1, 2)])
    def test_tiles_of_mirror_images_give_what_whole_planes_give(self, axes: tuple[int, ...]) -> None:
        torch.manual_seed(1)
        network = build_network("unet", 3, 1, 3, features=(4, 6)).eval()
        # Strides do not divide the plane: a cut image is pooled as the whole one only at the right places.
        image, swapped = torch.randn(1, 1, 12, 66, 61), (0, 2, 1)
        free = StreamingInferer(axis=0, slab=1).plan(network, tuple(image.shape))
        tight = StreamingInferer(axis=0, max_ram_bytes=int(0.8 * free.peak_bytes))
        slabs = MirroredSlabs(tight, axes, swapped, left_right_axis=2)

        plan = slabs.plan(network, tuple(image.shape))
        scores = slabs(image, network)

        assert len(plan.tiles) > 1
        with torch.no_grad():
            expected = Mirrored(network, axes, swapped, left_right_axis=2)(image)
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)

    def test_the_peak_is_what_was_planned(self, peaks: Callable[..., list[Any]]) -> None:
        few_classes, many_classes = peaks(PEAKS)

        assert few_classes.holds(), few_classes
        assert many_classes.holds(), many_classes

    def test_the_streamed_axis_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="along axis 0"):
            MirroredSlabs(_AlongAxis0(4), (0,)).plan(nn.Conv3d(1, 2, 3), (1, 1, 12, 5, 6))

    def test_a_metatensor_comes_back_as_one(self) -> None:
        affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
        image = MetaTensor(torch.ones(1, 1, 6, 5, 4), affine=affine)

        result = MirroredSlabs(_AlongAxis0(4), (1,))(image, nn.Conv3d(1, 2, 3))

        assert isinstance(result, MetaTensor)
        torch.testing.assert_close(result.affine, affine)


PEAKS = """
from medseg.inference.allocator import ALLOCATOR_STAGE
from medseg.inference.mirrored_slabs import MirroredSlabs
from medseg.inference.streaming import StreamingInferer
from medseg.networks import build_network

image = torch.randn(1, 1, 16, 112, 112)
shape = tuple(image.shape)

def go_through(length, slabs, network):
    part = image[:, :, :length]
    plan = slabs.plan(network, tuple(part.shape))
    for _ in slabs.slabs(lambda start, stop: part.narrow(2, start, stop - start), network, part.shape, plan):
        pass

for classes in (3, 60):
    network = build_network("unet", 3, 1, classes, features=(16, 32)).eval()
    slabs = MirroredSlabs(StreamingInferer(axis=0), (1, 2))
    with torch.inference_mode():
        go_through(2, slabs, network)
        plan = slabs.plan(network, shape)
        peak = measured(lambda: go_through(16, slabs, network))
    print(plan.peak_bytes, plan.by_stage[ALLOCATOR_STAGE], peak)
"""


class _AlongAxis0(OverlapTileInferer):
    """Goes along the first axis whatever memory that takes."""

    def plan(self, network: nn.Module, shape: Sequence[int], *, result: bool = False) -> MemoryPlan:
        return replace(super().plan(network, shape, result=result), axis=0)

    def slabs(self, *arguments: object) -> Iterator[tuple[int, Tensor]]:
        return super().slabs(*arguments)
