"""Translation of what stands between layers: arithmetic, joining and cutting, changes of shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from medseg.network_graph.calls import Call, Constant, Flat, FlatUnpooled, Value, tensors_in
from medseg.network_graph.graph import Node
from medseg.network_graph.layers import unpooled, window_of
from medseg.ranges import AxisRange, Broadcast, Pointwise, Shift

__all__ = ["OPERATIONS", "fold", "fresh"]

Handler = Callable[[Call], Value]

_ELEMENTWISE = """
    abs add addcdiv addcmul bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max
    clamp_min cos div elu eq erf exp expm1 floor floor_divide ge gelu gt hardshrink hardsigmoid
    hardswish hardtanh isfinite isinf isnan le leaky_relu lerp log log1p log_sigmoid logical_and
    logical_not logical_or logical_xor lt masked_fill maximum minimum mish mul ne neg pow reciprocal
    relu relu6 round rrelu rsqrt rsub selu sigmoid sign silu sin softplus softshrink sqrt square sub
    tanh tanhshrink threshold true_divide where
""".split()  # noqa: SIM905
_DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_SAME = (
    "clone",
    "contiguous",
    "detach",
    "alias",
    "to",
    "_to_copy",
    "type_as",
    "lift_fresh_copy",
    "lift_fresh",
)
_VIEWS = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose",
)  # fmt: skip
_FRESH = {"zeros": 0.0, "ones": 1.0, "full": None, "scalar_tensor": None}


def fresh(call: Call) -> Constant | None:
    """The constant that a call such as ``zeros`` or ``new_full`` makes."""
    operation = call.operation.removeprefix("new_").removesuffix("_like")
    if operation not in _FRESH:
        return None
    value = _FRESH[operation]
    if value is None:
        given = call.arguments.get("fill_value", call.arguments.get("s"))
        value = float(given) if isinstance(given, int | float) else None
    return Constant((), call.shapes[0], uniform=True, value=value)


def fold(call: Call) -> Constant:
    """What a call makes of constants alone."""
    parts = [value for value in tensors_in(list(call.arguments.values())) if isinstance(value, Constant)]
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    plain = call.operation in OPERATIONS
    uniform = plain and bool(parts) and all(part.uniform for part in parts)
    kept = uniform and call.operation in (*_VIEWS, *_SAME, "expand", "repeat", *_CUTS)
    derived = call.operation not in _SAME or any(part.derived for part in parts)
    return Constant(names, call.shapes[0], uniform, parts[0].value if kept else None, derived)


def _elementwise(call: Call) -> Value:
    inputs, mapped, position = [], set(), 0
    for role, argument in call.arguments.items():
        for value in tensors_in(argument):
            operand = _operand(call, value, position)
            position += 1
            if operand is not None:
                inputs.append(operand)
                mapped.add(role)
    # A constant that became a node of its own is no option beside it.
    rest = {role: argument for role, argument in call.arguments.items() if role not in mapped}
    return replace(call, arguments=rest).add(call.operation, inputs)


def _operand(call: Call, value: Value, position: int) -> Node | None:
    """A node of the result's size; ``None`` for a constant that is the same at every voxel."""
    after = call.shapes[0][-len(call.axes) :]
    if isinstance(value, Constant):
        if all(length == 1 for length in value.shape[-len(after) :]):
            if not value.names and value.value is None:
                call.refuse("takes a constant that the network makes up anew")
            return None
        return _constant(call, value, position)
    node = call.node_of(value, "operand")
    if node.size == after:
        return node
    ranges: list[AxisRange] = [
        Pointwise() if length == wanted else Broadcast(wanted)
        for length, wanted in zip(node.size, after, strict=True)
    ]
    shape = (*node.shape[: -len(after)], *after)
    name = f"{call.name}_broadcast_{position}"
    return call.add("broadcast", [node], ranges, name=name, shape=shape, dtype=node.dtype, shares_memory=True)


def _prelu(call: Call) -> Value:
    """Its slopes belong to channels, though they are the last axis of their tensor."""
    return call.add("prelu", [call.tensor()])


def _constant(call: Call, value: Constant, position: int) -> Node:
    """A map of one value, such as zeros that are joined on."""
    if not value.uniform:
        call.refuse("takes a constant that varies over space")
    if value.value is None:
        call.refuse("takes a constant that the network makes up anew")
    return call.add(
        "constant",
        [],
        name=f"{call.name}_constant_{position}",
        shape=value.shape,
        shares_memory=False,
        value=value.value,
    )


def _dropout(call: Call) -> Value:
    source = call.arguments["self" if call.in_place else "input"]
    if call.arguments["train"]:
        call.refuse("drops voxels at random, in evaluation too")
    if isinstance(source, Flat | FlatUnpooled):
        return source
    return call.add(call.operation, [call.node_of(source, "input")], shares_memory=True)


def _same(call: Call) -> Value:
    """Copies and conversions: the same values."""
    source = call.arguments["self"]
    if isinstance(source, Node) and call.dtypes[0] != source.dtype:
        return call.add("to", [source])
    return source  # type: ignore[no-any-return]


