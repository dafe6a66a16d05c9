"""The graph of a network's layers at one input shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch

from medseg.ranges import AxisRange, Slices, Whole

__all__ = ["Graph", "Node"]


@dataclass(frozen=True)
class Node:
    """One layer, or one operation between layers.

    The spatial axes are the last ones of its result, whatever stands before them.

    Attributes:
        name: Unique within the graph.
        kind: What it does: ``"convolution"``, ``"transposed_convolution"``, ``"max_pool"``,
            ``"max_pool_indices"``, ``"average_pool"``, ``"max_unpool"``, ``"interpolation"``, ``"pad"``,
            ``"crop"`` (along space), ``"slice"`` (of channels), ``"broadcast"``, ``"adaptive_pool"``,
            ``"batch_norm"``, ``"instance_norm"``, ``"group_norm"``, ``"input"``, ``"constant"``, and for
            all else the name of PyTorch's operation, such as ``"relu"`` or ``"cat"``.
        module: Path of the module that it belongs to; empty for the network's own ``forward``.
        inputs: Names of the nodes that it reads, in the order of its arguments.
        shape: Of its result.
        dtype: Of its result.
        ranges: One for each spatial axis; the same for all inputs.
        options: Its other arguments by name, such as ``stride``, ``groups`` or ``eps``.
        weights: Names of the parameters and buffers behind each argument that is none of ``inputs``.
        derived: Those of ``weights`` that are computed from what they name, instead of being it.
        parameter_count: Parameters (not buffers) that it reads.
        shares_memory: Whether the result lies in its first input's memory: a view, or done in place.
        overload: PyTorch's own name of the operation, such as ``"aten.add.Tensor"``.
    """

    name: str
    kind: str
    module: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    ranges: tuple[AxisRange, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    parameter_count: int = 0
    shares_memory: bool = False
    overload: str = ""

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along each spatial axis."""
        return self.shape[-len(self.ranges) :]

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def title(self) -> str:
        """What people call it: its module, or where it has none its name."""
        return self.module or self.name


@dataclass(frozen=True)
class Graph:
    """All layers that the outputs depend on.

    Attributes:
        nodes: By name, in an order in which they can be evaluated.
        input: The name of the node that stands for the network's input.
        outputs: Names of the nodes that the network gives.
    """

    nodes: Mapping[str, Node]
    input: str
    outputs: tuple[str, ...]

    @property
    def spatial_dims(self) -> int:
        """How many spatial axes there are."""
        return len(self.nodes[self.input].ranges)

    @cached_property
    def _ancestors(self) -> dict[str, tuple[Node, ...]]:
        return {}

    def ancestors(self, name: str) -> tuple[Node, ...]:
        """All nodes that ``name`` depends on and itself, in the order of evaluation."""
        if name not in self._ancestors:
            reached = {name}
            for node in reversed(tuple(self.nodes.values())):
                if node.name in reached:
                    reached.update(node.inputs)
            self._ancestors[name] = tuple(node for node in self.nodes.values() if node.name in reached)
        return self._ancestors[name]

    def needed(self, name: str, axis: int, start: int, stop: int) -> dict[str, Slices]:
        """Which slices of every node the slices [start, stop) of one node depend on.

        Args:
            name: The node.
            axis: Spatial axis, from 0.
            start: First slice of it.
            stop: Behind the last one.

        Returns:
            For each node on the way, the smallest range that holds them; unclipped, so that what reaches
            beyond a node's ends is padding. Nodes of which nothing is needed are left out.
        """
        found: dict[str, Slices] = {name: (start, stop)}
        for node in reversed(self.ancestors(name)):
            if node.name not in found or not node.inputs:
                continue
            first, last = node.ranges[axis].needs(*found[node.name])
            if first >= last:
                continue
            for source in node.inputs:
                here = found.get(source, (first, last))
                found[source] = (min(here[0], first), max(here[1], last))
        return found

    def scales(self, axis: int) -> dict[str, Fraction]:
        """Input slices per slice of each node along ``axis``: its cumulative stride."""
        return self._scales[axis]

    @cached_property
    def _scales(self) -> tuple[dict[str, Fraction], ...]:
        scales: tuple[dict[str, Fraction], ...] = tuple({} for _ in range(self.spatial_dims))
        for axis, found in enumerate(scales):
            for node in self.nodes.values():
                before = next((found[source] for source in node.inputs if source in found), None)
                if node.name == self.input:
                    found[node.name] = Fraction(1)
                elif before is not None:
                    found[node.name] = before * node.ranges[axis].scale
        return scales

    def period(self, name: str, axis: int) -> int:
        """Slices of one node after which what it depends on repeats, shifted: the phases of the stride."""
        scales = self.scales(axis)
        if name not in scales:
            return 1
        ratios = (scales[name] / scales[node.name] for node in self.ancestors(name) if node.name in scales)
        return math.lcm(*(ratio.denominator for ratio in ratios))

    def whole(self, names: Sequence[str] | None = None) -> tuple[Node, ...]:
        """Nodes that look at everything along an axis of more than one slice.

        Args:
            names: Look among what these depend on; the outputs if not given.
        """
        reached = {node.name for name in names or self.outputs for node in self.ancestors(name)}
        return tuple(
            node
            for node in self.nodes.values()
            if node.name in reached
            and any(isinstance(needs, Whole) and needs.input_length > 1 for needs in node.ranges)
        )
