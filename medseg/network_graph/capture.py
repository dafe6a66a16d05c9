"""From a network to its graph, by ``torch.export`` on tensors that have a shape and no voxels."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from medseg.errors import ConfigError, InputError
from medseg.network_graph.aliasing import changes_what_others_read
from medseg.network_graph.calls import Builder, Call, Constant, Value, tensors_in
from medseg.network_graph.graph import Graph, Node
from medseg.network_graph.layers import LAYERS
from medseg.network_graph.operations import OPERATIONS, fold, fresh
from medseg.ranges import Pointwise

__all__ = ["capture", "evaluating"]

_HANDLERS = {**LAYERS, **OPERATIONS}
_AXES = re.compile(r"([123])d(?:_|$)")
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async")


def capture(network: nn.Module, shape: Sequence[int]) -> Graph:
    """The graph of a network's layers in evaluation mode, for one shape of its input.

    No voxel is computed and no weight is read, so that shapes may be as large as one likes, and the
    network may lie on the meta device.

    Args:
        network: Takes one tensor.
        shape: (B, C, X, Y) or (B, C, X, Y, Z).

    Raises:
        InputError: The network does not take this shape, or ``torch.export`` cannot follow it.
        ConfigError: A layer is not known; the error names it.

    Example:
        >>> graph = capture(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), (1, 1, 32, 32))
        >>> [(node.kind, node.shape) for node in graph.nodes.values()][1:]
        [('convolution', (1, 4, 30, 30)), ('relu', (1, 4, 30, 30))]
    """
    if len(shape) not in (4, 5):
        raise InputError(
            f"shape {tuple(shape)} is no batch of images", fix="give (B, C, X, Y) or (B, C, X, Y, Z)"
        )
    return _Translation(_export(network, tuple(shape)), spatial_dims=len(shape) - 2).graph()


def _export(network: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    example = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(shape, dtype=example.dtype, device=example.device)
    try:
        with evaluating(network):
            return torch.export.export(network, (images,), strict=False)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what, _, fix = reason.partition("; ")
        raise InputError(
            f"the network cannot be captured at shape {shape}: {what}",
            fix=fix or "give a shape that the network takes",
        ) from error


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, with each module's own mode restored afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Translation:
    """Goes through an exported program once, and makes nodes of its calls."""

    def __init__(self, program: ExportedProgram, spatial_dims: int) -> None:
        signature = program.graph_signature
        self._program = program
        self._inputs = {spec.arg.name: spec for spec in signature.input_specs}
        sizes = {name: entry.numel() for name, entry in program.named_parameters()}
        self._builder = Builder(spatial_dims, sizes)
        self._values: dict[fx.Node, Value] = {}

    def graph(self) -> Graph:
        """The finished graph, without what no output depends on."""
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self._values[node] = self._call(node)
        outputs = tuple(self._outputs())
        graph = Graph(self._builder.nodes, self._image_name(), outputs)
        used = {node.name for name in outputs for node in graph.ancestors(name)} | {graph.input}
        kept = {name: node for name, node in self._builder.nodes.items() if name in used}
        return Graph(kept, graph.input, outputs)

    def _image_name(self) -> str:
        return next(str(name) for name, spec in self._inputs.items() if spec.kind is InputKind.USER_INPUT)

    def _placeholder(self, node: fx.Node) -> Value:
        example: Any = node.meta["val"]
        spec = self._inputs[node.name]
        if spec.kind is not InputKind.USER_INPUT:
            return Constant((str(spec.target),), tuple(example.shape))
        ranges = (Pointwise(),) * self._builder.spatial_dims
        image = Node(node.name, "input", "", (), tuple(example.shape), example.dtype, ranges)
        self._builder.nodes[node.name] = image
        return image

    def _outputs(self) -> Iterator[str]:
        given = {
            spec.arg.name
            for spec in self._program.graph_signature.output_specs
            if spec.kind is OutputKind.USER_OUTPUT and hasattr(spec.arg, "name")
        }
        output = next(node for node in self._program.graph.nodes if node.op == "output")
        for node in output.args[0]:
            if not isinstance(node, fx.Node) or node.name not in given:
                continue
            value = self._values[node]
            if not isinstance(value, Node):
                raise ConfigError(
                    f"the network's output '{node.name}' is no map of the image",
                    fix="give a network whose outputs are (B, C, X, Y[, Z])",
                )
            yield value.name

    def _call(self, node: fx.Node) -> Value:
        if node.target is operator.getitem:
            return self._piece(node)
        call = self._described(node)
        if call.operation in _CHECKS:
            return None
        made = fresh(call)
        if made is not None:
            return made
        values = list(tensors_in(list(call.arguments.values())))
        if all(isinstance(value, Constant) for value in values):
            return fold(call)
        if call.operation not in _HANDLERS:
            call.refuse("is not known to work on one range of slices at a time")
        axes = _AXES.search(call.operation)
        if axes is not None and int(axes[1]) != self._builder.spatial_dims:
            call.refuse(f"looks along {axes[1]} axes where the image has {self._builder.spatial_dims}")
        if call.in_place and changes_what_others_read(node):
            call.refuse("changes in place what another layer still reads")
        return _HANDLERS[call.operation](call)

    def _piece(self, node: fx.Node) -> Value:
        source: Any = node.args[0]
        several: Any = self._values[source]
        if isinstance(several, Constant):
            return Constant(several.names, tuple(node.meta["val"].shape))
        piece: Value = several[node.args[1]]
        return piece

    def _described(self, node: fx.Node) -> Call:
        values: Any = self._values
        target: Any = node.target
        schema = getattr(target, "_schema", None)
        full_name = schema.name.split("::")[-1] if schema is not None else str(target)
        arguments: dict[str, Any] = {}
        if schema is not None:
            for position, argument in enumerate(schema.arguments):
                given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
                absent = position >= len(node.args) and argument.name not in node.kwargs
                given = argument.default_value if absent and argument.has_default_value() else given
                arguments[argument.name] = fx.map_arg(given, values.__getitem__)
        results = node.meta.get("val")
        results = results if isinstance(results, list | tuple) else [results]
        tensors = [tensor for tensor in results if isinstance(tensor, Tensor)]
        return Call(
            self._builder,
            name=node.name,
            operation=full_name.removesuffix("_"),
            module=_module_of(node),
            arguments=arguments,
            shapes=tuple(tuple(tensor.shape) for tensor in tensors),
            dtypes=tuple(tensor.dtype for tensor in tensors),
            in_place=full_name.endswith("_"),
            overload=str(target) if schema is not None else "",
        )


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths else ""
