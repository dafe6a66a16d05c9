"""Which slices each layer makes when, and which it keeps for later: a stream's timetable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from medseg.inference.slabs import slab_ranges
from medseg.network_graph import Graph, Node
from medseg.ranges import Slices

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
        steps: The moves of each step, in the order of evaluation. Steps that bring the input forward until
            there is enough for the next slab make nothing of the output.
        lags: For each layer and each that reads it, how many made slices wait for it, at most.
    """

    graph: Graph
    axis: int
    thickness: int
    steps: tuple[tuple[Move, ...], ...]
    lags: Mapping[tuple[str, str], int]

    @cached_property
    def rooms(self) -> Mapping[str, int]:
        """For each layer, how many slices are kept from one step for later ones, at most."""
        rooms: dict[str, int] = {}
        for moves in self.steps:
            for move in moves:
                rooms[move.name] = max(rooms.get(move.name, 0), move.stop - move.keep)
        return rooms

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


def make_schedule(graph: Graph, axis: int, thickness: int, first: int | None = None) -> Schedule:
    """The timetable for reading a graph's first output in slabs of ``thickness`` slices.

    Every slice of every layer is made once at most, when a slice of the output needs it. What a layer made
    is kept until the slowest of those that read it has passed.

    Args:
        graph: Of layers that are local along ``axis``.
        axis: Spatial axis, from 0.
        thickness: Slices of the output a step.
        first: Slices of the output in the first step, if fewer.

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
    return Schedule(graph, axis, thickness, tuple(timetable.steps(thickness, first)), timetable.lags)


class _Timetable:
    def __init__(self, graph: Graph, axis: int) -> None:
        self._input, self._output = graph.input, graph.outputs[0]
        self._order = graph.ancestors(self._output)
        self._axis = axis
        self._length = {node.name: node.size[axis] for node in self._order}
        self._readers = consumers(graph)
        self._done: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        # What the whole output needs of each layer: where the layer begins, and where it may end.
        self._needed: dict[str, Slices] = {}
        self._needed = self._made(0, self._length[self._output])
        self.lags: dict[tuple[str, str], int] = {}

    def steps(self, thickness: int, first: int | None) -> Sequence[tuple[Move, ...]]:
        slabs = slab_ranges(self._length[self._output], thickness, first)
        return [self._moves(part) for slab in slabs for part in self._parts(self._made(*slab), thickness)]

    def _moves(self, made: Mapping[str, Slices]) -> tuple[Move, ...]:
        for name, (_, last) in made.items():
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

    def _parts(self, made: dict[str, Slices], thickness: int) -> Iterator[dict[str, Slices]]:
        """What is to be made, in parts for each of which the input goes on by about a slab.

        The first slab of the output needs many slices of the input, and with strides so do some of the
        others: made at once they would take more memory than all that is kept later.
        """
        first, last = made.get(self._input, (0, 0))
        pace = math.ceil(thickness * self._length[self._input] / self._length[self._output])
        done = {name: start for name, (start, _) in made.items()}
        for reached in range(first + pace, last - pace + 1, pace):
            yield self._as_far_as(reached, made, done)
        yield {name: (done[name], stop) for name, (_, stop) in made.items() if done[name] < stop}

    def _as_far_as(self, reached: int, made: Mapping[str, Slices], done: dict[str, int]) -> dict[str, Slices]:
        """What of ``made`` the input's slices before ``reached`` are enough for; not the output's."""
        part: dict[str, Slices] = {}
        for node in self._order:
            if node.name not in made or node.name == self._output:
                continue
            start, stop = done[node.name], made[node.name][1]
            if node.name == self._input:
                stop = min(stop, reached)
            else:
                short = (last for last in range(start, stop) if not self._is_at_hand(node, last, done))
                stop = next(short, stop)
            if start < stop:
                part[node.name] = start, stop
                done[node.name] = stop
        return part

    def _is_at_hand(self, node: Node, index: int, done: Mapping[str, int]) -> bool:
        """Whether all is made that one slice of a layer reads."""
        for source in node.inputs:
            first, last = node.ranges[self._axis].reads(index, index + 1, self._length[source])
            if first < last > done.get(source, self._done.get(source, 0)):
                return False
        return True

    def _made(self, start: int, stop: int) -> dict[str, Slices]:
        """What every layer has to make so that the output gets its slices [start, stop)."""
        wanted = {self._output: (start, stop)}
        made: dict[str, Slices] = {}
        for node in reversed(self._order):
            if node.name not in wanted:
                continue
            first, last = self._from_where_it_stands(node.name, wanted[node.name])
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
                made[node.name] = self._from_where_it_stands(node.name, made[node.inputs[0]])
        return made

    def _from_where_it_stands(self, name: str, wanted: Slices) -> Slices:
        """A layer goes on where it stopped, and begins with the first slice that anyone will ever read."""
        begin, _ = self._needed.get(name, wanted)
        return self._done.get(name, begin), wanted[1]

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
        if reader.name not in self._needed:
            return made  # it leads to another output, or looks at padding alone
        begin, end = self._needed[reader.name]
        done = self._done.get(reader.name, begin)
        if done >= end:
            return made
        first, last = reader.ranges[self._axis].reads(done, end, self._length[name])
        return min(first, made) if first < last else made
