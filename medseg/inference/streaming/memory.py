"""How much memory a stream takes, before the first voxel is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from medseg.inference.streaming.schedule import Move, Schedule
from medseg.inference.streaming.workspaces import made_slices, workspace_bytes
from medseg.network_graph import Node
from medseg.ranges import Window

__all__ = ["Receiver", "StreamMemory", "measure_schedule", "readers_in_step"]

_ALWAYS_COPIED = ("interpolation", "max_unpool", "pad", "average_pool")
_TURNED = ("stored", "max_unpool")
"""Read in another type or order of memory than they are held in."""
_NEVER_COPIED = ("input", "constant", "max_pool_indices")
_FOR_NOW = ("convolution", "transposed_convolution", "max_pool", "average_pool")
"""Those that bring together what they read in memory that all of them share."""


@dataclass(frozen=True)
class Receiver:
    """What whoever takes the output holds, beside the stream.

    Attributes:
        kept_bytes: Per slice of the output that was given: a result that fills up.
        passing_bytes: Per slice of a slab while it is taken over, before the next one is computed.
        lingering_bytes: Per slice of a slab that is still held while the next one is computed.
        fixed_bytes: From the beginning.
    """

    kept_bytes: int = 0
    passing_bytes: int = 0
    lingering_bytes: int = 0
    fixed_bytes: int = 0


@dataclass(frozen=True)
class StreamMemory:
    """What a stream and its receiver hold at their fullest moment.

    Attributes:
        tails_bytes: All layers' slices that were made before the layer at work began.
        gathered_bytes: The memory in which layers bring together what they read: as large as the largest of
            them has needed so far.
        work_bytes: What that layer works with, and makes.
        received_bytes: What the receiver holds.
        peak_layer: The layer at work at that moment; empty if it is the receiver.
        by_layer: The most that each layer holds.
    """

    tails_bytes: int
    gathered_bytes: int
    work_bytes: int
    received_bytes: int
    peak_layer: str
    by_layer: Mapping[str, int]

    @property
    def peak_bytes(self) -> int:
        """All together."""
        return self.tails_bytes + self.gathered_bytes + self.work_bytes + self.received_bytes


def measure_schedule(
    schedule: Schedule, dtype: torch.dtype | None = None, receiver: Receiver | None = None
) -> StreamMemory:
    """Follow a timetable and add up what is held.

    Args:
        schedule: The timetable.
        dtype: What layers of floating point compute in, if it is another than they were captured in.
        receiver: What becomes of the output; nothing by default.
    """
    return _Account(schedule, dtype, receiver or Receiver()).follow()


class _Account:
    """Keeps the books of a stream: of each layer what was made just now, and the ring of what is kept."""

    def __init__(self, schedule: Schedule, dtype: torch.dtype | None, receiver: Receiver) -> None:
        self._schedule = schedule
        self._dtype = dtype
        self._receiver = receiver
        axis, nodes = schedule.axis, schedule.graph.nodes
        self._slice_bytes = {
            name: _bytes_of(node, dtype) // max(1, node.size[axis]) for name, node in nodes.items()
        }
        self._fresh = dict.fromkeys(nodes, 0)
        self._rings = dict.fromkeys(nodes, 0)
        self._held = 0
        self._output = schedule.graph.outputs[0]
        self._received = receiver.fixed_bytes
        self._lingering = 0
        self._scratch = 0
        self._made_now: dict[str, Move] = {}
        self._peak = StreamMemory(0, 0, 0, 0, "", {})
        self._most: dict[str, int] = {}

    def follow(self) -> StreamMemory:
        for moves in self._schedule.steps:
            self._step(moves)
        return replace(self._peak, by_layer=dict(self._most))

    def _step(self, moves: tuple[Move, ...]) -> None:
        keeps = {move.name for move in moves}
        waiting = readers_in_step(self._schedule, moves)
        slab = Move(self._output, 0, 0, 0)
        for move in moves:
            if move.start == move.stop:
                continue
            node = self._schedule.graph.nodes[move.name]
            self._make(node, move)
            for source in dict.fromkeys(node.inputs):
                waiting[source] -= 1
                if waiting[source] == 0 and source in keeps:
                    self._forget(source)
            if move.name == self._output:
                slab = move
            elif not waiting.get(move.name):
                self._forget(move.name)
        for name in keeps:
            self._forget(name)
        self._hand_over(slab.stop - slab.start)

    def _make(self, node: Node, move: Move) -> None:
        before = self._held
        axis = self._schedule.axis
        sources = [self._schedule.graph.nodes[name] for name in node.inputs]
        first, last = self._read_by(node, move)
        made = made_slices(node, axis, move.start, move.stop, first, last)
        room = self._schedule.rooms.get(node.name, 0)
        self._held += (made + room - self._rings[node.name]) * self._slice_bytes[node.name]
        self._fresh[node.name] += made
        self._made_now[node.name] = move
        self._rings[node.name] = room
        gathered = self._gathered(node, first, last)
        if node.kind in _FOR_NOW:
            self._scratch = max(self._scratch, gathered)
            gathered = 0
        work = gathered + self._held - before
        width = self._width(node)
        work += workspace_bytes(node, sources, axis, last - first, move.stop - move.start, width)
        self._note(before, work, node.title)

    def _hand_over(self, slices: int) -> None:
        receiver = self._receiver
        given = slices * self._slice_bytes[self._output]
        self._received += slices * receiver.kept_bytes
        self._note(self._held, given, "", slices * receiver.passing_bytes)
        self._lingering = slices * receiver.lingering_bytes

    def _read_by(self, node: Node, move: Move) -> tuple[int, int]:
        """The slices that a layer reads, with those beyond the ends where it is given those too."""
        if not node.inputs:
            return 0, 0
        needs = node.ranges[self._schedule.axis]
        if isinstance(needs, Window):
            return needs.needs(move.start, move.stop)
        length = self._schedule.graph.nodes[node.inputs[0]].size[self._schedule.axis]
        return needs.reads(move.start, move.stop, length)

    def _gathered(self, node: Node, first: int, last: int) -> int:
        """What a layer brings together in one tensor for the time of its work."""
        if node.kind in _NEVER_COPIED:
            return 0
        together = node.kind == "convolution" and len(node.inputs) > 1
        copied = 0
        for source in node.inputs:
            if together or node.kind in _ALWAYS_COPIED or not self._lies_in_one_piece(source, first, last):
                copied += (last - first) * self._slice_bytes[source] * self._widened(source)
        return copied

    def _widened(self, source: str) -> int:
        """How many times wider a layer computes than its source is stored."""
        node = self._schedule.graph.nodes[source]
        if node.kind != "stored":
            return 1
        computed = self._dtype or torch.float32
        return max(1, computed.itemsize // node.dtype.itemsize)

    def _lies_in_one_piece(self, name: str, start: int, stop: int) -> bool:
        if self._schedule.graph.nodes[name].kind in _TURNED:
            return False
        made = self._made_now.get(name)
        return made is not None and made.start <= start and stop <= made.stop

    def _width(self, node: Node) -> int:
        return (self._dtype or node.dtype).itemsize if node.dtype.is_floating_point else node.dtype.itemsize

    def _held_by(self, name: str) -> int:
        return (self._fresh[name] + self._rings[name]) * self._slice_bytes[name]

    def _forget(self, name: str) -> None:
        self._most[name] = max(self._most.get(name, 0), self._held_by(name))
        self._held -= self._fresh[name] * self._slice_bytes[name]
        self._fresh[name] = 0
        self._made_now.pop(name, None)

    def _note(self, tails: int, work: int, layer: str, passing: int = 0) -> None:
        received = self._received + self._lingering + passing
        moment = StreamMemory(tails, self._scratch, work, received, layer, {})
        if moment.peak_bytes > self._peak.peak_bytes:
            self._peak = moment


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
