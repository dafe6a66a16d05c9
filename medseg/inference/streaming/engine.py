"""Drives a network's layers slab by slab, keeping of each what is still needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.inference.streaming.chunks import Chunks, gather
from medseg.inference.streaming.kernels import Kernel, make_kernel
from medseg.inference.streaming.memory import readers_in_step
from medseg.inference.streaming.schedule import Move, Schedule
from medseg.inference.streaming.simplify import IN_PLACE, Simplified
from medseg.network_graph import Graph, Node

__all__ = ["Read", "Stream"]

_INDICES = "#indices"

Read = Callable[[int, int], Tensor]
"""Gives slices [start, stop) of the input, of shape (B, C, stop - start, …)."""


@dataclass(frozen=True)
class _Unit:
    """A layer with what follows it in place."""

    node: Node
    kernel: Kernel | None
    followers: tuple[Node, ...]


class Stream:
    """A network's output, slab by slab from its first slice to its last.

    Args:
        network: Simplified for streaming.
        schedule: Its timetable.
        order: The volume's spatial axes in the order of the stream's tensors; the schedule's axis first.
        dtype: What layers of floating point compute in.

    Raises:
        ConfigError: A layer cannot be streamed; the error names it.
    """

    def __init__(
        self, network: Simplified, schedule: Schedule, order: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        graph = schedule.graph
        self._schedule = schedule
        self._graph = graph
        self._order = order
        self._dtype = dtype
        self._output = graph.outputs[0]
        self._units: Mapping[str, _Unit] = {
            node.name: _Unit(
                node, _kernel_of(graph, node, order, network, dtype), network.followed_by.get(node.name, ())
            )
            for node in graph.ancestors(self._output)
        }

    def slabs(self, read: Read, device: torch.device) -> Iterator[tuple[int, Tensor]]:
        """Compute.

        Args:
            read: Gives the input in the stream's order of axes; asked for each slice once, in order.
            device: Where it gives it.

        Yields:
            First slice and slab of the output, in the stream's order of axes. It may be changed in place.
        """
        held = self._nothing_held(device)
        for moves in self._schedule.steps:
            yield self._step(moves, held, read)

    def _nothing_held(self, device: torch.device) -> dict[str, Chunks]:
        held = {}
        dims = len(self._order)
        for name, unit in self._units.items():
            node = unit.node
            behind = len(node.shape) - dims
            shape = (*node.shape[:behind], *(node.size[axis] for axis in self._order))
            dtype = node.dtype
            if dtype.is_floating_point and node.kind != "stored":
                dtype = self._dtype
            held[name] = Chunks(shape, behind, torch.empty(0, dtype=dtype, device=device))
            if node.options.get("return_indices"):
                places = torch.empty(0, dtype=torch.int64, device=device)
                held[name + _INDICES] = Chunks(shape, behind, places)
        return held

    def _step(self, moves: tuple[Move, ...], held: dict[str, Chunks], read: Read) -> tuple[int, Tensor]:
        keeps = {move.name: move.keep for move in moves}
        waiting = readers_in_step(self._schedule, moves)
        result: tuple[int, Tensor] | None = None
        for move in moves:
            if move.start == move.stop:
                continue
            unit = self._units[move.name]
            made = self._made(unit, move, held, read)
            if move.name == self._output:
                result = move.start, made
                if move.keep < move.stop or waiting.get(move.name):
                    held[move.name].add(move.start, made.clone())
            else:
                held[move.name].add(move.start, made)
            del made
            for source in dict.fromkeys(unit.node.inputs):
                waiting[source] -= 1
                if waiting[source] == 0 and source in keeps:
                    _forget(held, source, keeps[source])
            if not waiting.get(move.name):
                _forget(held, move.name, move.keep)
        for name, keep in keeps.items():
            _forget(held, name, keep)
        if result is None:
            raise AssertionError  # each step makes slices of the output
        return result

    def _made(self, unit: _Unit, move: Move, held: dict[str, Chunks], read: Read) -> Tensor:
        node = unit.node
        if node.name == self._graph.input:
            return read(move.start, move.stop).to(self._dtype)
        sources = [held[source] for source in node.inputs]
        if node.kind == "max_pool_indices":
            return gather([held[node.inputs[0] + _INDICES]], move.start, move.stop)
        if unit.kernel is None:
            raise AssertionError
        made = unit.kernel(sources, move.start, move.stop)
        if isinstance(made, tuple):
            made, indices = made
            held[node.name + _INDICES].add(move.start, indices)
        if unit.followers and any(source.owns(made) for source in sources):
            made = made.clone(memory_format=torch.preserve_format)
        for follower in unit.followers:
            options = [value for key, value in follower.options.items() if key in ("negative_slope", "alpha")]
            made = IN_PLACE[follower.kind](made, *options)
        return made


def _kernel_of(
    graph: Graph, node: Node, order: tuple[int, ...], network: Simplified, dtype: torch.dtype
) -> Kernel | None:
    if node.name == graph.input or node.kind == "max_pool_indices":
        return None
    return make_kernel(graph, node, order, network.tensors, dtype)


def _forget(held: dict[str, Chunks], name: str, keep: int) -> None:
    """Let go of what lies before slice ``keep``."""
    held[name].forget(keep)
    if name + _INDICES in held:
        held[name + _INDICES].forget(keep)