def _view(call: Call) -> Value:
    source, after, dims = call.arguments["self"], call.shapes[0], len(call.axes)
    if isinstance(source, FlatUnpooled):
        return _shape_unpooled(call, source)
    node = source.node if isinstance(source, Flat) else call.node_of(source, "self")
    flat = (*node.shape[:-dims], math.prod(node.size))
    if after == flat and dims > 1 and call.operation not in ("permute", "transpose", "squeeze"):
        return Flat(node)
    moved = call.operation in ("permute", "transpose") and not _keeps_space(call, node)
    if moved or after[-dims:] != node.size:
        call.refuse(f"reshapes space, from {node.shape} to {after}")
    return call.add("view", [node], shares_memory=True)


def _keeps_space(call: Call, node: Node) -> bool:
    """Whether a permutation leaves the spatial axes where they are."""
    rank = len(node.shape)
    if call.operation == "transpose":
        moved = {call.arguments["dim0"] % rank, call.arguments["dim1"] % rank}
        return len(moved) == 1 or max(moved) < rank - len(call.axes)
    order = [dim % rank for dim in call.arguments["dims"]]
    return all(order[dim] == dim for dim in range(rank - len(call.axes), rank))


def _shape_unpooled(call: Call, source: FlatUnpooled) -> Value:
    return unpooled(call, source.indices, source.values, shared=source.shared)


def _scatter(call: Call) -> Value:
    """Values put into zeros by the flat indices of a max pooling: the first half of an unpooling."""
    zeros, indices, values = (call.arguments.get(name) for name in ("self", "index", "src"))
    if not isinstance(indices, Flat) or not isinstance(values, Flat):
        call.refuse("puts values to places that no max pooling gave")
    before, _ = window_of(call, indices.node)
    fits = isinstance(zeros, Constant) and zeros.value == 0.0 and zeros.shape[-1] == math.prod(before.size)
    last = call.arguments["dim"] % len(call.shapes[0]) == len(call.shapes[0]) - 1
    if not fits or not last or call.arguments.get("reduce") is not None:
        call.refuse("is no unpooling into zeros of what was pooled")
    return FlatUnpooled(indices.node, values.node, "sum" if call.operation == "scatter_add" else "one")


def _join(call: Call) -> Value:
    operands: list[Value] = list(tensors_in(call.arguments["tensors"]))
    dims = len(call.axes)
    if call.arguments["dim"] % len(call.shapes[0]) >= len(call.shapes[0]) - dims:
        call.refuse("joins along space")
    inputs = []
    for position, value in enumerate(operands):
        if isinstance(value, Constant):
            inputs.append(_constant(call, value, position))
        else:
            inputs.append(call.node_of(value, f"tensors[{position}]"))
    return call.add(call.operation, inputs, shares_memory=False)


def _cut(call: Call, dim: int, start: int, length: int, *, result: int = 0, name: str | None = None) -> Value:
    """Entries [start, start + length) along ``dim``: channels, or a crop of space."""
    source = call.tensor()
    dims, rank = len(call.axes), len(source.shape)
    axis = dim % rank - (rank - dims)
    if axis < 0:
        return call.add("slice", [source], result=result, name=name, shares_memory=True, start=start)
    if length == source.size[axis]:
        return source
    ranges: list[AxisRange] = [Pointwise()] * dims
    ranges[axis] = Shift(-start, start + length - source.size[axis])
    return call.add("crop", [source], ranges, result=result, name=name, shares_memory=True, start=start)


def _narrow(call: Call) -> Value:
    return _cut(call, call.arguments["dim"], call.arguments["start"], call.arguments["length"])


def _slice(call: Call) -> Value:
    if call.arguments.get("step", 1) != 1:
        call.refuse("takes every so many entries alone")
    dim = call.arguments["dim"]
    size = call.tensor().shape[dim]
    start, stop, _ = slice(call.arguments["start"], call.arguments["end"]).indices(size)
    return _cut(call, dim, start, stop - start)


def _select(call: Call) -> Value:
    source, dim = call.tensor(), call.arguments["dim"]
    if dim % len(source.shape) >= len(source.shape) - len(call.axes):
        call.refuse("takes a spatial axis away")
    return call.add("slice", [source], shares_memory=True)


def _split(call: Call) -> Value:
    dim = call.arguments["dim"]
    pieces, start = [], 0
    for result, shape in enumerate(call.shapes):
        name = f"{call.name}_{result}"
        pieces.append(_cut(call, dim, start, shape[dim], result=result, name=name))
        start += shape[dim]
    return tuple(pieces)


def _expand(call: Call) -> Value:
    """Channels, or an axis of one slice, repeated."""
    source, dims = call.tensor(), len(call.axes)
    after = call.shapes[0][-dims:]
    ranges: list[AxisRange] = []
    for before, wanted in zip(source.size, after, strict=True):
        if before not in (1, wanted):
            call.refuse("repeats space")
        ranges.append(Pointwise() if before == wanted else Broadcast(wanted))
    kind = "broadcast" if after != source.size else call.operation
    return call.add(kind, [source], ranges, shares_memory=call.operation == "expand")


_CUTS: dict[str, Handler] = {
    "narrow": _narrow,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split"), _split),
}

OPERATIONS: dict[str, Handler] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "prelu": _prelu,
    **dict.fromkeys(_DROPOUT, _dropout),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(("scatter", "scatter_add"), _scatter),
    **dict.fromkeys(("cat", "concat", "stack"), _join),
    **dict.fromkeys(("expand", "repeat"), _expand),
    **_CUTS,
}
"""Operations by name, each with what makes its node."""
