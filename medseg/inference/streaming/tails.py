"""Skip connections kept in half precision while they wait."""

from __future__ import annotations

from dataclasses import replace

import torch

from medseg.inference.streaming.schedule import Schedule, make_schedule
from medseg.network_graph import Graph, Node
from medseg.ranges import Pointwise

__all__ = ["with_half_tails"]


_MARGIN = 8
"""Slices by which a reader may fall behind the fastest one before what waits for it is rounded."""


def with_half_tails(schedule: Schedule) -> Graph:
    """The graph with a layer that rounds to half precision before every reader that lags behind.

    A reader that lags reads rounded values always, whether they have waited or not, and who lags is told by
    the layers alone: what comes out depends neither on where slabs begin nor on how thick they are.

    Args:
        schedule: Of the graph, along the axis that is streamed.
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
    """By layer, those that read it so much later than its fastest reader that it has to wait for them."""
    graph, lags = schedule.graph, make_schedule(schedule.graph, schedule.axis, _MARGIN).lags
    late: dict[str, set[str]] = {}
    for name, node in graph.nodes.items():
        if not node.dtype.is_floating_point:
            continue
        behind = {reader: lag for (source, reader), lag in lags.items() if source == name}
        slow = {reader for reader, lag in behind.items() if lag - min(behind.values()) > _MARGIN}
        if slow:
            late[name] = slow
    return late
