"""What a network costs: parameters, multiply-adds and memory, in all and layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from medseg.network_graph import Graph, Node, capture
from medseg.networks.receptive_fields import Field, field_of, measure
from medseg.ranges import Pointwise, TransposedWindow, Unpooling, Window

__all__ = ["LayerSummary", "NetworkSummary", "summarize"]

_INDEX_BYTES = 8

# What a layer's gradient is computed from, after PyTorch's own formulas; of all others it is their inputs.
# The indices of pooling, which max unpooling needs too, are counted with the pooling.
_FROM_OUTPUT = {"relu", "sigmoid", "tanh", "softmax", "log_softmax", "exp", "sqrt", "hardtanh", "relu6"}
_FROM_NOTHING = {
    "add", "argmax", "broadcast", "cat", "concat", "constant", "crop", "expand", "input",
    "interpolation", "max_pool_indices", "max_unpool", "mean", "neg", "repeat", "rsub", "slice",
    "stack", "sub", "sum", "to", "view",
}  # fmt: skip


@dataclass(frozen=True)
class LayerSummary:
    """One row of the table: a layer that has parameters, or changes the grid, or looks at neighbours.

    Attributes:
        name: Path of its module.
        kind: ``"convolution"``, ``"batch_norm"``, ``"max_pool"`` and so on.
        kernel_size: Taps per axis; ``None`` for what has no window.
        stride: Voxels per axis from one window to the next, of a transposed window those of its output.
        shape: Of its output.
        parameters: How many it has.
        multiply_adds: How many it takes.
        receptive_field: Voxels of the input per axis; ``None`` if it depends on the whole image.
    """

    name: str
    kind: str
    kernel_size: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, ...] | None


@dataclass(frozen=True)
class NetworkSummary:
    """A network at one shape of its input.

    Attributes:
        shape: Of the input, (B, C, X, Y[, Z]).
        output_shapes: Of each output.
        parameters: All of them.
        trainable_parameters: Those that ask for a gradient.
        multiply_adds: Of all convolutions, for the whole batch; norms, activations, pooling and
            interpolation, whose share is small, do not count.
        peak_bytes: Most bytes of activations alive at once in evaluation, if each is freed when its last
            reader is done; the input counts, parameters and the layers' own workspace do not.
        training_bytes: Bytes of activations that training keeps for the backward pass.
        receptive_field: Voxels per axis that one voxel of the first output depends on; ``None`` if that is
            the whole image.
        halo: Voxels per axis that a tile needs around it; ``None`` like the receptive field.
        total_stride: Voxels of the input per voxel of the coarsest grid, per axis.
        whole_layers: Layers that look at the whole image.
        layers: In the order of evaluation.
    """

    shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    peak_bytes: int
    training_bytes: int
    receptive_field: tuple[int, ...] | None
    halo: tuple[int, ...] | None
    total_stride: tuple[int, ...]
    whole_layers: tuple[str, ...]
    layers: tuple[LayerSummary, ...]


def summarize(network: nn.Module, shape: Sequence[int]) -> NetworkSummary:
    """Count what ``network`` has and needs, without computing anything.

    Args:
        network: Any convolutional network of one input; may lie on the meta device.
        shape: Of the input, (B, C, X, Y) or (B, C, X, Y, Z).

    Raises:
        InputError: The network does not take this shape, or ``torch.export`` cannot follow it.
        ConfigError: A layer is not known; the error names it.

    Example:
        >>> summary = summarize(nn.Conv2d(1, 4, 3, padding=1), (1, 1, 10, 10))
        >>> summary.parameters, summary.multiply_adds, summary.receptive_field
        (40, 3600, (3, 3))
    """
    graph = capture(network, shape)
    fields = measure(network, graph.spatial_dims, _fields)
    parameters = list(network.parameters())
    output = fields.get(graph.outputs[0])
    whole = graph.whole()
    return NetworkSummary(
        shape=tuple(shape),
        output_shapes=tuple(graph.nodes[name].shape for name in graph.outputs),
        parameters=sum(entry.numel() for entry in parameters),
        trainable_parameters=sum(entry.numel() for entry in parameters if entry.requires_grad),
        multiply_adds=sum(_multiply_adds(graph, node) for node in graph.nodes.values()),
        peak_bytes=_peak_bytes(graph),
        training_bytes=_training_bytes(graph),
        receptive_field=output.size if output else None,
        halo=output.reach if output else None,
        total_stride=_total_stride(graph),
        whole_layers=tuple(dict.fromkeys(node.title for node in whole)),
        layers=tuple(_row(graph, node, fields) for node in graph.nodes.values() if _is_row(node)),
    )


def _fields(graph: Graph) -> dict[str, Field | None]:
    shown = {node.name for node in graph.nodes.values() if _is_row(node)} | set(graph.outputs)
    return {name: field_of(graph, graph.nodes[name]) for name in shown}


def _is_row(node: Node) -> bool:
    moves = any(not isinstance(needs, Pointwise) for needs in node.ranges)
    return node.parameter_count > 0 or (moves and node.kind not in ("crop", "broadcast"))


def _row(graph: Graph, node: Node, fields: dict[str, Field | None]) -> LayerSummary:
    windows = [needs.window if isinstance(needs, Unpooling) else needs for needs in node.ranges]
    shaped = [needs for needs in windows if isinstance(needs, Window | TransposedWindow)]
    field = fields.get(node.name)
    return LayerSummary(
        name=node.title,
        kind=node.kind,
        kernel_size=tuple(window.kernel for window in shaped) or None,
        stride=tuple(window.stride for window in shaped) or None,
        shape=node.shape,
        parameters=node.parameter_count,
        multiply_adds=_multiply_adds(graph, node),
        receptive_field=field.size if field else None,
    )


def _multiply_adds(graph: Graph, node: Node) -> int:
    """Products that a convolution adds up: each kernel entry once for every voxel that it is laid on."""
    if node.kind not in ("convolution", "transposed_convolution"):
        return 0
    source = graph.nodes[node.inputs[0]]
    taps = math.prod(node.options["kernel_size"])
    # Every input channel of a group meets every output channel of the same group.
    pairs = source.shape[1] * node.shape[1] // node.options["groups"]
    grid = node if node.kind == "convolution" else source
    products: int = node.shape[0] * pairs * taps * math.prod(grid.size)
    return products


def _total_stride(graph: Graph) -> tuple[int, ...]:
    by_axis = (graph.scales(axis).values() for axis in range(graph.spatial_dims))
    return tuple(math.ceil(max(scales)) for scales in by_axis)


def _memory_of(graph: Graph, shares: Callable[[Node], bool]) -> dict[str, str]:
    """The node in whose memory each node's result lies."""
    owner: dict[str, str] = {}
    for node in graph.nodes.values():
        owner[node.name] = owner[node.inputs[0]] if node.inputs and shares(node) else node.name
    return owner


