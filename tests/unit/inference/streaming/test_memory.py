"""The books of a stream against what PyTorch is asked for while it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from medseg.inference.allocator import ALLOCATOR_STAGE
from medseg.inference.slabs import MemoryPlan
from medseg.inference.streaming import StreamingInferer
from medseg.inference.streaming.captured import without_voxels
from medseg.inference.streaming.memory import Receiver, measure_schedule
from medseg.inference.streaming.schedule import make_schedule
from medseg.networks import build_network

NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"features": (8, 12, 16)},
    "segnet": {"features": (8, 12)},
    "dilated": {},
    "refinenet": {"features": (8, 12, 16)},
    "fc_densenet": {"base_features": 16, "growth_rate": 8, "layers": 2, "strides": (2, 2)},
}

# Elsewhere PyTorch computes it by routines of its own, which take memory in other ways.
IN_HARDWARE = torch.ops.mkldnn._is_mkldnn_bf16_supported()
PRECISIONS = [
    "fp32",
    pytest.param("bf16", marks=pytest.mark.skipif(not IN_HARDWARE, reason="bfloat16 is emulated here")),
]


def allocated_peak(inferer: StreamingInferer, image: Tensor, network: nn.Module) -> int:
    """Bytes that live at the fullest moment of a call; what is made and never written to counts as well."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        inferer(image, network)
    live = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def planned_and_allocated(inferer: StreamingInferer, image: Tensor, network: nn.Module) -> tuple[int, int]:
    """Bytes, without what the system's allocator keeps back; of a network that has run before."""
    inferer(image[:, :, :8], network)
    plan = inferer.plan(network, image.shape, result=True)
    return plan.peak_bytes - plan.by_stage[ALLOCATOR_STAGE], allocated_peak(inferer, image, network)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_books_agree_with_what_is_allocated(name: str, precision: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 3, 1, 3, **NETWORKS[name]).eval()
    image = torch.randn(1, 1, 64, 56, 48)
    inferer = StreamingInferer(axis=0, slab=4, reduce="argmax", precision=precision)
    planned, allocated = planned_and_allocated(inferer, image, network)
    assert planned == pytest.approx(allocated, rel=0.2)


class PooledWithIndices(nn.Module):
    """Nothing in it takes more than the pooling does."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv3d(1, 16, 1)
        self.pool = nn.MaxPool3d(2, return_indices=True)
        self.narrow = nn.Conv3d(16, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        values, places = self.pool(self.widen(images))
        return self.narrow(values) + places[:, :1].to(values.dtype)


# Along another axis than the first, pooling with indices is computed in another order of memory.
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_books_of_a_pooling_with_indices(axis: int, precision: str) -> None:
    network, image = PooledWithIndices().eval(), torch.randn(1, 1, 48, 40, 32)
    inferer = StreamingInferer(axis=axis, slab=4, precision=precision)
    planned, allocated = planned_and_allocated(inferer, image, network)
    assert planned == pytest.approx(allocated, rel=0.05)


def plan_of(network: nn.Module, length: int, **options: Any) -> MemoryPlan:
    return StreamingInferer(axis=0, **options).plan(network, (1, 1, length, 32, 32))


def test_length_of_the_volume_does_not_matter() -> None:
    network = build_network("unet", 3, 1, 3, features=(4, 6))
    assert plan_of(network, 64, slab=4).peak_bytes == plan_of(network, 1024, slab=4).peak_bytes


def test_hand_computed_books_of_one_convolution() -> None:
    network = without_voxels(nn.Conv2d(1, 2, 3, padding=1, bias=False), (1, 1, 6, 10))
    memory = measure_schedule(
        make_schedule(network.graph, 0, 2), receiver=Receiver(kept_bytes=7, fixed_bytes=100)
    )
    # First of three steps: 3 input slices of 10 voxels are there and a ring for the 2 that will be kept, 4
    # are brought together, 2 slices of 20 made, 18 weights reordered, all of 4 bytes; none is received yet.
    assert memory.tails_bytes == 4 * (5 * 10)
    assert memory.gathered_bytes == 4 * (4 * 10)
    assert memory.work_bytes == 4 * (2 * 20 + 18)
    assert memory.received_bytes == 100


def test_skips_that_are_in_half_precision_anyway_are_not_rounded() -> None:
    network = build_network("unet", 3, 1, 2, features=(8, 8, 8)).eval()

    def chosen(precision: str) -> MemoryPlan:
        shape = (1, 1, 64, 64, 64)
        free = StreamingInferer(axis=0, slab=1, precision=precision).plan(network, shape)
        limit = int(0.97 * free.peak_bytes)
        return StreamingInferer(axis=0, precision=precision, max_ram_bytes=limit).plan(network, shape)

    assert chosen("fp32").details["half_tails"]
    halves = chosen("bf16")
    assert halves.tiles
    assert not halves.details["half_tails"]


def test_half_precision_takes_half() -> None:
    network = build_network("unet", 3, 1, 3, features=(8, 12))
    halves = (plan_of(network, 64, slab=4, precision=name).peak_bytes for name in ("bf16", "fp32"))
    small, large = halves
    assert 0.45 < small / large < 0.75
