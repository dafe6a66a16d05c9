"""Layers that need no place of their own: folded into, or done in place on, what the layer before makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from medseg.inference.streaming.kernels.moves import moves_axes
from medseg.inference.streaming.kernels.pointwise import in_place, scale_and_shift
from medseg.inference.streaming.limits import require_streamable
from medseg.inference.streaming.schedule import consumers
from medseg.network_graph import Graph, Node
from medseg.ranges import Pointwise

__all__ = ["Simplified", "simplify"]

_CONVOLUTIONS = ("convolution", "transposed_convolution")
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_NOT_OVERWRITTEN = ("input", "crop", "slice", "broadcast", "expand", "constant")
"""Kinds of layers whose values lie in the memory of others, or several in the same place."""


@dataclass(frozen=True)
class Simplified:
    """A graph with fewer layers that gives the same.

    Attributes:
        graph: Each node goes by the name of the last layer that went into it.
        followed_by: For each node, the layers that work in place on what it makes.
        tensors: Parameters and buffers, with those that were folded.
    """

    graph: Graph
    followed_by: Mapping[str, tuple[Node, ...]]
    tensors: Mapping[str, Tensor]


def simplify(graph: Graph, tensors: Mapping[str, Tensor]) -> Simplified:
    """Fold batch norms into the convolutions before them, and hang activations on what they follow.

    A layer joins the one before it if nobody else reads that one. Convolutions read channels that are
    joined for them alone from where they lie.

    Args:
        graph: Of a network in evaluation mode.
        tensors: Its parameters and buffers by name.

    Raises:
        ConfigError: The network cannot be streamed; the error says why.
    """
    require_streamable(graph)
    return _Simplifier(graph, tensors).run()


class _Simplifier:
    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor]) -> None:
        self._graph = graph
        self._tensors = dict(tensors)
        self._readers = consumers(graph)
        self._heads: dict[str, Node] = {}
        self._followers: dict[str, list[Node]] = {}
        self._name_of: dict[str, str] = {}

    def run(self) -> Simplified:
        for node in self._graph.nodes.values():
            before = self._only_source(node)
            if before is None or not self._joined(before, node):
                self._heads[node.name] = replace(
                    node, inputs=tuple(self._name_of[source] for source in node.inputs)
                )
                self._followers[node.name] = []
                self._name_of[node.name] = node.name
        outputs = tuple(self._name_of[name] for name in self._graph.outputs)
        followed_by = {name: tuple(nodes) for name, nodes in self._followers.items()}
        graph = Graph(dict(self._heads), self._name_of[self._graph.input], outputs)
        graph = _with_side_by_side(graph, followed_by)
        return Simplified(graph, followed_by, self._tensors)

    def _only_source(self, node: Node) -> str | None:
        """The node that this one may join."""
        if len(node.inputs) != 1 or not all(isinstance(needs, Pointwise) for needs in node.ranges):
            return None
        (source,) = node.inputs
        alone = len(self._readers[source]) == 1 and source not in self._graph.outputs
        return self._name_of[source] if alone else None

    def _joined(self, before: str, node: Node) -> bool:
        head = self._heads[before]
        if _changes_nothing(node, head):
            self._join(before, node, None)
            return True
        if node.kind == "batch_norm" and head.kind in _CONVOLUTIONS and not self._followers[before]:
            self._fold(before, node)
            return True
        if in_place(node) is not None and head.kind not in _NOT_OVERWRITTEN:
            self._join(before, node, node)
            return True
        return False

    def _join(self, before: str, node: Node, follower: Node | None) -> None:
        followers = self._followers.pop(before) + ([follower] if follower is not None else [])
        # It is renamed rather than moved, so that the order of evaluation stays.
        self._heads = {
            (node.name if name == before else name): (
                replace(entry, name=node.name) if name == before else entry
            )
            for name, entry in self._heads.items()
        }
        self._followers[node.name] = followers
        for old, new in self._name_of.items():
            if new == before:
                self._name_of[old] = node.name
        self._name_of[node.name] = node.name

    def _fold(self, before: str, norm: Node) -> None:
        head = self._heads[before]
        statistics = {role: self._tensors[names[0]] for role, names in norm.weights.items()}
        scale, shift = scale_and_shift(norm, statistics)
        weight = self._tensors[head.weights["weight"][0]].double()
        groups = int(head.options.get("groups", 1))
        transposed = head.kind == "transposed_convolution"
        spread = _by_output_channel(scale, weight, groups, transposed=transposed)
        bias = shift
        if "bias" in head.weights:
            bias = bias + scale * self._tensors[head.weights["bias"][0]].double()
        own = self._tensors[head.weights["weight"][0]].dtype
        self._tensors[f"{norm.name}.weight"] = (weight * spread).to(own)
        self._tensors[f"{norm.name}.bias"] = bias.to(own)
        weights = {"weight": (f"{norm.name}.weight",), "bias": (f"{norm.name}.bias",)}
        self._heads[before] = replace(head, weights=weights)
        self._join(before, norm, None)


def _with_side_by_side(graph: Graph, followed_by: Mapping[str, tuple[Node, ...]]) -> Graph:
    """The graph in which convolutions read what is joined for them alone without its being joined first."""
    readers = consumers(graph)
    joins = {
        node.name: node
        for node in graph.nodes.values()
        if _joins_channels(node)
        and not followed_by.get(node.name)
        and node.name not in graph.outputs
        and all(reader.kind == "convolution" for reader in readers[node.name])
    }
    nodes = {
        name: replace(node, inputs=joins[node.inputs[0]].inputs)
        if node.inputs[:1] and node.inputs[0] in joins
        else node
        for name, node in graph.nodes.items()
        if name not in joins
    }
    return Graph(nodes, graph.input, graph.outputs)


def _changes_nothing(node: Node, before: Node) -> bool:
    if node.kind in _DROPOUTS:
        return True
    return node.kind == "view" and node.shape == before.shape and not moves_axes(node)


def _joins_channels(node: Node) -> bool:
    channels_axis = len(node.shape) - len(node.ranges) - 1
    return node.kind in ("cat", "concat") and node.options["dim"] % len(node.shape) == channels_axis


def _by_output_channel(scale: Tensor, weight: Tensor, groups: int, *, transposed: bool) -> Tensor:
    """The scale of each output channel, where a convolution's weights have it."""
    behind = [1] * (weight.ndim - 2)
    if not transposed:
        return scale.reshape(-1, 1, *behind)
    # (inputs, outputs of a group, …): the inputs of group g lead to the outputs of group g.
    by_group = scale.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return by_group.reshape(weight.shape[0], -1, *behind)
