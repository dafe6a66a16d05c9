"""Convolutions, poolings, and their ways back up, on some slices of what they read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from medseg.inference.streaming.chunks import Chunks, gather
from medseg.inference.streaming.kernels.convolve import convolve, convolve_transposed
from medseg.inference.streaming.kernels.layer import Kernel, Layer
from medseg.ranges import TransposedWindow, Unpooling, Window

__all__ = ["average_pool", "convolution", "max_pool", "max_unpool", "transposed_convolution"]


def convolution(layer: Layer) -> Kernel:
    """Of one source, or of several side by side."""
    windows = cast(tuple[Window, ...], layer.ranges)
    even = all(window.padding[0] == window.padding[1] for window in windows[1:])
    beside = [pad for window in reversed(windows[1:]) for pad in window.padding]
    apply = convolve(
        layer,
        stride=[window.stride for window in windows],
        padding=[0, *(window.padding[0] if even else 0 for window in windows[1:])],
        dilation=[window.dilation for window in windows],
    )

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        images = gather(sources, *windows[0].needs(start, stop), dtype=layer.dtype)
        return apply(images if even else functional.pad(images, beside))

    return run


def transposed_convolution(layer: Layer) -> Kernel:
    """The slices that the input spreads to; where no tap reaches, the bias alone."""
    windows = cast(tuple[TransposedWindow, ...], layer.ranges)
    along, length, dims = windows[0], layer.length(), len(windows)
    bias = layer.weights.get("bias")
    apply = convolve_transposed(layer, windows)

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        first, last = along.reads(start, stop, length)
        if first >= last:  # any slice will do, for none of what it spreads to is kept
            first = min(max((start + along.padding) // along.stride, 0), length - 1)
            return edge(sources[0], stop - start)
        made = apply(gather(sources, first, last, dtype=layer.dtype))
        begin = start - (first * along.stride - along.padding)
        return _stretched(made, begin, begin + stop - start)

    def edge(source: Chunks, count: int) -> Tensor:
        shape = (source.shape[0], layer.node.shape[1], count, *layer.plane())
        made = torch.zeros(shape, dtype=layer.dtype, device=source.like.device)
        return made if bias is None else made.add_(bias.reshape(-1, *[1] * dims))

    def _stretched(made: Tensor, begin: int, end: int) -> Tensor:
        before, after = max(0, -begin), max(0, end - made.shape[2])
        if not before and not after:
            return made.narrow(2, begin, end - begin)
        inner = made.narrow(2, begin + before, end - begin - before - after)
        wider = functional.pad(inner, (0, 0) * (dims - 1) + (before, after))
        if bias is not None:
            for beyond in (wider.narrow(2, 0, before), wider.narrow(2, end - begin - after, after)):
                beyond += bias.reshape(-1, *[1] * dims)
        return wider

    return run


def max_pool(layer: Layer) -> Kernel:
    """The largest of each window, with its place in the whole volume where that is asked for."""
    windows = cast(tuple[Window, ...], layer.ranges)
    apply: Any = functional.max_pool2d if len(windows) == 2 else functional.max_pool3d
    with_indices = bool(layer.node.options.get("return_indices"))
    options: dict[str, Any] = {
        "kernel_size": [window.kernel for window in windows],
        "stride": [window.stride for window in windows],
        "padding": [0, *(window.padding[0] for window in windows[1:])],
        "dilation": [window.dilation for window in windows],
        "ceil_mode": any(window.ceil_mode for window in windows),
        "return_indices": with_indices,
    }
    plane = math.prod(layer.plane(0))

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Any:
        first, last = windows[0].needs(start, stop)
        made = apply(gather(sources, first, last, border=-math.inf), **options)
        if not with_indices:
            return made
        values, indices = made
        return values, indices.add_(first * plane)

    return run


def average_pool(layer: Layer) -> Kernel:
    """Sums of the windows, divided by what PyTorch counts: with its padding, or without."""
    windows = cast(tuple[Window, ...], layer.ranges)
    apply: Any = functional.avg_pool2d if len(windows) == 2 else functional.avg_pool3d
    options: dict[str, Any] = {
        "kernel_size": [window.kernel for window in windows],
        "stride": [window.stride for window in windows],
        "padding": [0, *(window.padding[0] for window in windows[1:])],
        "ceil_mode": any(window.ceil_mode for window in windows),
        "count_include_pad": True,
        "divisor_override": 1,
    }
    divisor = layer.node.options.get("divisor_override")
    with_padding = bool(layer.node.options.get("count_include_pad", True))
    lengths = [layer.length(), *layer.plane(0)]
    outputs = [layer.node.size[axis] for axis in layer.order]

    def counted(axis: int, first: int, last: int) -> Tensor:
        window, length = windows[axis], lengths[axis]
        counts = []
        for index in range(first, last):
            begin, end = window.needs(index, index + 1)
            if with_padding:
                end = min(end, length + window.padding[1])
            else:
                begin, end = max(begin, 0), min(end, length)
            counts.append(end - begin)
        shape = [1] * (2 + len(windows))
        shape[2 + axis] = -1
        return torch.tensor(counts, dtype=torch.float32).reshape(shape)

    beside = [counted(axis, 0, outputs[axis]) for axis in range(1, len(windows))]

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        summed: Tensor = apply(gather(sources, *windows[0].needs(start, stop)), **options)
        if divisor is not None:
            return summed.div_(divisor)
        for counts in (counted(0, start, stop), *beside):
            summed.div_(counts.to(summed))
        return summed

    return run


def max_unpool(layer: Layer) -> Kernel:
    """A scatter into zeros by the indices of the pooling, which are made relative to the slab."""
    ranges = cast(tuple[Unpooling, ...], layer.ranges)
    along, plane = ranges[0], layer.plane()
    voxels, length = math.prod(plane), layer.length()
    adds = layer.node.options.get("shared") == "sum"

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        first, last = along.reads(start, stop, length)
        values, indices = (gather([source], first, last) for source in sources)
        leading = values.shape[:2]
        if first >= last:
            return values.new_zeros((*leading, stop - start, *plane))
        low, high = along.window.needs(first, last)
        low = max(0, low)
        room = values.new_zeros((*leading, (high - low) * voxels))
        places = (indices - low * voxels).flatten(2)
        put = room.scatter_add_ if adds else room.scatter_
        filled = put(2, places, values.flatten(2)).view(*leading, high - low, *plane)
        return filled.narrow(2, start - low, stop - start)

    return run
