"""Convolutions, poolings, and their ways back up, on some slices of what they read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from medseg.inference.streaming.chunks import Chunks
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
        images = layer.gather_for_now(sources, *windows[0].needs(start, stop))
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
        if first >= last:
            return untouched(sources[0].shape[0], stop - start)
        made = apply(layer.gather_for_now(sources, first, last))
        # Where these slices begin and end among those that were made.
        begin = start - (first * along.stride - along.padding)
        end = begin + stop - start
        inner = made.narrow(2, max(begin, 0), min(end, made.shape[2]) - max(begin, 0))
        before, after = max(-begin, 0), max(end - made.shape[2], 0)
        if not before and not after:
            return inner
        batch = made.shape[0]
        return torch.cat([untouched(batch, before), inner, untouched(batch, after)], dim=2)

    def untouched(batch: int, count: int) -> Tensor:
        made = torch.zeros(
            (batch, layer.node.shape[1], count, *layer.plane()), dtype=layer.dtype, device=layer.device
        )
        return made if bias is None else made.add_(bias.reshape(-1, *[1] * dims))

    return run


def max_pool(layer: Layer) -> Kernel:
    """The largest of each window, with its place in the stream's volume where that is asked for."""
    if layer.node.options.get("return_indices"):
        return _max_pool_with_places(layer)
    windows = cast(tuple[Window, ...], layer.ranges)
    apply = _max_pooling(windows, 0, return_indices=False)

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Any:
        return apply(layer.gather_for_now(sources, *windows[0].needs(start, stop), border=-math.inf))

    return run


def _max_pool_with_places(layer: Layer) -> Kernel:
    """Pools in the volume's own order of axes: it decides which of equal values is the first."""
    streamed = layer.order[0]
    windows = cast(tuple[Window, ...], layer.ranges)
    natural = [layer.order.index(axis) for axis in range(len(windows))]
    apply = _max_pooling([windows[axis] for axis in natural], streamed, return_indices=True)
    plane = math.prod(layer.plane(0))
    inner = math.prod(layer.sources[0].size[streamed + 1 :])

    def turned(images: Tensor, axes: Sequence[int]) -> Tensor:
        return images.permute(0, 1, *(2 + axis for axis in axes))

    def run(sources: Sequence[Chunks], start: int, stop: int) -> tuple[Tensor, Tensor]:
        first, last = windows[0].needs(start, stop)
        images = layer.gather_for_now(sources, first, last, border=-math.inf)
        values, places = (turned(made, layer.order) for made in apply(turned(images, natural)))
        if streamed == 0:
            return values, places.add_(first * plane)
        # Axes before the streamed one, the streamed one, and those behind it: from there to the front.
        rest = places % inner
        places.floor_divide_(inner)
        before = places // (last - first)
        along = places.remainder_(last - first).add_(first)
        return values, along.mul_(plane).add_(before, alpha=inner).add_(rest)

    return run


def _max_pooling(windows: Sequence[Window], streamed: int, *, return_indices: bool) -> Any:
    """PyTorch's, padding every axis but the streamed one."""
    apply: Any = functional.max_pool2d if len(windows) == 2 else functional.max_pool3d
    return partial(
        apply,
        kernel_size=[window.kernel for window in windows],
        stride=[window.stride for window in windows],
        padding=[0 if axis == streamed else window.padding[0] for axis, window in enumerate(windows)],
        dilation=[window.dilation for window in windows],
        ceil_mode=any(window.ceil_mode for window in windows),
        return_indices=return_indices,
    )


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
        summed: Tensor = apply(layer.gather_for_now(sources, *windows[0].needs(start, stop)), **options)
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
        values, indices = (layer.gather([source], first, last) for source in sources)
        leading = values.shape[:2]
        if first >= last:
            return values.new_zeros((*leading, stop - start, *plane))
        low, high = along.window.needs(first, last)
        low, high = min(max(0, low), start), max(high, stop)
        room = values.new_zeros((*leading, (high - low) * voxels))
        places = (indices - low * voxels).flatten(2)
        put = room.scatter_add_ if adds else room.scatter_
        filled = put(2, places, values.flatten(2)).view(*leading, high - low, *plane)
        return filled.narrow(2, start - low, stop - start)

    return run
