"""Drives a network's layers slab by slab, keeping of each what is still needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseg.inference.streaming.chunks import Chunks, Scratch, gather
from medseg.inference.streaming.kernels import Kernel, in_place, make_kernel
from medseg.inference.streaming.memory import readers_in_step
from medseg.inference.streaming.schedule import Move, Schedule
from medseg.inference.streaming.simplify import Simplified
from medseg.network_graph import Node

__all__ = ["Read", "Stream"]

Read = Callable[[int, int], Tensor]
"""Gives slices [start, stop) of the input, of shape (B, C, stop - start, …)."""


class Stream:
    """A network's output, slab by slab from its first slice to its last.

    Args:
        network: Simplified for streaming.
        schedule: The timetable of its graph, or of that graph with half tails.
        order: The volume's spatial axes in the order of the stream's tensors; the schedule's axis first.
        dtype: What layers of floating point compute in.

    Raises:
        ConfigError: A layer cannot be streamed; the error names it.
    """

    def __init__(
        self, network: Simplified, schedule: Schedule, order: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self._schedule = schedule
        self._order = order
        self._dtype = dtype
        self._scratch = Scratch()
        graph = schedule.graph
        self._units = {node.name: self._unit(network, node) for node in graph.ancestors(graph.outputs[0])}

    def slabs(self, read: Read, device: torch.device) -> Iterator[tuple[int, Tensor]]:
        """Compute.

        Args:
            read: Gives the input in the stream's order of axes; asked for each slice once, in order.
            device: Where it gives it.

        Yields:
            First slice and slab of the output, in the stream's order of axes. It may be changed in place.
        """
        one_pass = _Pass(self._units, self._schedule, self._nothing_held(device), read, self._dtype)
        for moves in self._schedule.steps:
            given = one_pass.step(moves)
            if given is not None:
                yield given
                del given  # whoever took it may let go of it while the next is made

    def _unit(self, network: Simplified, node: Node) -> _Unit:
        graph = self._schedule.graph
        kernel = None
        if node.name != graph.input and node.kind != "max_pool_indices":
            kernel = make_kernel(graph, node, self._order, network.tensors, self._dtype, self._scratch)
        followers = (in_place(follower) for follower in network.followed_by.get(node.name, ()))
        return _Unit(node, kernel, tuple(follower for follower in followers if follower is not None))

    def _nothing_held(self, device: torch.device) -> dict[str, _Held]:
        held = {}
        rooms = self._schedule.rooms
        for name, unit in self._units.items():
            node = unit.node
            leading = node.shape[: -len(self._order)]
            shape = (*leading, *(node.size[axis] for axis in self._order))
            dtype = self._dtype if node.dtype.is_floating_point and node.kind != "stored" else node.dtype
            values, places = (
                Chunks(shape, len(leading), torch.empty(0, dtype=kind, device=device), rooms.get(name, 0))
                for kind in (dtype, torch.int64)
            )
            held[name] = _Held(values, places if node.options.get("return_indices") else None)
        return held


@dataclass(frozen=True)
class _Unit:
    """A layer with the activations that follow it in place; the input and indices have no kernel."""

    node: Node
    kernel: Kernel | None
    followers: tuple[Callable[[Tensor], Tensor], ...]


@dataclass(frozen=True)
class _Held:
    """What is held of one layer, and of a pooling the places of its values."""

    values: Chunks
    places: Chunks | None

    def forget(self, keep: int) -> None:
        """Let go of what lies before slice ``keep``."""
        self.values.forget(keep)
        if self.places is not None:
            self.places.forget(self.places.length)  # a layer of its own has taken them over


@dataclass(frozen=True)
class _Pass:
    """One way through a volume, from its first slice to its last."""

    units: Mapping[str, _Unit]
    schedule: Schedule
    held: Mapping[str, _Held]
    read: Read
    dtype: torch.dtype

    def step(self, moves: tuple[Move, ...]) -> tuple[int, Tensor] | None:
        """Make what the timetable says; the output's slab, which nothing else holds, if it has one."""
        keeps = {move.name: move.keep for move in moves}
        waiting = readers_in_step(self.schedule, moves)
        given: tuple[int, Tensor] | None = None
        for move in moves:
            if move.start == move.stop:
                continue
            made = self._made(move)
            if move.name == self.schedule.graph.outputs[0]:
                given = move.start, _copy(made) if self._lies_elsewhere(move.name, made) else made
            else:
                self.held[move.name].values.add(move.start, made)
            del made
            self._let_go(move, keeps, waiting)
        for name, keep in keeps.items():
            self.held[name].forget(keep)
        return given

    def _let_go(self, move: Move, keeps: Mapping[str, int], waiting: dict[str, int]) -> None:
        """Forget what nobody needs once this move is made."""
        for source in dict.fromkeys(self.units[move.name].node.inputs):
            waiting[source] -= 1
            if waiting[source] == 0 and source in keeps:
                self.held[source].forget(keeps[source])
        if not waiting.get(move.name):
            self.held[move.name].forget(move.keep)

    def _made(self, move: Move) -> Tensor:
        unit = self.units[move.name]
        if unit.kernel is None:
            return self._given(unit.node, move)
        sources = [self.held[source].values for source in unit.node.inputs]
        made: Any = unit.kernel(sources, move.start, move.stop)
        places = self.held[move.name].places
        if places is not None:
            made, indices = made
            places.add(move.start, indices)
        changes = unit.followers and self._lies_elsewhere(move.name, made)
        if changes or any(source.will_overwrite(made) for source in sources):
            made = _copy(made)
        result: Tensor = made
        for follower in unit.followers:
            result = follower(result)
        return result

    def _given(self, node: Node, move: Move) -> Tensor:
        """Slices that no kernel makes: the input's, and the places that a pooling has made."""
        if node.name == self.schedule.graph.input:
            return self.read(move.start, move.stop).to(self.dtype)
        places = self.held[node.inputs[0]].places
        if places is None:
            raise AssertionError  # capture makes such a node of poolings with indices alone
        return gather([places], move.start, move.stop)

    def _lies_elsewhere(self, name: str, made: Tensor) -> bool:
        """Whether changing it would change what another layer holds, or the input."""
        inputs = self.units[name].node.inputs
        return not inputs or any(self.held[source].values.owns(made) for source in inputs)


def _copy(made: Tensor) -> Tensor:
    return made.clone(memory_format=torch.preserve_format)
