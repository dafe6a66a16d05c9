"""Skip connections kept in half precision while they wait."""

from __future__ import annotations

from dataclasses import replace

import torch

from medseg.inference.streaming.schedule import Schedule
from medseg.network_graph import Graph, Node
from medseg.ranges import Pointwise

__all__ = ["with_half_tails"]


def with_half_tails(schedule: Schedule) -> Graph:
    """The graph with a layer that rounds to half precision before every reader that lags behind.

    A reader that lags reads rounded values always, whether they have waited or not: what comes out does not
    depend on where slabs begin.

    Args:
        schedule: Tells which readers lag: those for which a layer keeps more than a slab beyond what its
            fastest reader needs.
    """
    graph = schedule.graph
    late = _late_readers(schedule)
    nodes: dict[str, Node] = {}
    for name, node in graph.nodes.items():
        inputs = tuple(
            _half_name(source) if node.name in late.get(source, ()) else source for source in node.inputs
        )
        nodes[name] = replace(node, inputs=inputs)
        if name in late:
            nodes[_half_name(name)] = replace(
                node,
                name=_half_name(name),
                kind="stored",
                inputs=(name,),
                dtype=torch.float16,
                ranges=(Pointwise(),) * graph.spatial_dims,
                options={},
                weights={},
                derived=(),
                parameter_count=0,
            )
    return Graph(nodes, graph.input, graph.outputs)


def _half_name(name: str) -> str:
    return f"{name}#half"


def _late_readers(schedule: Schedule) -> dict[str, set[str]]:
    late: dict[str, set[str]] = {}
    for name, node in schedule.graph.nodes.items():
        lags = {reader: lag for (source, reader), lag in schedule.lags.items() if source == name}
        if (
            len(lags) < 2
            or node.dtype not in (torch.float32, torch.bfloat16)
            or node.kind == "max_pool_indices"
        ):
            continue
        fastest = min(lags.values())
        slow = {reader for reader, lag in lags.items() if lag - fastest > schedule.thickness}
        if slow:
            late[name] = slow
    return late