def _peak_bytes(graph: Graph) -> int:
    owner = _memory_of(graph, lambda node: node.shares_memory)
    last_read = {owner[name]: name for name in graph.nodes}
    last_read.update({owner[source]: node.name for node in graph.nodes.values() for source in node.inputs})
    last_read.update(dict.fromkeys((owner[name] for name in graph.outputs), ""))
    alive: dict[str, int] = {}
    peak = 0
    for node in graph.nodes.values():
        if owner[node.name] == node.name:
            alive[node.name] = node.nbytes
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_read[name] != node.name}
    return peak


def _training_bytes(graph: Graph) -> int:
    owner = _memory_of(graph, lambda node: node.shares_memory and not _drops(node))
    kept: dict[str, int] = {}
    for node in graph.nodes.values():
        for name in _kept_for_gradient(node):
            kept[owner[name]] = graph.nodes[owner[name]].nbytes
        if node.kind == "max_pool":
            kept[f"{node.name} indices"] = math.prod(node.shape) * _INDEX_BYTES
        if node.kind == "dropout" and _drops(node):
            kept[f"{node.name} mask"] = node.nbytes
    return sum(kept.values())


def _drops(node: Node) -> bool:
    """Whether this is a dropout that makes a map of its own in training, though it does nothing otherwise."""
    return node.kind in ("dropout", "feature_dropout") and node.options.get("p", 0.0) > 0.0


def _kept_for_gradient(node: Node) -> tuple[str, ...]:
    """Nodes whose results the gradient of ``node`` is computed from."""
    if node.kind in _FROM_NOTHING or _drops(node):
        return ()
    if node.kind in _FROM_OUTPUT or node.shares_memory:
        return (node.name,)
    return node.inputs
