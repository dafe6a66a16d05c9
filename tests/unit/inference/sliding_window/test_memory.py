"""What windows take, against sums by hand and against what a process took."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medseg.errors import ConfigError, ResourceError
from medseg.inference.sliding_window import SlidingWindowInferer

MIB = 1 << 20

PEAK = """
from medseg.inference.allocator import ALLOCATOR_STAGE
from medseg.inference.sliding_window import SlidingWindowInferer

network = torch.nn.Conv3d(1, 60, 1)
image = torch.randn(1, 1, 128, 112, 112)
# A window's scores take more than 32 MiB: less may come from a heap with gaps, that differ from run to run.
inferer = SlidingWindowInferer((56, 56, 56), overlap=0.25, reduce="argmax")
with torch.inference_mode():
    inferer(image[:, :, :60, :56, :56], network)
    plan = inferer.plan(network, tuple(image.shape), result=True)
    kept_back = plan.by_stage.get(ALLOCATOR_STAGE, 0)
    print(plan.peak_bytes, kept_back, measured(lambda: inferer(image, network)))
"""


def test_sums_are_one_window_thick() -> None:
    plan = SlidingWindowInferer((16, 16, 16)).plan(nn.Conv3d(1, 10, 1), (1, 1, 32, 64, 32))
    assert plan.axis == 1
    assert plan.by_stage["sums"] == 10 * 16 * 32 * 32 * 4


def test_a_whole_image_of_scores_is_its_own_sum() -> None:
    network, shape = nn.Conv3d(1, 10, 1), (1, 1, 32, 64, 32)
    scores = SlidingWindowInferer((16, 16, 16)).plan(network, shape, result=True).by_stage
    labels = SlidingWindowInferer((16, 16, 16), reduce="argmax").plan(network, shape, result=True).by_stage
    assert "sums" not in scores
    assert scores["result"] == 10 * 32 * 64 * 32 * 4
    assert labels["result"] == 32 * 64 * 32
    assert labels["sums"] == 10 * 16 * 32 * 32 * 4


def test_fewer_windows_at_a_time_keep_to_a_limit() -> None:
    network, shape = nn.Conv3d(1, 8, 1), (1, 1, 32, 32, 32)
    wanted = SlidingWindowInferer((16, 16, 16), sw_batch_size=8).plan(network, shape)
    one = SlidingWindowInferer((16, 16, 16)).plan(network, shape)
    limited = SlidingWindowInferer((16, 16, 16), 8, max_ram_bytes=wanted.peak_bytes - 1).plan(network, shape)
    assert wanted.details["windows_at_a_time"] == 8
    assert limited.details["windows_at_a_time"] == 4
    with pytest.raises(ResourceError, match="max_ram_bytes"):
        SlidingWindowInferer((16, 16, 16), 8, max_ram_bytes=one.peak_bytes - 1).plan(network, shape)


class LooksAtValues(nn.Module):
    """Does what no tensor without voxels can follow."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * float(image.mean())


def test_what_cannot_be_foreseen_is_said() -> None:
    plan = SlidingWindowInferer((4, 4)).plan(LooksAtValues(), (1, 1, 8, 8))
    assert "unknown" in plan.details
    with pytest.raises(ConfigError, match="cannot be foreseen"):
        SlidingWindowInferer((4, 4), max_ram_bytes=MIB).plan(LooksAtValues(), (1, 1, 8, 8))


@pytest.mark.slow
def test_the_peak_is_what_a_process_takes(peaks: Callable[..., list[Any]]) -> None:
    [peak] = peaks(PEAK)

    assert peak.holds(), peak
