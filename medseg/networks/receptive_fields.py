"""Receptive fields of any convolutional network, from the geometry of its layers.

The network is captured for a volume so large that no border is reached from its middle, and the ranges of
its layers (:mod:`medseg.ranges`) are followed from one output voxel back to the input, for every phase of
the stride.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from torch import nn

from medseg.errors import ConfigError, InputError
from medseg.network_graph import Graph, Node, capture
from medseg.ranges import Slices, TransposedWindow, Unpooling, Window

__all__ = [
    "Field",
    "LayerField",
    "field_of",
    "halo",
    "input_channels",
    "layer_receptive_fields",
    "measure",
    "receptive_field",
]

# Without voxels a large volume costs no more than a small one.
_FIRST_SIZE = 4096
_LARGEST_SIZE = 65536
_SIZES_TRIED = 64
_VOXELS_WITHOUT_PHASES = 512

Result = TypeVar("Result")


@dataclass(frozen=True)
class Field:
    """What one voxel of a node depends on, along each axis.

    Attributes:
        size: Voxels of the input, from the first to the last; the most over all phases of the stride.
        reach: Voxels of the input beyond the block that the voxel stands for, on one side; the most over
            both sides and all phases.
        stride: Voxels of the input from one voxel of the node to the next.
    """

    size: tuple[int, ...]
    reach: tuple[int, ...]
    stride: tuple[Fraction, ...]


@dataclass(frozen=True)
class LayerField:
    """The receptive field of one layer.

    Attributes:
        name: Path of its module.
        kind: ``"convolution"``, ``"max_pool"`` and so on.
        receptive_field: Voxels of the network's input per axis that one voxel of its output depends on;
            ``None`` if that is the whole image.
        stride: Voxels of the network's input from one voxel of its output to the next.
    """

    name: str
    kind: str
    receptive_field: tuple[int, ...] | None
    stride: tuple[Fraction, ...]


def receptive_field(network: nn.Module, spatial_dims: int = 3) -> tuple[int, ...]:
    """Voxels of the input per axis that one voxel of the output depends on.

    Where the network has strides this differs from voxel to voxel, and the most is given. Each axis counts
    from the first voxel to the last, gaps between dilated taps included. Of several outputs the first counts.

    Args:
        network: Any convolutional network of one input, ours or not; its weights do not matter.
        spatial_dims: 2 or 3.

    Raises:
        ConfigError: A layer looks at the whole image, as instance norm does, or is not known; the error
            names it.
        InputError: ``torch.export`` cannot follow the network.

    Example:
        >>> dilated = [nn.Conv2d(1, 1, 3, padding=d, dilation=d) for d in (1, 2, 4)]
        >>> receptive_field(nn.Sequential(*dilated), spatial_dims=2)
        (15, 15)

    References:
        Araujo, Norris, Sim, Computing receptive fields of convolutional neural networks, Distill 2019.
    """
    return _field_of_output(network, spatial_dims).size


def halo(network: nn.Module, spatial_dims: int = 3) -> tuple[int, ...]:
    """Voxels per axis that a tile needs around it: the largest reach to one side, over all phases.

    The output's grid is taken to lie in the middle of the input's, so that with valid convolutions the
    border that they lose counts.

    Args:
        network: As for :func:`receptive_field`.
        spatial_dims: 2 or 3.

    Raises:
        ConfigError: A layer looks at the whole image, or is not known; the error names it.
        InputError: ``torch.export`` cannot follow the network.

    Example:
        >>> halo(nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.MaxPool2d(2)), spatial_dims=2)
        (2, 2)
    """
    return _field_of_output(network, spatial_dims).reach


def layer_receptive_fields(network: nn.Module, spatial_dims: int = 3) -> tuple[LayerField, ...]:
    """Receptive field and cumulative stride of every convolution and pooling, in order.

    Args:
        network: As for :func:`receptive_field`; layers that look at the whole image are no error here.
        spatial_dims: 2 or 3.

    Raises:
        ConfigError: A layer is not known; the error names it.
        InputError: ``torch.export`` cannot follow the network.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2), nn.Conv2d(1, 1, 3))
        >>> [layer.receptive_field for layer in layer_receptive_fields(network, spatial_dims=2)]
        [(3, 3), (4, 4), (8, 8)]
    """

    def rows(graph: Graph) -> Iterator[LayerField]:
        for node in graph.nodes.values():
            if any(isinstance(needs, Window | TransposedWindow | Unpooling) for needs in node.ranges):
                stride = tuple(graph.scales(axis)[node.name] for axis in range(spatial_dims))
                field = field_of(graph, node)
                yield LayerField(node.title, node.kind, field.size if field else None, stride)

    return measure(network, spatial_dims, lambda graph: tuple(rows(graph)))


def measure(network: nn.Module, spatial_dims: int, read: Callable[[Graph], Result]) -> Result:
    """Capture ``network`` on a volume in whose middle no border is felt, and read something off its graph.

    Args:
        network: As for :func:`receptive_field`.
        spatial_dims: 2 or 3.
        read: Calls :func:`field_of`; is called again with a larger volume if that meets a border.
    """
    size = _FIRST_SIZE
    while True:
        try:
            return read(_capture_of_size(network, spatial_dims, size))
        except _BorderError as error:
            size *= 2
            if size > _LARGEST_SIZE:
                raise ConfigError(
                    f"the receptive field of {error.node.kind} exceeds {_LARGEST_SIZE} voxels",
                    where=f"layer '{error.node.title}'",
                    fix="treat the network as one that looks at the whole image",
                ) from error


def field_of(graph: Graph, node: Node) -> Field | None:
    """What one voxel of ``node`` depends on; ``None`` if that is the whole image.

    To be called within :func:`measure`, which sees to it that the volume is large enough.
    """
    if graph.whole([node.name]):
        return None
    axes = [_axis_field(graph, node, axis) for axis in range(graph.spatial_dims)]
    stride = tuple(graph.scales(axis).get(node.name, Fraction(1)) for axis in range(graph.spatial_dims))
    return Field(tuple(size for size, _ in axes), tuple(reach for _, reach in axes), stride)


def input_channels(network: nn.Module) -> int:
    """Channels of the images that ``network`` takes: its ``in_channels``, or its first convolution's.

    Raises:
        ConfigError: It has neither.
    """
    for module in network.modules():
        channels = getattr(module, "in_channels", None)
        if isinstance(channels, int) and not isinstance(channels, bool):
            return channels
    raise ConfigError(
        "it is not known how many channels the network takes",
        where=type(network).__name__,
        fix="give the network an attribute in_channels",
    )


class _BorderError(Exception):
    """The border of the volume was met before the receptive field's end."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name)
        self.node = node


