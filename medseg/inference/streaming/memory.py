"""How much memory a stream takes, before the first voxel is read."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from medseg.inference.streaming.chunks import stays_in_place
from medseg.inference.streaming.schedule import Move, Schedule
from medseg.network_graph import Node
from medseg.ranges import Window

__all__ = ["StreamMemory", "measure_schedule", "readers_in_step"]

_ALWAYS_COPIED = ("interpolation", "max_unpool", "pad", "average_pool")
_NEVER_COPIED = ("input", "constant", "max_pool_indices")


@dataclass(frozen=True)
class StreamMemory:
    """What a stream holds at its fullest moment.

    Attributes:
        peak_bytes: All layers' slices together, and what the layer at work copies and makes.
        peak_layer: The layer at work at that moment.
        tails_bytes: Between two steps, at most.
        by_layer: The most that each layer holds.
    """

    peak_bytes: int
    peak_layer: str
    tails_bytes: int
    by_layer: Mapping[str, int]


def measure_schedule(schedule: Schedule, dtype: torch.dtype | None = None) -> StreamMemory:
    """Follow a timetable and add up what is held.

    Args:
        schedule: The timetable.
        dtype: What layers of floating point compute in, if it is another than they were captured in.
    """
    return _Account(schedule, dtype).follow()


class _Account:
    """Keeps the books of a stream: which slices of which layer lie in which piece."""

    def __init__(self, schedule: Schedule, dtype: torch.dtype | None) -> None:
        self._schedule = schedule
        self._dtype = dtype
        axis = schedule.axis
        nodes = schedule.graph.nodes.values()
        self._slice_bytes = {node.name: _bytes_of(node, dtype) // max(1, node.size[axis]) for node in nodes}
        self._pieces: dict[str, deque[tuple[int, int]]] = {node.name: deque() for node in nodes}
        self._peak, self._at, self._tails = 0, "", 0
        self._most: dict[str, int] = {}

    def follow(self) -> StreamMemory:
        for moves in self._schedule.steps:
            self._step(moves)
            self._tails = max(self._tails, self._held())
        return StreamMemory(self._peak, self._at, self._tails, dict(self._most))

    def _step(self, moves: tuple[Move, ...]) -> None:
        nodes = self._schedule.graph.nodes
        keeps = {move.name: move.keep for move in moves}
        waiting = readers_in_step(self._schedule, moves)
        output = self._schedule.graph.outputs[0]
        for move in moves:
            if move.start == move.stop:
                continue
            node, pieces = nodes[move.name], self._pieces[move.name]
            pieces.append((move.start, move.stop))
            self._note(node, self._held() + self._copied(node, move))
            for source in dict.fromkeys(node.inputs):
                waiting[source] -= 1
                if waiting[source] == 0 and source in keeps:
                    self._forget(source, keeps[source])
            if not waiting.get(move.name) and move.name != output:
                self._forget(move.name, move.keep)
        for name, keep in keeps.items():
            self._forget(name, keep)

    def _copied(self, node: Node, move: Move) -> int:
        """What a layer brings together for the time of its work."""
        if node.kind in _NEVER_COPIED:
            return 0
        needs = node.ranges[self._schedule.axis]
        nodes = self._schedule.graph.nodes
        length = nodes[node.inputs[0]].size[self._schedule.axis]
        first, last = (
            needs.needs(move.start, move.stop)
            if isinstance(needs, Window)
            else needs.reads(move.start, move.stop, length)
        )
        together = node.kind == "convolution" and len(node.inputs) > 1
        copied = 0
        for source in node.inputs:
            if together or node.kind in _ALWAYS_COPIED or not self._lies_in_one_piece(source, first, last):
                copied += (last - first) * self._slice_bytes[source]
        return copied

    def _lies_in_one_piece(self, name: str, start: int, stop: int) -> bool:
        node = self._schedule.graph.nodes[name]
        if node.kind == "stored":
            return False
        return any(first <= start and stop <= last for first, last in self._pieces[name])

    def _held(self) -> int:
        return sum(self._held_by(name) for name in self._pieces)

    def _held_by(self, name: str) -> int:
        return sum(stop - start for start, stop in self._pieces[name]) * self._slice_bytes[name]

    def _forget(self, name: str, keep: int) -> None:
        self._most[name] = max(self._most.get(name, 0), self._held_by(name))
        pieces = self._pieces[name]
        while pieces and pieces[0][1] <= keep:
            pieces.popleft()
        if pieces and not stays_in_place(*pieces[0], keep):
            pieces[0] = keep, pieces[0][1]

    def _note(self, node: Node, total: int) -> None:
        if total > self._peak:
            self._peak, self._at = total, node.title


def readers_in_step(schedule: Schedule, moves: Sequence[Move]) -> dict[str, int]:
    """How many of a step's layers read each layer."""
    counts: dict[str, int] = {}
    for move in moves:
        if move.start == move.stop:
            continue
        for source in dict.fromkeys(schedule.graph.nodes[move.name].inputs):
            counts[source] = counts.get(source, 0) + 1
    return counts


def _bytes_of(node: Node, dtype: torch.dtype | None) -> int:
    width = node.dtype.itemsize
    if dtype is not None and node.dtype.is_floating_point and node.kind != "stored":
        width = dtype.itemsize
    return math.prod(node.shape) * width
