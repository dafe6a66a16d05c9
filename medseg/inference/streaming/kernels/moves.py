"""Padding, cropping, repeating, resizing: layers that move slices rather than compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from medseg.inference.streaming.chunks import Chunks
from medseg.inference.streaming.interpolation import resize_axis
from medseg.inference.streaming.kernels.layer import Kernel, Layer
from medseg.inference.streaming.kernels.pointwise import pointwise
from medseg.network_graph import Node
from medseg.ranges import Interpolation, Shift

__all__ = ["broadcast", "constant", "crop", "cut_channels", "interpolation", "moves_axes", "pad", "view"]


def pad(layer: Layer) -> Kernel:
    """By a constant or by copies, along space; by a constant, along channels too."""
    ranges, dims = layer.ranges, len(layer.ranges)
    mode, value = layer.node.options["mode"], float(layer.node.options.get("value") or 0.0)
    length = layer.length()
    # Pairs of (before, after), the last axis first; those of space are in the ranges.
    beside_space = list(layer.node.options.get("pad") or ())[2 * dims :]

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        images = along(sources[0], start, stop)
        for axis, needs in enumerate(ranges[1:], start=1):
            if isinstance(needs, Shift):
                images = padded(images, (0, 0) * (dims - 1 - axis) + (needs.before, needs.after))
        if any(beside_space):
            images = functional.pad(images, [0] * (2 * dims) + beside_space, value=value)
        return images

    def padded(images: Tensor, amounts: tuple[int, ...]) -> Tensor:
        if mode == "constant":
            return functional.pad(images, amounts, value=value)
        # PyTorch pads by copies along the last axes alone, and wants all of them named.
        whole = (*amounts, *(0,) * (2 * (images.ndim - 2) - len(amounts)))
        return functional.pad(images, whole, mode=mode)

    def along(source: Chunks, start: int, stop: int) -> Tensor:
        needs = ranges[0]
        if not isinstance(needs, Shift):
            return layer.gather([source], start, stop)
        if mode == "constant":
            return layer.gather([source], *needs.needs(start, stop), border=value)
        wanted = [_source_slice(index - needs.before, length, mode) for index in range(start, stop)]
        first = min(wanted)
        chosen = torch.tensor([index - first for index in wanted], device=source.like.device)
        return layer.gather([source], first, max(wanted) + 1).index_select(source.dim, chosen)

    return run


def _source_slice(index: int, length: int, mode: str) -> int:
    if mode == "circular":
        return index % length
    if mode == "replicate":
        return min(max(index, 0), length - 1)
    return abs(index) if index < length else 2 * (length - 1) - index


def crop(layer: Layer) -> Kernel:
    """A part of space, in the memory of the whole."""
    ranges = layer.ranges

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        images = layer.gather(sources, *ranges[0].needs(start, stop))
        behind = images.ndim - len(ranges)
        for axis, needs in enumerate(ranges[1:], start=1):
            if isinstance(needs, Shift):
                kept = images.shape[behind + axis] + needs.before + needs.after
                images = images.narrow(behind + axis, -needs.before, kept)
        return images

    return run


def cut_channels(layer: Layer) -> Kernel:
    """Some of the channels, or one of them without its axis, in the memory of all."""
    options = layer.node.options
    dim = options["dim"] % len(layer.sources[0].shape)
    drops_axis = len(layer.node.shape) < len(layer.sources[0].shape)

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        images = layer.gather(sources, start, stop)
        if drops_axis:
            return images.select(dim, options["index"])
        return images.narrow(dim, options["start"], layer.node.shape[dim])

    return run


def view(layer: Layer) -> Kernel:
    """Axes before those of space in another order or number."""
    if moves_axes(layer.node):
        return pointwise(layer)
    dims = len(layer.ranges)
    leading = layer.node.shape[:-dims]

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        images = layer.gather(sources, start, stop)
        return images.reshape(*leading, *images.shape[-dims:])

    return run


def moves_axes(view: Node) -> bool:
    """Whether a view puts axes before those of space in another order."""
    return view.overload.startswith(("aten.permute", "aten.transpose"))


def broadcast(layer: Layer) -> Kernel:
    """Channels repeated, and the only slice or row, without a copy where all are the same."""
    dims, along = len(layer.ranges), layer.ranges[0]
    leading = layer.node.shape[:-dims]
    # Repeated more than once, channels follow each other in turn, which no stride can say.
    turns = list(layer.node.options.get("repeats") or ())[:-dims]

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        first, last = along.needs(start, stop)
        images = layer.gather(sources, first, last)
        if any(count > 1 for count in turns):
            images = images.repeat(*turns, *[1] * dims)
        return images.expand(*leading, stop - start, *layer.plane())

    return run


def constant(layer: Layer) -> Kernel:
    """A map of one value."""
    leading, value = layer.node.shape[: -len(layer.order)], layer.node.options["value"]

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        del sources
        shape = (*leading, stop - start, *layer.plane())
        return torch.full(shape, value, dtype=layer.computed, device=layer.device)

    return run


def interpolation(layer: Layer) -> Kernel:
    """Resizing axis by axis, the positions being those of the whole."""
    ranges = cast(tuple[Interpolation, ...], layer.ranges)
    along, length = ranges[0], layer.length()

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        first, last = along.reads(start, stop, length)
        images = layer.gather(sources, first, last)
        for axis in range(len(ranges) - 1, 0, -1):
            images = resize_axis(images, 2 + axis, ranges[axis], 0, ranges[axis].output_length, 0)
        return resize_axis(images, 2, along, start, stop, first)

    return run
