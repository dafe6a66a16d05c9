"""Which slices each layer makes when, and which it keeps for later: a stream's timetable, in whole numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from medseg.inference.slabs import slab_ranges
from medseg.network_graph import Graph, Node

__all__ = ["Move", "Schedule", "consumers", "make_schedule"]

_EAGER = ("max_pool_indices", "stored")
"""Kinds of layers that follow what they read at once, so that it need not be kept for them."""


@dataclass(frozen=True)
class Move:
    """What one layer does in one step.

    Attributes:
        name: The layer.
        start: First slice that it makes.
        stop: Behind the last one; equal to ``start`` where it makes none and only forgets some.
        keep: First slice that is still needed when the step is over; ``stop`` if none is.
    """

    name: str
    start: int
    stop: int
    keep: int


@dataclass(frozen=True)
class Schedule:
    """A timetable: reading the last layer from its first to its last slice drives everything.

    Attributes:
        graph: The layers.
        axis: The streaming axis, from 0.
        thickness: Slices of the output a step.
        steps: The moves of each step, in the order of evaluation.
        lags: For each layer and each that reads it, how many made slices wait for it, at most.
    """

    graph: Graph
    axis: int
    thickness: int
    steps: tuple[tuple[Move, ...], ...]
    lags: Mapping[tuple[str, str], int]

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Who reads each layer."""
        return consumers(self.graph)


def consumers(graph: Graph) -> dict[str, tuple[Node, ...]]:
    """Who reads each layer; of a layer that is read twice by the same one, it is named once."""
    found: dict[str, list[Node]] = {name: [] for name in graph.nodes}
    for node in graph.nodes.values():
        for source in dict.fromkeys(node.inputs):
            found[source].append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}


def make_schedule(graph: Graph, axis: int, thickness: int) -> Schedule:
    """The timetable for reading a graph's first output in slabs of ``thickness`` slices.

    Every slice of every layer is made once at most, when a slice of the output needs it. What a layer made
    is kept until the slowest of those that read it has passed.

    Args:
        graph: Of layers that are local along ``axis``.
        axis: Spatial axis, from 0.
        thickness: Slices of the output a step.

    Example:
        >>> from torch import nn
        >>> from medseg.network_graph import capture
        >>> graph = capture(nn.Conv2d(1, 1, 3, padding=1), (1, 1, 6, 4))
        >>> for moves in make_schedule(graph, axis=0, thickness=3).steps:
        ...     print([(move.start, move.stop, move.keep) for move in moves])
        [(0, 4, 2), (0, 3, 3)]
        [(4, 6, 6), (3, 6, 6)]
    """
    timetable = _Timetable(graph, axis)
    return Schedule(graph, axis, thickness, tuple(timetable.steps(thickness)), timetable.lags)


class _Timetable:
    def __init__(self, graph: Graph, axis: int) -> None:
        self._output = graph.outputs[0]
        self._order = graph.ancestors(self._output)
        self._axis = axis
        self._length = {node.name: node.size[axis] for node in self._order}
        self._readers = consumers(graph)
        self._done: dict[str, int] = {}
        self._begun: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self.lags: dict[tuple[str, str], int] = {}

    def steps(self, thickness: int) -> Sequence[tuple[Move, ...]]:
        return [self._step(*slab) for slab in slab_ranges(self._length[self._output], thickness)]

    def _step(self, start: int, stop: int) -> tuple[Move, ...]:
        made = self._made(start, stop)
        for name, (first, last) in made.items():
            self._begun.setdefault(name, first)
            self._done[name] = last
        moves = []
        for node in self._order:
            if node.name not in self._done:
                continue
            done, keep = self._done[node.name], self._keep(node.name)
            if node.name in made or keep != self._kept.get(node.name):
                moves.append(Move(node.name, *made.get(node.name, (done, done)), keep))
            self._kept[node.name] = keep
        return tuple(moves)

    def _made(self, start: int, stop: int) -> dict[str, tuple[int, int]]:
        """What every layer has to make so that the output gets its slices [start, stop)."""
        wanted = {self._output: (start, stop)}
        made: dict[str, tuple[int, int]] = {}
        for node in reversed(self._order):
            if node.name not in wanted:
                continue
            first, last = wanted[node.name]
            first = self._done.get(node.name, first)
            if first >= last:
                continue
            made[node.name] = (first, last)
            for source in node.inputs:
                needed = node.ranges[self._axis].reads(first, last, self._length[source])
                if needed[0] < needed[1]:
                    here = wanted.get(source, needed)
                    wanted[source] = (min(here[0], needed[0]), max(here[1], needed[1]))
        for node in self._order:
            if node.kind in _EAGER and node.inputs[0] in made:
                first, last = made[node.inputs[0]]
                made[node.name] = (self._done.get(node.name, first), last)
        return made

    def _keep(self, name: str) -> int:
        keep = self._done[name]
        for reader in self._readers[name]:
            first = self._still_read(name, reader)
            edge = name, reader.name
            self.lags[edge] = max(self.lags.get(edge, 0), self._done[name] - first)
            keep = min(keep, first)
        return keep

    def _still_read(self, name: str, reader: Node) -> int:
        """The first slice that ``reader`` has yet to read; what is made so far if it needs none of that."""
        made = self._done[name]
        if reader.name not in self._length:
            return made  # it leads to another output
        if reader.name not in self._done:
            return self._begun[name]
        done, end = self._done[reader.name], self._length[reader.name]
        if done >= end:
            return made
        first, last = reader.ranges[self._axis].reads(done, end, self._length[name])
        return min(first, made) if first < last else made
