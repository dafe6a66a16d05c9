"""What the translation of a captured network works on: values, and calls of operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import torch

from medseg.errors import ConfigError
from medseg.network_graph.graph import Node
from medseg.ranges import AxisRange, Pointwise

__all__ = ["Builder", "Call", "Constant", "Flat", "FlatUnpooled", "Value", "tensors_in"]


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the image.

    Attributes:
        names: Parameters and buffers that it is made of.
        shape: Its shape.
        uniform: Whether all its entries are equal whatever the parameters are, as zeros are.
        value: Its entry, where it is uniform and known.
        derived: Whether it is computed from what it is made of, instead of being a parameter or buffer.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    uniform: bool = False
    value: float | None = None
    derived: bool = False


@dataclass(frozen=True)
class Flat:
    """A node whose spatial axes were flattened to one."""

    node: Node


@dataclass(frozen=True)
class FlatUnpooled:
    """Values that were scattered by the flat indices of a max pooling.

    Attributes:
        indices: Node of kind ``"max_pool_indices"``.
        values: What was put there.
        shared: What a voxel gets that is named more than once: the ``"sum"``, or ``"one"`` of the values.
    """

    indices: Node
    values: Node
    shared: str


Value: TypeAlias = "Node | Constant | Flat | FlatUnpooled | tuple[Any, ...] | None"


@dataclass
class Builder:
    """The nodes made so far.

    Attributes:
        spatial_dims: 2 or 3.
        parameter_sizes: Entries of each parameter, by name.
        nodes: By name.
    """

    spatial_dims: int
    parameter_sizes: Mapping[str, int]
    nodes: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of an operation, as the one who translates it sees it.

    Attributes:
        builder: Where nodes go.
        name: Unique.
        operation: The operation's name without overload, and without the underscore of those in place.
        module: Path of the module that called it.
        arguments: By name, defaults included; tensors are values.
        shapes: Of its results.
        dtypes: Of its results.
        in_place: Whether it overwrites its first argument.
        overload: PyTorch's own name of the operation.
    """

    builder: Builder
    name: str
    operation: str
    module: str
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    in_place: bool = False
    overload: str = ""

    @property
    def axes(self) -> range:
        """The spatial axes, from 0."""
        return range(self.builder.spatial_dims)

    @property
    def pointwise(self) -> tuple[AxisRange, ...]:
        """The ranges of what looks at one voxel at a time."""
        return (Pointwise(),) * self.builder.spatial_dims

    def refuse(self, why: str) -> NoReturn:
        """Raise the error that names the layer."""
        raise ConfigError(
            f"the operation '{self.operation}' {why}",
            where=f"layer '{self.module}'" if self.module else "the network's own forward",
            fix="replace the layer, or run the network whole or on windows",
        )

    def per_axis(self, argument: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """An argument such as ``stride``, spelt out for every spatial axis."""
        given = self.arguments.get(argument)
        numbers = tuple(default if given is None or given == [] else given)
        return numbers * self.builder.spatial_dims if len(numbers) == 1 else numbers

    def tensor(self, argument: str = "self") -> Node:
        """The argument that is the image or depends on it, its spatial axes in place."""
        value = self.arguments.get(argument)
        return self.node_of(value, argument)

    def node_of(self, value: Value, argument: str) -> Node:
        """The node that ``value`` is, or a refusal."""
        if isinstance(value, Node):
            return value
        if isinstance(value, Flat | FlatUnpooled):
            self.refuse("works on flattened space, where neighbours can no longer be told")
        return self.refuse(f"gets no image as '{argument}'")

    def add(
        self,
        kind: str,
        inputs: Sequence[Node],
        ranges: Sequence[AxisRange] | None = None,
        *,
        result: int = 0,
        name: str | None = None,
        shape: tuple[int, ...] | None = None,
        dtype: torch.dtype | None = None,
        shares_memory: bool | None = None,
        **options: Any,
    ) -> Node:
        """Make a node of this call.

        Args:
            kind: See :class:`Node`.
            inputs: What it reads.
            ranges: One for each spatial axis; pointwise if not given.
            result: Which of the call's results it is.
            name: The call's if not given.
            shape: The result's if not given.
            dtype: The result's if not given.
            shares_memory: If not given, whether the call works in place.
            **options: Beside the call's plain arguments.
        """
        constants = {role: value for role, value in self.arguments.items() if isinstance(value, Constant)}
        weights = {role: value.names for role, value in constants.items() if value.names}
        plain = {
            role: value
            for role, value in self.arguments.items()
            if value is not None and not any(True for _ in tensors_in(value))
        }
        plain |= {role: value.value for role, value in constants.items() if value.value is not None}
        sizes = self.builder.parameter_sizes
        node = Node(
            name=name or self.name,
            kind=kind,
            module=self.module,
            inputs=tuple(source.name for source in inputs),
            shape=self.shapes[result] if shape is None else shape,
            dtype=dtype or self.dtypes[result],
            ranges=tuple(ranges if ranges is not None else self.pointwise),
            options={**plain, **options},
            weights=weights,
            derived=tuple(role for role in weights if constants[role].derived),
            parameter_count=sum(sizes.get(entry, 0) for entry in dict.fromkeys(sum(weights.values(), ()))),
            shares_memory=self.in_place if shares_memory is None else shares_memory,
            overload=self.overload,
        )
        self.builder.nodes[node.name] = node
        return node


def tensors_in(value: Any) -> Iterator[Value]:
    """All values in an argument, lists looked through."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Node | Constant | Flat | FlatUnpooled):
        yield value
