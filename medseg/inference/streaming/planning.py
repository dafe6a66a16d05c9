"""Which way a stream goes through a volume, so that it keeps to a memory limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from medseg.errors import InputError
from medseg.inference.allocator import ALLOCATOR_STAGE, kept_by_the_allocator
from medseg.inference.compute import short_name
from medseg.inference.slabs import WORK_STAGE, MemoryPlan, MemoryShortage
from medseg.inference.streaming.captured import without_voxels
from medseg.inference.streaming.memory import Receiver, StreamMemory, measure_schedule
from medseg.inference.streaming.schedule import Schedule, make_schedule
from medseg.inference.streaming.tails import with_half_tails
from medseg.inference.streaming.tiles import Cut, cuts, is_part_of, tiles_of
from medseg.inference.streaming.weights import WeightMemory, weight_memory
from medseg.io.sizes import format_bytes
from medseg.network_graph import Graph, Node

__all__ = ["DEFAULT_SLAB", "Request", "choose_plan", "schedule_of"]

DEFAULT_SLAB = 8
"""Slices a step where memory allows: 16 and 32 gained a U-Net 2 %, and take more."""

_TILINGS_TRIED = 24
_CHEAP_TILES = 1.5
"""Times that voxels may be computed so as to keep single precision; the labels hardly depend on it."""


@dataclass(frozen=True)
class Request:
    """What a stream's plan has to keep to.

    Attributes:
        axes: Streaming axes that may be taken.
        slab: Slices a step; ``None`` to choose.
        dtype: What layers compute in.
        limit_bytes: Of the peak; ``None`` for any.
        labels: Whether only the best class of each voxel is kept.
        result_itemsize: Bytes of one number of the result that is held as a whole; ``None`` where slabs are
            handed on.
    """

    axes: tuple[int, ...]
    slab: int | None
    dtype: torch.dtype
    limit_bytes: int | None
    labels: bool
    result_itemsize: int | None

    @property
    def slabs(self) -> list[int]:
        """Thicknesses to try, from the largest."""
        if self.slab is not None:
            return [self.slab]
        return [DEFAULT_SLAB >> step for step in range(DEFAULT_SLAB.bit_length())]


def schedule_of(graph: Graph, axis: int, slab: int, *, half_tails: bool) -> Schedule:
    """The timetable, with lagging skip connections rounded to half precision if told so."""
    schedule = make_schedule(graph, axis, slab)
    return make_schedule(with_half_tails(schedule), axis, slab) if half_tails else schedule


def choose_plan(network: nn.Module, shape: tuple[int, ...], request: Request) -> MemoryPlan:
    """The fastest exact way that keeps to the limit; if there is none, one with tails in half precision.

    In this order: the axis that takes the least; the thickest slabs; tiles, if voxels are computed one and a
    half times at most; skip connections in half precision while they wait; any tiles; both. Layers that
    compute in half precision anyway have nothing to save there.

    Raises:
        ConfigError: The network cannot be streamed; the error names the layer.
        InputError: It does not take this shape.
        MemoryShortage: No way keeps to the limit; the error names the least that would do.
    """
    return _Search(network, shape, request).run()


@dataclass(frozen=True)
class _Way:
    """One way through the volume, and what it takes."""

    axis: int
    slab: int
    half_tails: bool
    cut: tuple[Cut, ...]
    stream: StreamMemory
    weights: WeightMemory

    @property
    def tiled(self) -> bool:
        return any(len(axis.starts) > 1 for axis in self.cut)

    @cached_property
    def by_stage(self) -> dict[str, int]:
        if self.weights.building_bytes > self.weights.held_bytes + self.stream.peak_bytes:
            return {"weights": self.weights.building_bytes}
        stages = {
            "weights": self.weights.held_bytes,
            "tails": self.stream.tails_bytes,
            "gathered slices": self.stream.gathered_bytes,
            WORK_STAGE: self.stream.work_bytes,
            "result": self.stream.received_bytes,
            ALLOCATOR_STAGE: kept_by_the_allocator(self.stream.gathered_bytes + self.stream.work_bytes),
        }
        return {name: count for name, count in stages.items() if count}

    @property
    def peak_bytes(self) -> int:
        return sum(self.by_stage.values())


@dataclass
class _Search:
    network: nn.Module
    shape: tuple[int, ...]
    request: Request
    least: _Way | None = field(default=None, init=False)

    def run(self) -> MemoryPlan:
        for way in self._attempts():
            if way is not None:
                return self._plan(way)
        raise self._refusal()

    def _attempts(self) -> Iterator[_Way | None]:
        """Ways that fit, the best first, each looked for when it is asked for."""
        halves_save = self.request.dtype.itemsize > torch.float16.itemsize
        yield self._whole_planes(half_tails=False)
        yield self._tiles(half_tails=False, most=_CHEAP_TILES)
        if halves_save:
            yield self._whole_planes(half_tails=True)
        yield self._tiles(half_tails=False)
        if halves_save:
            yield self._tiles(half_tails=True)

    @cached_property
    def _prepared(self) -> tuple[Graph, WeightMemory]:
        network = without_voxels(self.network, self.shape)
        return network.graph, weight_memory(network, self.network, self.request.dtype)

    @property
    def _graph(self) -> Graph:
        return self._prepared[0]

    def _whole_planes(self, half_tails: bool) -> _Way | None:
        uncut = self._uncut()
        for slab in self.request.slabs:
            ways = [self._way(self._graph, axis, slab, half_tails, uncut) for axis in self.request.axes]
            way = min(ways, key=lambda way: way.peak_bytes)
            if self._fits(way):
                return way
        return None

    def _uncut(self) -> tuple[Cut, ...]:
        graph = self._graph
        image, output = graph.nodes[graph.input], graph.nodes[graph.outputs[0]]
        return tuple(Cut.uncut(*sizes) for sizes in zip(image.size, output.size, strict=True))

    def _tiles(self, half_tails: bool, most: float = math.inf) -> _Way | None:
        """The first tiling that fits at the thinnest slabs, with the thickest that fit with it.

        Args:
            half_tails: Whether skip connections wait in half precision.
            most: Times that voxels may be computed, on average.
        """
        thinnest = self.request.slabs[-1]
        ways = [
            self._way(self._graph, axis, thinnest, half_tails, self._uncut()) for axis in self.request.axes
        ]
        whole = min(ways, key=lambda way: way.peak_bytes)
        for cut, graph in self._tilings(whole, most):
            fitting = None
            for slab in reversed(self.request.slabs):
                way = self._way(graph, whole.axis, slab, half_tails, cut)
                if not self._fits(way):
                    break
                fitting = way
            if fitting is not None:
                return fitting
        return None

    def _tilings(self, whole: _Way, most: float) -> Iterator[tuple[tuple[Cut, ...], Graph]]:
        """Tilings that may fit, those that compute the least first; at last the one that takes the least."""
        uncut = self._uncut()
        choices = [
            [uncut[axis]] if axis == whole.axis else cuts(self._graph, axis) for axis in range(len(uncut))
        ]
        every = [
            cut
            for cut in _products(choices)
            if any(len(axis.starts) > 1 for axis in cut) and math.prod(axis.computed for axis in cut) <= most
        ]
        if not every:
            return
        every.sort(key=lambda cut: math.prod(axis.computed for axis in cut))
        smallest = min(every, key=_voxels)
        promising = [cut for cut in every if self._estimate(whole, cut) <= (self.request.limit_bytes or 0)]
        for cut in [*promising[:_TILINGS_TRIED], smallest]:
            graph = self._graph_of(cut)
            if graph is not None:
                yield cut, graph

    def _estimate(self, whole: _Way, cut: Sequence[Cut]) -> float:
        """Bytes of a tiling, if all that the stream holds shrank as the plane does; slightly too few."""
        shrunk = _voxels(cut) / _voxels(whole.cut)
        in_plane = whole.stream.peak_bytes - whole.stream.received_bytes
        return whole.weights.held_bytes + 0.9 * shrunk * in_plane

    def _graph_of(self, cut: Sequence[Cut]) -> Graph | None:
        """The graph of a tile; none where it would do anything else than the whole's."""
        shape = (*self.shape[:2], *(axis.length for axis in cut))
        try:
            graph = without_voxels(self.network, shape).graph
        except InputError:  # the network does not take images of this size
            return None
        return graph if is_part_of(graph, self._graph) else None

    def _way(self, graph: Graph, axis: int, slab: int, half_tails: bool, cut: tuple[Cut, ...]) -> _Way:
        schedule = schedule_of(graph, axis, slab, half_tails=half_tails)
        tiled = any(len(along.starts) > 1 for along in cut)
        receiver = self._receiver(graph.nodes[graph.outputs[0]], axis, tiled)
        stream = measure_schedule(schedule, self.request.dtype, receiver)
        way = _Way(axis, slab, half_tails, cut, stream, self._prepared[1])
        if self.least is None or way.peak_bytes < self.least.peak_bytes:
            self.least = way
        return way

    def _receiver(self, output: Node, axis: int, tiled: bool) -> Receiver:
        voxels = output.shape[0] * math.prod(output.size) // output.size[axis]
        channels = math.prod(output.shape[1 : -len(output.size)])
        request = self.request
        passing = lingering = 0
        if request.labels:
            # The highest score so far, its class, and where the next one is higher.
            passing = voxels * (request.dtype.itemsize + _label_bytes(channels) + 1)
        elif request.result_itemsize is None:
            lingering = voxels * channels * 4
            passing = 0 if request.dtype == torch.float32 else lingering
        if request.result_itemsize is None:
            return Receiver(passing_bytes=passing, lingering_bytes=lingering)
        whole = self._graph.nodes[self._graph.outputs[0]]
        number = _label_bytes(channels) if request.labels else channels * request.result_itemsize
        if tiled or axis == len(output.size) - 1:
            # Every page of the result is written to from the first slab, or the first tile, on.
            everything = whole.shape[0] * math.prod(whole.size) * number
            return Receiver(passing_bytes=passing, fixed_bytes=everything)
        return Receiver(kept_bytes=voxels * number, passing_bytes=passing)

    def _fits(self, way: _Way) -> bool:
        return self.request.limit_bytes is None or way.peak_bytes <= self.request.limit_bytes

    def _plan(self, way: _Way) -> MemoryPlan:
        return MemoryPlan(
            mode="streaming",
            axis=way.axis,
            slab=way.slab,
            by_stage=way.by_stage,
            details=self._details(way),
            slab_bytes=self._slab_bytes(way),
            tiles=tiles_of(way.cut) if way.tiled else (),
        )

    def _slab_bytes(self, way: _Way) -> int:
        """A slab of scores as it is given, in single precision."""
        output = self._graph.nodes[self._graph.outputs[0]]
        sizes = [max(stop - start for start, stop in cut.scores) for cut in way.cut]
        sizes[way.axis] = min(way.slab, sizes[way.axis])
        channels = math.prod(output.shape[: -len(sizes)])
        return channels * math.prod(sizes) * torch.float32.itemsize

    def _details(self, way: _Way) -> dict[str, Any]:
        details: dict[str, Any] = {
            "precision": short_name(self.request.dtype),
            "half_tails": way.half_tails,
            "fullest_at": way.stream.peak_layer or "handing over a slab",
        }
        if way.tiled:
            details["tile_voxels"] = tuple(axis.length for axis in way.cut)
            details["computed"] = round(math.prod(axis.computed for axis in way.cut), 2)
        if self.request.limit_bytes is not None:
            details["limit_bytes"] = self.request.limit_bytes
        details["why"] = self._why(way)
        return details

    def _why(self, way: _Way) -> str:
        reasons = [f"of axes {self.request.axes} this takes the least" if len(self.request.axes) > 1 else ""]
        if self.request.slab is None and way.slab < DEFAULT_SLAB:
            reasons.append(f"thicker slabs than {way.slab} exceed the limit")
        if way.tiled:
            reasons.append("whole planes exceed it")
        if way.half_tails:
            reasons.append("single precision of the skip connections exceeds it")
        return ", ".join(reason for reason in reasons if reason) or "as asked for"

    def _refusal(self) -> MemoryShortage:
        least, limit = self.least, self.request.limit_bytes
        if least is None or limit is None:
            raise AssertionError  # some way was tried, and without a limit the first one fits
        return MemoryShortage(
            f"streaming takes {format_bytes(least.peak_bytes)} of memory at least, "
            f"{format_bytes(limit)} are allowed",
            fix=f"allow {format_bytes(1.05 * least.peak_bytes)}, or take a smaller network or image",
            least_bytes=least.peak_bytes,
        )


def _products(choices: Sequence[Sequence[Cut]]) -> Iterator[tuple[Cut, ...]]:
    if not choices:
        yield ()
        return
    for first in choices[0]:
        for rest in _products(choices[1:]):
            yield (first, *rest)


def _voxels(cut: Sequence[Cut]) -> int:
    return math.prod(axis.length for axis in cut)


def _label_bytes(classes: int) -> int:
    return 1 if classes <= 256 else 4
