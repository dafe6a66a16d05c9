"""Layers that compute each voxel from the same voxel: PyTorch's own operations, put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medseg.inference.streaming.chunks import Chunks
from medseg.inference.streaming.kernels.layer import Kernel, Layer, refuse
from medseg.network_graph import Node
from medseg.ranges import Pointwise

__all__ = ["batch_norm", "converted", "in_place", "pointwise", "scale_and_shift", "stored"]

_IN_PLACE = (
    "celu", "elu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6", "selu",
    "sigmoid", "silu", "tanh",
)  # fmt: skip


def batch_norm(layer: Layer) -> Kernel:
    """In evaluation: a scale and a shift for each channel."""
    scale, shift = scale_and_shift(layer.node, layer.weights)
    shape = (-1, *[1] * len(layer.order))
    factors, terms = scale.to(layer.dtype).reshape(shape), shift.to(layer.dtype).reshape(shape)

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        return torch.addcmul(terms, layer.gather(sources, start, stop), factors)

    return run


def scale_and_shift(node: Node, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a batch norm in evaluation does to each channel, in double precision."""
    mean, variance = weights["running_mean"].double(), weights["running_var"].double()
    scale = (variance + float(node.options["eps"])).rsqrt()
    if "weight" in weights:
        scale = scale * weights["weight"].double()
    shift = -mean * scale
    if "bias" in weights:
        shift = shift + weights["bias"].double()
    return scale, shift


def stored(layer: Layer) -> Kernel:
    """The same values in fewer bytes; the largest that half precision holds stand for larger ones."""
    largest = torch.finfo(layer.node.dtype).max

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        return layer.gather(sources, start, stop).clamp(-largest, largest).to(layer.node.dtype)

    return run


def converted(layer: Layer) -> Kernel:
    """The same values in another type, where that changes what they are: of floating point there is one."""

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        return layer.gather(sources, start, stop).to(layer.computed)

    return run


def in_place(node: Node) -> Callable[[Tensor], Tensor] | None:
    """What overwrites a tensor with an activation of itself; ``None`` if the node is no activation."""
    if node.kind not in _IN_PLACE:
        return None
    operation = getattr(torch.ops.aten, f"{node.kind}_").default
    names = [argument.name for argument in operation._schema.arguments[1:]]
    return partial(operation, **{name: node.options[name] for name in names if name in node.options})


def pointwise(layer: Layer) -> Kernel:
    """Any operation of ``torch.ops.aten`` that looks at single voxels."""
    node = layer.node
    if not all(isinstance(needs, Pointwise) for needs in layer.ranges):
        refuse(node, "cannot be computed slab by slab")
    operation = _operation(node)
    signature = operation._schema.arguments

    def given(argument: Any, inputs: Iterator[Tensor]) -> Any:
        kind = str(argument.type)
        if argument.name in layer.weights:
            return layer.weights[argument.name]
        if argument.name in node.options:
            option = node.options[argument.name]
            number = "Tensor" in kind and isinstance(option, int | float)
            return torch.tensor(option, device=layer.device) if number else option
        if "List[Tensor]" in kind:
            return list(inputs)
        return next(inputs, None) if "Tensor" in kind else argument.default_value

    def run(sources: Sequence[Chunks], start: int, stop: int) -> Tensor:
        inputs = (layer.gather([source], start, stop) for source in sources)
        arguments = [(argument, given(argument, inputs)) for argument in signature]
        plain = [value for argument, value in arguments if not argument.kwarg_only]
        named = {argument.name: value for argument, value in arguments if argument.kwarg_only}
        # Some are told which type to give, such as a softmax in single precision.
        result: Tensor = operation(*plain, **named)
        return result.to(layer.computed)

    return run


def _operation(node: Node) -> Any:
    name, _, overload = node.overload.removeprefix("aten.").partition(".")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if packet is None or not hasattr(packet, overload or "default"):
        refuse(node, "is no operation that works slab by slab")
    return getattr(packet, overload or "default")
