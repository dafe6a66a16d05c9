"""How each kind of layer makes some of its slices from slices of what it reads.

The streaming axis is the first spatial one; along it nothing is padded but what lies beyond the volume's
ends, the other axes are as the layer has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

import torch
from torch import Tensor

from medseg.inference.streaming.chunks import Scratch
from medseg.inference.streaming.kernels import moves, windows
from medseg.inference.streaming.kernels import pointwise as voxels
from medseg.inference.streaming.kernels.layer import Kernel, Layer, refuse
from medseg.inference.streaming.kernels.pointwise import in_place
from medseg.network_graph import Graph, Node

__all__ = ["Kernel", "Layer", "in_place", "make_kernel"]


def make_kernel(
    graph: Graph,
    node: Node,
    order: tuple[int, ...],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    scratch: Scratch,
) -> Kernel:
    """The kernel of a layer.

    Args:
        graph: That the layer belongs to.
        node: The layer.
        order: The volume's spatial axes in the order of the stream's tensors, the streaming axis first.
        tensors: The network's parameters and buffers by name.
        dtype: What layers of floating point compute in.
        scratch: Shared by all layers of a stream.

    Raises:
        ConfigError: There is none; the error names the layer.
    """
    # Batch norm works out its scale and shift in double precision first.
    kept = node.kind == "batch_norm"
    weights = {
        role: _turned(tensors[names[0]], order, None if kept else dtype)
        for role, names in node.weights.items()
    }
    device = next(iter(tensors.values()), torch.empty(0)).device
    sources = tuple(graph.nodes[name] for name in node.inputs)
    layer = Layer(node, sources, order, weights, dtype, device, scratch)
    make = _KERNELS.get(node.kind, voxels.pointwise)
    return make(layer)


def _turned(tensor: Tensor, order: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
    """Weights over space, such as a convolution's, in the stream's order of axes; others as they are."""
    dims = len(order)
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    if tensor.ndim != dims + 2:
        return tensor
    turned = tensor.permute(0, 1, *(2 + axis for axis in order))
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    return turned.contiguous(memory_format=layout)


def _taken_from_the_pooling(layer: Layer) -> NoReturn:
    refuse(layer.node, "are indices of no pooling")


_KERNELS: dict[str, Callable[[Layer], Kernel]] = {
    "average_pool": windows.average_pool,
    "batch_norm": voxels.batch_norm,
    "broadcast": moves.broadcast,
    "constant": moves.constant,
    "convolution": windows.convolution,
    "crop": moves.crop,
    "expand": moves.broadcast,
    "interpolation": moves.interpolation,
    "max_pool": windows.max_pool,
    "max_pool_indices": _taken_from_the_pooling,
    "max_unpool": windows.max_unpool,
    "pad": moves.pad,
    "repeat": moves.broadcast,
    "slice": moves.cut_channels,
    "stored": voxels.stored,
    "to": voxels.converted,
    "transposed_convolution": windows.transposed_convolution,
    "view": moves.view,
}
