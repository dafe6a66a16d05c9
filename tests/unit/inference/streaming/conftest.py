"""What all tests of streaming run networks with."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medseg.inference.streaming.engine import Stream
from medseg.inference.streaming.schedule import make_schedule
from medseg.inference.streaming.simplify import simplify
from medseg.inference.streaming.tails import with_half_tails
from medseg.network_graph import capture


def _stream(
    network: nn.Module,
    images: Tensor,
    axis: int,
    thickness: int,
    *,
    first: int | None = None,
    dtype: torch.dtype = torch.float32,
    half_tails: bool = False,
) -> Tensor:
    graph = capture(network, images.shape)
    tensors = {name: value.detach() for name, value in network.state_dict(keep_vars=True).items()}
    simplified = simplify(graph, tensors)
    schedule = make_schedule(simplified.graph, axis, thickness, first)
    if half_tails:
        schedule = make_schedule(with_half_tails(schedule), axis, thickness, first)
    dims = graph.spatial_dims
    order = (axis, *(other for other in range(dims) if other != axis))
    turned = images.permute(0, 1, *(2 + entry for entry in order))
    asked, original, slabs = [0], images.clone(), []

    def read(start: int, stop: int) -> Tensor:
        assert asked[-1] <= start < stop, "slices are asked for in order, each once"
        asked.append(stop)
        return turned.narrow(2, start, stop - start)

    given = 0
    with torch.inference_mode():
        for start, slab in Stream(simplified, schedule, order, dtype).slabs(read, images.device):
            assert start == given, "slabs follow each other"
            behind = slab.ndim - dims
            given += slab.shape[behind]
            slabs.append(slab.clone())
            slab.fill_(math.nan if slab.is_floating_point() else 77)
    assert torch.equal(images, original), "the input is left as it is"
    back = [behind + order.index(entry) for entry in range(dims)]
    return torch.cat(slabs, dim=behind).permute(*range(behind), *back)


@pytest.fixture(scope="session")
def streamed() -> Callable[..., Tensor]:
    """Runs a network over images in slabs along an axis, and checks that the stream keeps its promises."""
    return _stream
