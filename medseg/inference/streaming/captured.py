"""Graphs of networks, kept for as long as the network is there and stays as it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.inference.streaming.limits import require_streamable
from medseg.inference.streaming.simplify import Simplified, simplify
from medseg.network_graph import Graph, capture

__all__ = ["device_of", "local_graph", "simplified", "without_voxels"]

_SHAPES_KEPT = 16
_PLAIN = (bool, int, float, str, tuple, list, type(None))


@dataclass(frozen=True)
class _Entry:
    structure: Hashable
    graph: Graph


_GRAPHS: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], _Entry]] = WeakKeyDictionary()


def local_graph(network: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The graph of a network that can be streamed; of one that was seen before, as it was captured then.

    Weights may have changed since, for the graph has none. A network whose modules or their settings have
    changed is captured anew.

    Args:
        network: Takes one tensor and gives one.
        shape: Of its input, (B, C, X, Y[, Z]).

    Raises:
        ConfigError: It cannot be streamed; the error names the layer, or says what it gives.
        InputError: It does not take this shape, or cannot be captured.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"a {type(network).__name__} has no layers to look at",
            fix="give a torch.nn.Module to be streamed",
        )
    structure = _structure(network)
    known = _GRAPHS.setdefault(network, {})
    entry = known.pop(shape, None)
    if entry is None or entry.structure != structure:
        entry = _Entry(structure, capture(network, shape))
    known[shape] = entry  # the one used last stands last
    while len(known) > _SHAPES_KEPT:
        known.pop(next(iter(known)))
    require_streamable(entry.graph)
    return entry.graph


def simplified(network: nn.Module, shape: tuple[int, ...]) -> Simplified:
    """The network with its present weights, made ready to be streamed."""
    graph = local_graph(network, shape)
    return simplify(graph, dict(_weights(network)))


def without_voxels(network: nn.Module, shape: tuple[int, ...]) -> Simplified:
    """As :func:`simplified`, with weights that have shapes and no numbers: for planning."""
    graph = local_graph(network, shape)
    weights = {name: torch.empty_like(weight, device="meta") for name, weight in _weights(network)}
    return simplify(graph, weights)


def device_of(network: nn.Module, otherwise: torch.device) -> torch.device:
    """Where the network's weights lie."""
    return next((weight.device for _, weight in _weights(network)), otherwise)


def _weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, weight in (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ):
        yield name, weight.detach()


def _structure(network: nn.Module) -> Hashable:
    """What the graph depends on: modules, their settings, the shapes of weights; not the weights."""
    modules = tuple((name, type(module), _settings(vars(module))) for name, module in network.named_modules())
    return modules, tuple((name, weight.shape, weight.dtype) for name, weight in _weights(network))


def _settings(attributes: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, repr(value))
        for name, value in attributes.items()
        if isinstance(value, _PLAIN) and name != "training"
    )
