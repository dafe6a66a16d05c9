"""Translation of layers that look at neighbours, or at everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medseg.network_graph.calls import Call, Constant, Value
from medseg.network_graph.graph import Node
from medseg.ranges import (
    AxisRange,
    Interpolation,
    Pointwise,
    Shift,
    TransposedWindow,
    Unpooling,
    Whole,
    Window,
)

__all__ = ["LAYERS", "unpooled", "window_of"]


def _convolution(call: Call) -> Value:
    source = call.tensor("input")
    weight = call.arguments["weight"]
    if not isinstance(weight, Constant):
        call.refuse("takes weights that depend on the image")
    if call.arguments.get("transposed") or call.operation.startswith("conv_transpose"):
        return _transposed_convolution(call, source, weight)
    kernel = weight.shape[2:]
    if len(kernel) != len(call.axes):
        call.refuse(f"looks along {len(kernel)} axes where the image has {len(call.axes)}")
    stride, dilation = call.per_axis("stride"), call.per_axis("dilation")
    padding = _convolution_padding(call, kernel, dilation)
    ranges = [Window(kernel[a], stride[a], padding[a], dilation[a]) for a in call.axes]
    return call.add("convolution", [source], ranges, kernel_size=kernel)


def _convolution_padding(call: Call, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    named = call.arguments["padding"]
    if named == "valid":
        return [(0, 0)] * len(kernel)
    if named == "same":
        losses = [gap * (taps - 1) for taps, gap in zip(kernel, dilation, strict=True)]
        return [(loss // 2, loss - loss // 2) for loss in losses]
    return [(pad, pad) for pad in call.per_axis("padding")]


def _transposed_convolution(call: Call, source: Node, weight: Constant) -> Value:
    kernel = weight.shape[2:]
    stride, padding = call.per_axis("stride"), call.per_axis("padding")
    dilation, added = call.per_axis("dilation"), call.per_axis("output_padding")
    ranges = [TransposedWindow(kernel[a], stride[a], padding[a], dilation[a], added[a]) for a in call.axes]
    return call.add("transposed_convolution", [source], ranges, kernel_size=kernel)


def _pool(call: Call) -> Value:
    source = call.tensor()
    kernel = call.per_axis("kernel_size")
    stride = call.per_axis("stride", default=kernel)
    padding = call.per_axis("padding")
    dilation = call.per_axis("dilation", default=(1,))
    ceil_mode = bool(call.arguments["ceil_mode"])
    ranges = [Window(kernel[a], stride[a], (padding[a],) * 2, dilation[a], ceil_mode) for a in call.axes]
    options: dict[str, Any] = {"kernel_size": kernel, "stride": stride}
    if call.operation.startswith("avg"):
        return call.add("average_pool", [source], ranges, **options)
    if len(call.shapes) == 1:
        return call.add("max_pool", [source], ranges, return_indices=False, **options)
    pool = call.add("max_pool", [source], ranges, return_indices=True, **options)
    indices = call.add("max_pool_indices", [pool], name=f"{call.name}_indices", result=1)
    return pool, indices


def window_of(call: Call, indices: Node) -> tuple[Node, list[Window]]:
    """What was pooled, and the windows of the max pooling that gave ``indices``."""
    nodes = call.builder.nodes
    if indices.kind != "max_pool_indices":
        call.refuse("puts values to places that no max pooling gave")
    pool = nodes[indices.inputs[0]]
    return nodes[pool.inputs[0]], [needs for needs in pool.ranges if isinstance(needs, Window)]


def unpooled(call: Call, indices: Node, values: Node, *, shared: str) -> Node:
    """Max unpooling of ``values`` onto the grid that was pooled."""
    before, windows = window_of(call, indices)
    if call.shapes[0][-len(windows) :] != before.size or values.size != indices.size:
        call.refuse(
            f"unpools {values.size} to {call.shapes[0][-len(windows) :]}, where the pooling took "
            f"{before.size} to {indices.size}"
        )
    ranges = [Unpooling(window, length) for window, length in zip(windows, before.size, strict=True)]
    return call.add("max_unpool", [values, indices], ranges, shares_memory=False, shared=shared)


def _max_unpool(call: Call) -> Value:
    return unpooled(call, call.tensor("indices"), call.tensor(), shared="one")


_INTERPOLATIONS = {
    "upsample_nearest": "nearest",
    "_upsample_nearest_exact": "nearest-exact",
    "upsample_bilinear": "linear",
    "upsample_trilinear": "linear",
    "upsample_bicubic": "cubic",
}


def _interpolation(call: Call) -> Value:
    source = call.tensor("input" if "input" in call.arguments else "self")
    mode = _INTERPOLATIONS[call.operation[: -len("2d")]]
    aligned = bool(call.arguments.get("align_corners", False))
    factors = _scale_factors(call)
    before, after = source.size, call.shapes[0][-len(source.size) :]
    ranges = [Interpolation(mode, before[a], after[a], aligned, factors[a]) for a in call.axes]
    return call.add("interpolation", [source], ranges, mode=mode)


def _scale_factors(call: Call) -> Sequence[float | None]:
    if "scale_factors" in call.arguments:
        return call.arguments["scale_factors"] or [None] * len(call.axes)
    return [call.arguments.get(f"scales_{axis}") for axis in "dhw"[-len(call.axes) :]]


_PAD_MODES = {"replication_pad": "replicate", "reflection_pad": "reflect"}


def _pad(call: Call) -> Value:
    source = call.tensor()
    mode = _PAD_MODES.get(call.operation[: -len("2d")], call.arguments.get("mode", "constant"))
    amounts: Sequence[int] = call.arguments.get("pad") or call.arguments["padding"]
    # Pairs of (before, after), the last axis first.
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)]
    by_axis = [*pairs[::-1]][-len(call.axes) :]
    by_axis = [(0, 0)] * (len(call.axes) - len(by_axis)) + by_axis
    ranges = [Shift(*pair, mode) if any(pair) else Pointwise() for pair in by_axis]
    return call.add("pad", [source], ranges, mode=mode)


def _batch_norm(call: Call) -> Value:
    source = call.tensor("input")
    if call.arguments.get("training"):
        return _several(call, call.add("batch_norm", [source], _whole(source, source.size)))
    return _several(call, call.add("batch_norm", [source]))


def _instance_norm(call: Call) -> Value:
    source = call.tensor("input")
    ranges = _whole(source, source.size) if call.arguments["use_input_stats"] else None
    return call.add("instance_norm", [source], ranges)


def _group_norm(call: Call) -> Value:
    source = call.tensor("input")
    return _several(call, call.add("group_norm", [source], _whole(source, source.size)))


def _layer_norm(call: Call) -> Value:
    source = call.tensor("input")
    count = len(call.arguments["normalized_shape"])
    axes = [axis for axis in call.axes if axis >= len(call.axes) - count]
    return _several(call, call.add("layer_norm", [source], _whole(source, source.size, axes)))


def _several(call: Call, node: Node) -> Value:
    """Some norms give their statistics beside the result; nothing reads them."""
    return node if len(call.shapes) == 1 else (node, *(None for _ in call.shapes[1:]))


def _adaptive_pool(call: Call) -> Value:
    source = call.tensor()
    ranges = _whole(source, call.shapes[0][-len(source.size) :])
    node = call.add("adaptive_pool", [source], ranges)
    return node if len(call.shapes) == 1 else (node, None)


def _softmax(call: Call) -> Value:
    source = call.tensor()
    return call.add(call.operation.strip("_"), [source], _whole(source, source.size, _spatial(call, source)))


def _reduction(call: Call) -> Value:
    """Mean, sum, argmax and their like, over channels or, keeping the axis, over space."""
    source = call.tensor()
    axes = _spatial(call, source)
    if axes and not call.arguments.get("keepdim"):
        call.refuse("takes a spatial axis away")
    return call.add(
        call.operation,
        [source],
        _whole(source, call.shapes[0][-len(source.size) :], axes),
        shares_memory=False,
    )


def _spatial(call: Call, source: Node) -> list[int]:
    """The spatial axes among the argument ``dim``."""
    dim = call.arguments.get("dim")
    if dim is None or dim == []:
        return list(call.axes)
    leading = len(source.shape) - len(call.axes)
    dims = [dim] if isinstance(dim, int) else list(dim)
    return sorted(axis for entry in dims if (axis := entry % len(source.shape) - leading) >= 0)


def _whole(source: Node, after: Sequence[int], axes: Sequence[int] | None = None) -> list[AxisRange]:
    """Ranges of what looks at everything along ``axes``, all of them if not given."""
    chosen = range(len(source.size)) if axes is None else axes
    return [
        Whole(length, after[axis]) if axis in chosen else Pointwise()
        for axis, length in enumerate(source.size)
    ]


Handler = Callable[[Call], Value]

LAYERS: dict[str, Handler] = {
    **dict.fromkeys(
        ("conv2d", "conv3d", "convolution", "conv_transpose2d", "conv_transpose3d"), _convolution
    ),
    **dict.fromkeys((f"{kind}_pool{dims}d" for kind in ("max", "avg") for dims in (2, 3)), _pool),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), _pool),
    **dict.fromkeys(("max_unpool2d", "max_unpool3d"), _max_unpool),
    **dict.fromkeys((f"{name}{dims}d" for name in _INTERPOLATIONS for dims in (2, 3)), _interpolation),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(
        (f"{kind}_pad{dims}d" for kind in ("replication", "reflection") for dims in (2, 3)), _pad
    ),
    **dict.fromkeys(("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    "instance_norm": _instance_norm,
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
    **dict.fromkeys(
        (
            f"{kind}adaptive_{pool}_pool{dims}d"
            for kind in ("", "_")
            for pool in ("avg", "max")
            for dims in (2, 3)
        ),
        _adaptive_pool,
    ),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "argmax", "argmin", "var", "std"), _reduction),
}
"""Operations by name, each with what makes its node."""
