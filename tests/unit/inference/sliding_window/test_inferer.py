"""The sliding window against MONAI's function, and networks whose answer is known."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from torch import nn

from medseg.errors import ConfigError
from medseg.inference import SlidingWindowInferer


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(20, 17, 9), (5, 30, 3), (4, 4, 4)])
def test_a_pointwise_network_gives_what_it_gives_without_windows(shape: tuple[int, ...], mode: str) -> None:
    image = torch.randn(1, 2, *shape)
    network = nn.Conv3d(2, 3, 1)

    with torch.no_grad():
        scores = SlidingWindowInferer((8, 8, 8), sw_batch_size=3, mode=mode)(image, network)
        expected = network(image)

    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_it_is_monais_with_other_defaults() -> None:
    image = torch.randn(1, 1, 13, 12, 11)
    network = nn.Conv3d(1, 2, 3, padding=1)

    with torch.no_grad():
        scores = SlidingWindowInferer((6, 6, 6))(image, network)
        expected = sliding_window_inference(image, (6, 6, 6), 1, network, overlap=0.5, mode="gaussian")

    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


def test_windows_carry_no_metadata_but_the_result_does() -> None:
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.ones(1, 1, 6, 6, 6), affine=affine)
    seen: list[type] = []

    def network(window: torch.Tensor) -> torch.Tensor:
        seen.append(type(window))
        return window

    result = SlidingWindowInferer((4, 4, 4))(image, network)

    assert set(seen) == {torch.Tensor}
    assert isinstance(result, MetaTensor)
    torch.testing.assert_close(result.affine, affine)


def test_windows_of_low_precision_are_added_up_in_single_precision() -> None:
    image = torch.full((1, 1, 8, 8, 8), 0.1)

    result = SlidingWindowInferer((4, 4, 4))(image, lambda window: window.to(torch.bfloat16))

    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.full_like(image, 0.1).bfloat16().float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "options",
    [{"mode": "gausian"}, {"reduce": "max"}, {"axis": "z"}, {"sw_batch_size": 0}, {"padding_mode": "mirror"}],
)
def test_options_that_are_unknown_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SlidingWindowInferer((4, 4), **options)


def test_images_of_integers_are_refused() -> None:
    with pytest.raises(ConfigError, match="floating point"):
        SlidingWindowInferer((4, 4))(torch.ones(1, 1, 8, 8, dtype=torch.int16), nn.Identity())


def test_what_is_too_short_to_be_mirrored_is_refused() -> None:
    with pytest.raises(ConfigError, match="reflect"):
        SlidingWindowInferer((8, 8), padding_mode="reflect")(torch.ones(1, 1, 2, 8), nn.Identity())


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match="roi_weight_map"):
        SlidingWindowInferer((4, 4))(torch.ones(1, 1, 8, 8), nn.Identity(), roi_weight_map=torch.ones(4, 1))


def test_an_axis_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no axis 2"):
        SlidingWindowInferer((4, 4), axis=2)(torch.ones(1, 1, 8, 8), nn.Identity())


def test_slabs_hold_no_more_than_is_handed_on() -> None:
    image, network = torch.randn(1, 1, 40, 8, 8), nn.Conv3d(1, 4, 1)
    inferer = SlidingWindowInferer((8, 8, 8))
    plan = inferer.plan(network, tuple(image.shape))
    slabs = inferer.slabs(lambda start, stop: image[:, :, start:stop], network, tuple(image.shape), plan)
    handed_on = [weakref.ref(slab) for _, slab in slabs]
    assert len(handed_on) > 2
    assert all(slab() is None for slab in handed_on)


def test_slabs_can_be_made_of_one_output_only() -> None:
    class Two(nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image, image]

    inferer = SlidingWindowInferer((4, 4))
    plan = inferer.plan(Two(), (1, 1, 8, 8))
    with pytest.raises(ConfigError, match="several outputs"):
        list(inferer.slabs(lambda start, stop: torch.ones(1, 1, stop - start, 8), Two(), (1, 1, 8, 8), plan))
