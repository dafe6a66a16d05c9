"""Where slabs begin and end is not to be seen in what comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medseg.networks import build_network

PERIOD = 4
"""Slices of the output after which strides of networks of three levels repeat."""


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(name, 2, 1, 3, features=(4, 6, 8))
    with torch.no_grad():
        network.train()(torch.randn(2, 1, 32, 32))
    return network.eval()


@pytest.mark.parametrize("name", ["unet", "segnet", "refinenet", "vnet"])
def test_labels_are_the_same_wherever_slabs_begin(name: str, streamed: Callable[..., Tensor]) -> None:
    network, images = small(name), torch.randn(1, 1, 29, 22)
    with torch.no_grad():
        whole = network(images)
    best, second = whole.topk(2, dim=1).values.unbind(1)
    decided = best - second > 2e-5 * (whole.max() - whole.min())
    for axis in (0, 1):
        for first in range(1, 2 * PERIOD + 1):
            slabs = streamed(network, images, axis, 2 * PERIOD, first=first)
            assert torch.equal(slabs.argmax(1)[decided], whole.argmax(1)[decided])


def test_equal_values_are_unpooled_to_where_the_whole_pass_puts_them(streamed: Callable[..., Tensor]) -> None:
    class PoolAndBack(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            values, places = nn.functional.max_pool3d(images, 2, return_indices=True)
            return nn.functional.max_unpool3d(values, places, 2, output_size=images.shape)

    images = torch.randint(0, 2, (2, 3, 9, 8, 7)).float()
    for axis in range(3):
        for thickness in (1, 2, 5):
            assert torch.equal(streamed(PoolAndBack(), images, axis, thickness), PoolAndBack()(images))


def test_layers_begin_with_what_the_latest_reader_needs(streamed: Callable[..., Tensor]) -> None:
    class ReadFromTheEndFirst(nn.Module):
        """The second branch needs the layer's first slices when the first one has long passed them."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            late = nn.functional.pad(maps, (6, -6, 6, -6))
            return nn.functional.pad(maps[:, :, 5:, 5:], (0, 5, 0, 5)) + late

    network, images = ReadFromTheEndFirst(), torch.randn(1, 1, 15, 13)
    for axis in (0, 1):
        for thickness in (1, 4, 20):
            torch.testing.assert_close(streamed(network, images, axis, thickness), network(images))