def _field_of_output(network: nn.Module, spatial_dims: int) -> Field:
    def read(graph: Graph) -> Field:
        field = field_of(graph, graph.nodes[graph.outputs[0]])
        if field is None:
            layer = graph.whole(graph.outputs[:1])[0]
            raise ConfigError(
                f"{layer.kind} looks at the whole image, so that the receptive field has no end",
                where=f"layer '{layer.title}'",
                fix="build the network without it, for instance with batch norm",
            )
        return field

    return measure(network, spatial_dims, read)


def _capture_of_size(network: nn.Module, spatial_dims: int, size: int) -> Graph:
    """The graph at the first size from ``size`` on that the network takes, as not all take any."""
    channels = input_channels(network)
    refusals: list[InputError] = []
    for length in range(size, size + _SIZES_TRIED):
        try:
            return capture(network, (1, channels, *(length,) * spatial_dims))
        except InputError as error:
            # An error that has nothing to do with the size stays the same, and no size will help.
            if refusals and str(refusals[-1].__cause__) == str(error.__cause__):
                raise
            refusals.append(error)
    raise refusals[0]


def _axis_field(graph: Graph, node: Node, axis: int) -> tuple[int, int]:
    """Size and reach along one axis, the most over the phases."""
    length = node.size[axis]
    period = graph.period(node.name, axis)
    # Grids that never meet again (an interpolation to any size) have no phases: look at many voxels then.
    count = min(period if period <= length // 2 else _VOXELS_WITHOUT_PHASES, length)
    first = (length - count) // 2
    stride = graph.scales(axis).get(node.name, Fraction(1))
    margin = (graph.nodes[graph.input].size[axis] - length * stride) / 2
    size = reach = 0
    for voxel in range(first, first + count):
        found = graph.needed(node.name, axis, voxel, voxel + 1)
        if _meets_border(graph, found, axis):
            raise _BorderError(node)
        if graph.input in found:
            start, stop = found[graph.input]
            block = margin + voxel * stride
            size = max(size, stop - start)
            reach = max(reach, math.ceil(block - start), math.ceil(stop - block - stride))
    return size, reach


def _meets_border(graph: Graph, found: dict[str, Slices], axis: int) -> bool:
    """Whether slices beyond any node's ends are needed."""
    return any(start < 0 or stop > graph.nodes[name].size[axis] for name, (start, stop) in found.items())
