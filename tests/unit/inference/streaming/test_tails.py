"""Skip connections that wait in half precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medseg.inference.streaming.schedule import consumers, make_schedule
from medseg.inference.streaming.simplify import simplify
from medseg.inference.streaming.tails import with_half_tails
from medseg.network_graph import capture
from medseg.networks import build_network

SHAPE = (1, 1, 96, 16)


def unet() -> nn.Module:
    torch.manual_seed(0)
    return build_network("unet", 2, 1, 3, features=(4, 6, 8, 10)).eval()


def test_only_readers_that_lag_read_rounded_values() -> None:
    network = unet()
    graph = simplify(capture(network, SHAPE), dict(network.state_dict())).graph
    halved = with_half_tails(make_schedule(graph, axis=0, thickness=4))
    stored = [node for node in halved.nodes.values() if node.kind == "stored"]
    # The skips of the two finest levels lag by more than a slab, the coarsest reads what was just made.
    assert len(stored) >= 2
    lags = make_schedule(graph, axis=0, thickness=4).lags
    for node in stored:
        (source,) = node.inputs
        rounded = {reader.name for reader in consumers(halved)[node.name]}
        direct = {reader.name for reader in consumers(halved)[source]} - {node.name}
        assert rounded
        assert direct
        assert min(lags[source, name] for name in rounded) > max(lags[source, name] for name in direct)
    # Nothing else has changed.
    assert {name for name in halved.nodes if not name.endswith("#half")} == set(graph.nodes)


def test_results_depend_on_no_slab_and_are_as_near_as_half_precision(streamed: Callable[..., Tensor]) -> None:
    network, images = unet(), torch.randn(SHAPE)
    with torch.no_grad():
        whole = network(images)
    span = whole.max() - whole.min()
    results = [
        streamed(network, images, 0, thickness, first=first, half_tails=True)
        for thickness, first in ((1, None), (5, 2), (16, None), (16, 7), (96, None))
    ]
    for other in results[1:]:
        assert (other - results[0]).abs().max() <= 1e-5 * span
    error = (results[0] - whole).abs().max() / span
    assert 1e-6 < error < 4 * torch.finfo(torch.float16).eps


def test_short_networks_have_no_tails() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    schedule = make_schedule(capture(network, SHAPE), axis=0, thickness=4)
    assert dict(with_half_tails(schedule).nodes) == dict(schedule.graph.nodes)


def test_values_beyond_half_precision_are_its_largest(streamed: Callable[..., Tensor]) -> None:
    class Skip(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            first = images * 1e5
            late = nn.functional.max_pool2d(first, (31, 1), stride=1, padding=(15, 0))
            return 0.0 * first + 1e-5 * late

    images = torch.full((1, 1, 64, 2), 3.0)
    halved = streamed(Skip(), images, 0, 4, half_tails=True)
    torch.testing.assert_close(halved, torch.full_like(images, 0.65504))
