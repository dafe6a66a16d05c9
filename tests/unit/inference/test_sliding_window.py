"""The sliding window against MONAI's function, and networks whose answer is known."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from torch import nn

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

    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


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
