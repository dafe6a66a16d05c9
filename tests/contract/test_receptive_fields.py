"""Computed receptive fields and halos against measured ones, over the whole registry.

Measured: one input voxel is made NaN, for every phase of the stride, and the output voxels that change are
marked. NaN passes through everything, weights that are zero included. What it cannot show alone is where
unpooling *would* have put values: a NaN in a pooling's window takes the maximum's place, and the voxel that
held it loses its value without becoming NaN. A voxel is therefore marked if it differs at all from the same
network's output without the NaN, and networks that unpool are measured on several random images, so that
every voxel of a window is the maximum of some channel at some place.
"""

from __future__ import annotations

import functools
import runpy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medseg.errors import ConfigError
from medseg.networks import receptive_field, summarize
from medseg.networks.summary import NetworkSummary

SUITE: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("test_networks.py")))
build, CHANNELS = SUITE["build"], SUITE["IN_CHANNELS"]

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")

every_network = pytest.mark.parametrize(
    ("name", "dims"), SUITE["CASES"], ids=[f"{name}-{dims}d" for name, dims in SUITE["CASES"]]
)

SIDE = 4
"""Voxels along the axes that are not being measured."""

SIDE_FOR_UNPOOLING, IMAGES_FOR_UNPOOLING = 8, 4


@pytest.fixture(autouse=True)
def plain_convolutions() -> Iterator[None]:
    """Without algorithms that share work between neighbouring voxels, and so their NaNs."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@functools.cache
def summary_of(name: str, dims: int) -> NetworkSummary:
    return summarize(build(name, dims), (1, CHANNELS, *(32,) * dims))


def measured(network: nn.Module, summary: NetworkSummary, axis: int) -> tuple[int, int]:
    """Receptive field and reach along one axis; the computed ones only tell how much room to give."""
    dims, period = len(summary.total_stride), summary.total_stride[axis]
    assert summary.halo
    room = -(-(summary.halo[axis] + 2) // period) * period + period
    unpools = any(layer.kind == "max_unpool" for layer in summary.layers)
    size = [SIDE_FOR_UNPOOLING if unpools else SIDE] * dims
    size[axis] = 2 * room + period
    marked = torch.zeros(period, size[axis], dtype=torch.bool)
    for seed in range(IMAGES_FOR_UNPOOLING if unpools else 1):
        image = torch.randn(1, CHANNELS, *size, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            marked |= changed(network, image, axis, range(room, room + period))
    # Seen from each phase of the output: where are the voxels that reach it?
    sources: dict[int, set[int]] = defaultdict(set)
    for phase in range(period):
        voxels = marked[phase].nonzero().ravel().tolist()
        assert voxels[0] > 0, "the room is too small: the reach is larger than computed"
        assert voxels[-1] < size[axis] - 1, "the room is too small: the reach is larger than computed"
        for voxel in voxels:
            sources[voxel % period].add(room + phase - voxel)
    fields = [max(offsets) - min(offsets) + 1 for offsets in sources.values()]
    return max(fields), max(abs(offset) for offsets in sources.values() for offset in offsets)


def changed(network: nn.Module, image: Tensor, axis: int, positions: range) -> Tensor:
    """For a NaN at each of ``positions`` along ``axis``, which slices of the output change."""
    # As large a batch, for the order of sums may depend on its size, and with it the last digit.
    clean = image.repeat(len(positions), *[1] * (image.ndim - 1))
    batch = clean.clone()
    for index, position in enumerate(positions):
        voxel = [side // 2 for side in image.shape[2:]]
        voxel[axis] = position
        batch[(index, slice(None), *voxel)] = torch.nan
    differs = network(batch) != network(clean)
    return differs.movedim(2 + axis, 2).flatten(3).any(-1).any(1)


@every_network
def test_measured_equals_computed(name: str, dims: int) -> None:
    network, summary = build(name, dims).eval(), summary_of(name, dims)
    if summary.whole_layers:
        with pytest.raises(ConfigError, match="looks at the"):
            receptive_field(network, dims)
        return
    assert summary.receptive_field
    assert summary.halo
    for axis in range(dims):
        assert measured(network, summary, axis) == (summary.receptive_field[axis], summary.halo[axis])


@every_network
def test_the_rows_of_the_table_add_up(name: str, dims: int) -> None:
    summary = summary_of(name, dims)
    # The heads of deep supervision have no part in the one output.
    used = [entry for key, entry in build(name, dims).named_parameters() if not key.startswith("deep_heads")]
    assert sum(layer.parameters for layer in summary.layers) == sum(entry.numel() for entry in used) > 0
    assert sum(layer.multiply_adds for layer in summary.layers) == summary.multiply_adds > 0
    fields = [layer.receptive_field for layer in summary.layers]
    assert (None in fields) == bool(summary.whole_layers)
    assert fields[-1] == summary.receptive_field


@every_network
def test_counted_multiply_adds_are_those_of_a_run(name: str, dims: int) -> None:
    network, summary = build(name, dims).eval(), summary_of(name, dims)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network.to("meta")(torch.empty(summary.shape))
    assert counter.get_total_flops() == 2 * summary.multiply_adds


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_over_the_image_are_named(norm: str, dims: int) -> None:
    network = build("unet", dims, norm=norm)
    with pytest.raises(ConfigError, match=rf"'encoder\.levels\.0\.convs\.0\.norm': {norm}_norm looks at the"):
        receptive_field(network, dims)
