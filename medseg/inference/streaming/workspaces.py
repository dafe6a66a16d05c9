"""What layers take for themselves while they work, beside what they read and make.

Counted from what the routines allocate: :mod:`medseg.inference.streaming.kernels`, PyTorch's own, oneDNN's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.network_graph import Node
from medseg.ranges import Interpolation, TransposedWindow, Unpooling, Window

__all__ = ["made_slices", "weight_bytes", "workspace_bytes"]

_INDEX_BYTES, _SINGLE_BYTES = 8, 4


def workspace_bytes(node: Node, sources: Sequence[Node], axis: int, read: int, made: int, width: int) -> int:
    """Bytes that a layer takes for the time of its work.

    Args:
        node: The layer.
        sources: What it reads.
        axis: The streaming axis.
        read: Slices that it is given.
        made: Slices that it makes.
        width: Bytes of one number that it computes with.
    """
    given = sum(_slice_voxels(source, axis) for source in sources) * read
    result = _slice_voxels(node, axis) * made
    match node.kind:
        case "convolution":
            # Channels last, oneDNN takes images as they are, but it reorders weights at every call.
            uneven = any(_is_uneven(needs) for position, needs in enumerate(node.ranges) if position != axis)
            return weight_bytes(node, sources, width) + (given * width if uneven else 0)
        case "transposed_convolution":
            return _transposed_bytes(node, sources, axis, read, width)
        case "max_pool":
            # PyTorch finds the places even where nobody asks for them.
            turned = axis > 0 and bool(node.options.get("return_indices"))
            return result * _INDEX_BYTES + (_turning_bytes(given, result, width) if turned else 0)
        case "interpolation":
            # After the other axes, slices are picked and weighted twice before they are added.
            along = node.ranges[axis]
            before = result * float(along.scale) if isinstance(along, Interpolation) else result
            return round(2 * result + before) * width
        case "max_unpool":
            # Values and places as they are scattered, the latter relative to the slab.
            # Narrow numbers are scattered in single precision.
            scattered = result * _SINGLE_BYTES if width < _SINGLE_BYTES else 0
            return given // 2 * (width + 2 * _INDEX_BYTES) + scattered
        case "pad":
            return given * width
        case _:
            return 0


def _turning_bytes(given: int, result: int, width: int) -> int:
    """Of a pooling in the volume's own order of axes: a copy of what it reads, then two parts of places."""
    return max(given * width, result * 2 * _INDEX_BYTES)


def _transposed_bytes(node: Node, sources: Sequence[Node], axis: int, read: int, width: int) -> int:
    """Of the convolution that makes all phases of the stride: its weights, padded input, and one slice."""
    windows = [needs for needs in node.ranges if isinstance(needs, TransposedWindow)]
    given = sum(_slice_voxels(source, axis) for source in sources)
    slice_voxels = given // sources[0].shape[1]
    phases = math.prod(needs.stride for needs in windows)
    taps = [-(-needs.kernel // needs.stride) for needs in windows]
    weights = phases * math.prod(taps) * sources[0].shape[1] * node.shape[1]
    padded = (read + 2 * (taps[axis] - 1)) * given if taps[axis] > 1 else 0
    return (slice_voxels * phases * node.shape[1] + padded + weights) * width


def made_slices(node: Node, axis: int, start: int, stop: int, first: int, last: int) -> int:
    """Slices for which memory is made where slices [start, stop) are asked for, and [first, last) read."""
    needs = node.ranges[axis]
    made = stop - start
    if first >= last:
        return made
    if isinstance(needs, TransposedWindow):
        taps = -(-needs.kernel // needs.stride)
        return max(made, (last - first + taps - 1) * needs.stride)
    if isinstance(needs, Unpooling):
        low, high = needs.window.needs(first, last)
        return max(made, high - max(0, low))
    return made


def weight_bytes(node: Node, sources: Sequence[Node], width: int) -> int:
    """Bytes of a convolution's weights."""
    if node.kind not in ("convolution", "transposed_convolution"):
        return 0
    taps = math.prod(needs.kernel for needs in node.ranges if isinstance(needs, Window | TransposedWindow))
    groups = int(node.options.get("groups", 1))
    channels = sum(source.shape[1] for source in sources)
    return channels * node.shape[1] * taps // groups * width


def _slice_voxels(node: Node, axis: int) -> int:
    return math.prod(node.shape) // max(1, node.size[axis])


def _is_uneven(needs: object) -> bool:
    return isinstance(needs, Window) and needs.padding[0] != needs.padding[1]
