"""Capturing networks: every operation with its range, the pattern of unpooling, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError, InputError
from medseg.network_graph import Graph, Node, capture
from medseg.ranges import (
    Broadcast,
    Interpolation,
    Pointwise,
    Shift,
    TransposedWindow,
    Unpooling,
    Whole,
    Window,
)

SHAPE = (1, 2, 12, 14)


class Calls(nn.Module):
    """A network whose forward is a function."""

    def __init__(self, function: Callable[[Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.in_channels = SHAPE[1]
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def graph_of(function: Callable[[Tensor], Any] | nn.Module, shape: tuple[int, ...] = SHAPE) -> Graph:
    return capture(function if isinstance(function, nn.Module) else Calls(function), shape)


def last(graph: Graph) -> Node:
    return graph.nodes[graph.outputs[0]]


def kinds(graph: Graph) -> list[str]:
    return [node.kind for node in graph.nodes.values()]


def unpool(values: Tensor, indices: Tensor, size: tuple[int, ...]) -> Tensor:
    zeros = torch.zeros(values.shape[0], values.shape[1], size[0] * size[1])
    return zeros.scatter(2, indices.flatten(2), values.flatten(2)).view(-1, values.shape[1], *size)


# Each layer by its numbers


@pytest.mark.parametrize(
    ("layer", "kind", "ranges"),
    [
        (
            nn.Conv2d(2, 4, (3, 5), (2, 1), (1, 4), (1, 2), groups=2),
            "convolution",
            (Window(3, 2, (1, 1), 1), Window(5, 1, (4, 4), 2)),
        ),
        (
            nn.Conv2d(2, 3, (2, 3), padding="same"),
            "convolution",
            (Window(2, 1, (0, 1)), Window(3, 1, (1, 1))),
        ),
        (nn.Conv2d(2, 3, 3, padding="valid"), "convolution", (Window(3), Window(3))),
        (
            nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=(1, 0), dilation=(1, 2)),
            "transposed_convolution",
            (TransposedWindow(3, 2, 1, 1, 1), TransposedWindow(3, 2, 1, 2, 0)),
        ),
        (
            nn.MaxPool2d(3, (2, 1), padding=1, dilation=(1, 2), ceil_mode=True),
            "max_pool",
            (Window(3, 2, (1, 1), 1, True), Window(3, 1, (1, 1), 2, True)),
        ),
        (nn.AvgPool2d((2, 3)), "average_pool", (Window(2, 2), Window(3, 3))),
        (
            nn.Upsample(scale_factor=(2.0, 1.0), mode="nearest"),
            "interpolation",
            (Interpolation("nearest", 12, 24, False, 2.0), Interpolation("nearest", 14, 14, False, 1.0)),
        ),
        (
            nn.Upsample(size=(30, 20), mode="bilinear", align_corners=True),
            "interpolation",
            (Interpolation("linear", 12, 30, True), Interpolation("linear", 14, 20, True)),
        ),
        (
            nn.Upsample(scale_factor=1.5, mode="bicubic"),
            "interpolation",
            (Interpolation("cubic", 12, 18, False, 1.5), Interpolation("cubic", 14, 21, False, 1.5)),
        ),
        (nn.ZeroPad2d((1, 2, 3, -1)), "pad", (Shift(3, -1), Shift(1, 2))),
        (nn.ReplicationPad2d((1, 0, 2, 0)), "pad", (Shift(2, 0, "replicate"), Shift(1, 0, "replicate"))),
        (nn.ReflectionPad2d(2), "pad", (Shift(2, 2, "reflect"),) * 2),
        (nn.CircularPad2d(2), "pad", (Shift(2, 2, "circular"),) * 2),
        (nn.BatchNorm2d(2), "batch_norm", (Pointwise(),) * 2),
        (nn.InstanceNorm2d(2, track_running_stats=True), "instance_norm", (Pointwise(),) * 2),
        (nn.PReLU(2), "prelu", (Pointwise(),) * 2),
        (nn.Dropout2d(0.3), "feature_dropout", (Pointwise(),) * 2),
        (nn.Softmax(1), "softmax", (Pointwise(),) * 2),
        (nn.Softmax(-1), "softmax", (Pointwise(), Whole(14, 14))),
        (nn.InstanceNorm2d(2), "instance_norm", (Whole(12, 12), Whole(14, 14))),
        (nn.BatchNorm2d(2, track_running_stats=False), "batch_norm", (Whole(12, 12), Whole(14, 14))),
        (nn.GroupNorm(1, 2), "group_norm", (Whole(12, 12), Whole(14, 14))),
        (nn.LayerNorm(14), "layer_norm", (Pointwise(), Whole(14, 14))),
        (nn.AdaptiveAvgPool2d((1, 14)), "adaptive_pool", (Whole(12, 1), Whole(14, 14))),
        (nn.AdaptiveMaxPool2d(1), "adaptive_pool", (Whole(12, 1), Whole(14, 1))),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_ranges_of_layers(layer: nn.Module, kind: str, ranges: tuple[Any, ...]) -> None:
    network = nn.Sequential()
    network.in_channels = 2  # type: ignore[assignment]
    network.add_module("it", layer)
    graph = capture(network, SHAPE)
    node = last(graph)
    assert (node.kind, node.module, node.inputs, node.ranges) == (kind, "it", (graph.input,), ranges)
    assert node.shape == tuple(network.eval()(torch.zeros(SHAPE)).shape)
    sizes = [needs.length_after(length) for needs, length in zip(ranges, SHAPE[2:], strict=True)]
    assert node.size == tuple(sizes)
    assert node.parameter_count == sum(entry.numel() for entry in layer.parameters())
    assert {name for names in node.weights.values() for name in names} == {
        f"it.{name}" for name in layer.state_dict() if name != "num_batches_tracked"
    }


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.ReLU(), nn.LeakyReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.SiLU(), nn.Mish()),
        *(nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Hardswish(), nn.Hardsigmoid(), nn.ReLU6()),
        *(nn.LogSigmoid(), nn.Softsign(), nn.Hardtanh(), nn.RReLU(), nn.Threshold(0.1, 0.0)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_activations(layer: nn.Module) -> None:
    graph = capture(nn.Sequential(nn.Conv2d(2, 2, 1), layer), SHAPE)
    assert all(needs == Pointwise() for needs in last(graph).ranges)
    assert not last(graph).shares_memory


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.ReLU(True), nn.LeakyReLU(0.1, True), nn.ELU(inplace=True), nn.SiLU(True), nn.Hardswish(True)),
        *(nn.Dropout(0.5), nn.Dropout(0.5, inplace=True), nn.Dropout2d(0.5), nn.AlphaDropout(0.5)),
    ],
    ids=str,
)
def test_what_stays_in_its_input_s_memory(layer: nn.Module) -> None:
    graph = capture(nn.Sequential(nn.Conv2d(2, 2, 1), layer), SHAPE)
    assert len(graph.nodes) == 3
    assert last(graph).shares_memory


# What stands between layers


def test_three_axes() -> None:
    network = nn.Sequential(
        nn.Conv3d(1, 2, (3, 1, 5), padding=(1, 0, 2)), nn.MaxPool3d((2, 1, 2)), nn.Upsample(scale_factor=2.0)
    )
    graph = capture(network, (1, 1, 8, 9, 10))
    assert [node.size for node in graph.nodes.values()] == [(8, 9, 10), (8, 9, 10), (4, 9, 5), (8, 18, 10)]
    assert graph.spatial_dims == 3
    assert [graph.period(graph.outputs[0], axis) for axis in range(3)] == [2, 2, 2]
    assert [graph.scales(axis)[graph.outputs[0]] for axis in range(3)] == [1, 0.5, 1]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, 2:9],
        lambda x: torch.narrow(x, 2, 2, 7),
        lambda x: x[..., 2:-3, :],
        lambda x: functional.pad(x, (0, 0, -2, -3)),
        lambda x: x.split([2, 7, 3], dim=2)[1],
    ],
)
def test_crops_along_space(function: Callable[[Tensor], Tensor]) -> None:
    graph = graph_of(function)
    assert last(graph).ranges == (Shift(-2, -3), Pointwise())
    assert last(graph).size == (7, 14)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :1],
        lambda x: torch.narrow(x, 1, 0, 1),
        lambda x: x.chunk(2, 1)[1],
        lambda x: torch.split(x, 1, -3)[0],
        lambda x: x[:, 0].unsqueeze(1),
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: torch.cat([x, x], 1),
        lambda x: torch.cat([x, torch.zeros_like(x)], dim=-3),
        lambda x: torch.stack([x, x], 1),
        lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1)),
        lambda x: x.argmax(1),
        lambda x: x.argmax(1, keepdim=True),
        lambda x: x.mean(1, keepdim=True),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda x: torch.where(x.sum(1, keepdim=True) > 0, x, 0.0),
        lambda x: 1.0 - x / 2 + x.abs().sqrt().clamp(min=0.1) ** 2,
        lambda x: x.permute(1, 0, 2, 3).transpose(0, 1),
        lambda x: x.view(2, 1, 12, 14),
        lambda x: x.flatten(2).view(1, 2, 12, 14),
        lambda x: x.contiguous().to(torch.float64).float(),
        lambda x: x * torch.tensor(2.0),
    ],
)
def test_what_looks_at_one_voxel_at_a_time(function: Callable[[Tensor], Tensor]) -> None:
    graph = graph_of(function)
    assert all(needs == Pointwise() for node in graph.nodes.values() for needs in node.ranges)
    assert last(graph).shape == tuple(function(torch.rand(SHAPE)).shape)


def test_what_no_output_depends_on_is_left_out() -> None:
    assert kinds(graph_of(lambda x: (x.exp(), x.sigmoid())[1])) == ["input", "sigmoid"]


def test_joining_zeros_keeps_the_order() -> None:
    graph = graph_of(lambda x: torch.cat([torch.zeros_like(x), x], 1))
    zeros, image = (graph.nodes[name] for name in last(graph).inputs)
    assert (zeros.kind, zeros.options["value"], image.kind) == ("constant", 0.0, "input")


def test_global_pooling_and_its_broadcast() -> None:
    graph = graph_of(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid())
    assert kinds(graph) == ["input", "mean", "sigmoid", "broadcast", "mul"]
    mean, broadcast = (
        next(n for n in graph.nodes.values() if n.kind == kind) for kind in ("mean", "broadcast")
    )
    assert mean.ranges == (Whole(12, 1), Whole(14, 1))
    assert broadcast.ranges == (Broadcast(12), Broadcast(14))
    assert [node.kind for node in graph.whole()] == ["mean"]
    assert graph.needed(graph.outputs[0], 0, 5, 6)[graph.input] == (0, 12)


def test_looking_at_the_only_slice_is_local() -> None:
    assert graph_of(nn.InstanceNorm2d(2, track_running_stats=False), (1, 2, 1, 5)).whole()
    assert not graph_of(lambda x: x.mean(2, keepdim=True), (1, 2, 1, 5)).whole()


def test_several_outputs() -> None:
    graph = graph_of(lambda x: (x.exp(), {"low": functional.max_pool2d(x, 2)}))
    assert [graph.nodes[name].size for name in graph.outputs] == [(12, 14), (6, 7)]


# Unpooling


@pytest.mark.parametrize("form", ["scatter", "scatter_", "scatter_add", "torch"])
@pytest.mark.parametrize("dims", [2, 3])
def test_unpooling_becomes_one_node(form: str, dims: int) -> None:
    size = (9, 8, 7)[:dims]
    pool = functional.max_pool3d if dims == 3 else functional.max_pool2d

    def function(x: Tensor) -> Tensor:
        values, indices = pool(x.exp(), 2, ceil_mode=True, return_indices=True)
        values = values.neg()
        if form == "torch":
            put_back = functional.max_unpool3d if dims == 3 else functional.max_unpool2d
            return put_back(values, indices, 2, output_size=size).cos()
        voxels = x.shape[2] * x.shape[3] * (x.shape[4] if dims == 3 else 1)
        zeros = values.new_zeros(values.shape[0], values.shape[1], voxels)
        flat = getattr(zeros, form)(2, indices.flatten(2), values.flatten(2))
        return flat.reshape(*values.shape[:2], *size).cos()

    graph = graph_of(function, (1, 2, *size))
    assert kinds(graph) == ["input", "exp", "max_pool", "max_pool_indices", "neg", "max_unpool", "cos"]
    node = next(node for node in graph.nodes.values() if node.kind == "max_unpool")
    window = Window(2, 2, (0, 0), 1, True)
    assert node.ranges == tuple(Unpooling(window, length) for length in size)
    assert [graph.nodes[name].kind for name in node.inputs] == ["neg", "max_pool_indices"]
    assert node.options["shared"] == ("sum" if form == "scatter_add" else "one")
    assert not node.shares_memory
    assert graph.needed(graph.outputs[0], 0, 3, 4)[graph.input] == (2, 4)


def test_the_indices_of_a_pooling_lie_on_its_grid() -> None:
    graph = graph_of(lambda x: functional.max_pool2d(x, 2, return_indices=True)[1])
    indices = last(graph)
    assert (indices.kind, indices.dtype, indices.size) == ("max_pool_indices", torch.int64, (6, 7))


# Refusals


class Attention(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2)
        return (tokens.transpose(1, 2) @ tokens).softmax(-1)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.fft.fft(x).real, "'fft_fft' is not known"),
        (lambda x: x.flip(2), "'flip' is not known"),
        (lambda x: x[:, :, ::2], "takes every so many entries"),
        (lambda x: x[:, :, 3], "takes a spatial axis away"),
        (lambda x: x.mean((2, 3)), "takes a spatial axis away"),
        (lambda x: x.transpose(2, 3), "reshapes space"),
        (lambda x: x.view(1, 2, 14, 12), "reshapes space"),
        (lambda x: x.flatten(2).exp(), "flattened space"),
        (lambda x: functional.pixel_shuffle(x.repeat(1, 2, 1, 1), 2), "'pixel_shuffle' is not known"),
        (lambda x: torch.cat([x, x], 2), "joins along space"),
        (lambda x: x.repeat(1, 1, 2, 1), "repeats space"),
        (lambda x: x + torch.arange(14), "varies over space"),
        (lambda x: x + torch.arange(2).view(1, 2, 1, 1), "makes up anew"),
        (lambda x: functional.conv2d(x, x[:, :, :3, :3]), "weights that depend on the image"),
        (lambda x: functional.avg_pool3d(x.unsqueeze(1), 2), "looks along 3 axes where the image has 2"),
        (lambda x: functional.dropout(x, 0.5, training=True), "drops voxels at random"),
        (
            lambda x: torch.zeros(1, 2, 168).scatter(2, x.flatten(2).long(), x.flatten(2)),
            "no max pooling gave",
        ),
        (
            lambda x: unpool(*functional.max_pool2d(x, 2, return_indices=True), (14, 12)),
            "unpools",
        ),
        (
            lambda x: torch.ones(1, 2, 168).scatter(
                2, *(t.flatten(2) for t in functional.max_pool2d(x, 2, return_indices=True)[::-1])
            ),
            "is no unpooling into zeros",
        ),
    ],
)
def test_what_is_not_known_is_refused(function: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        graph_of(function)


def test_a_refusal_names_the_layer() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.ReLU(), Attention()))
    with pytest.raises(ConfigError) as error:
        capture(network, SHAPE)
    assert error.value.where == "layer '1.1'"
    assert error.value.fix


def test_a_shape_that_does_not_fit_is_the_input_s_fault() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 3, 12, 14\)"):
        capture(nn.Conv2d(2, 2, 1), (1, 3, 12, 14))
    with pytest.raises(InputError, match="no batch of images"):
        capture(nn.Conv2d(2, 2, 1), (12, 14))


def test_control_flow_on_voxels_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be captured"):
        graph_of(lambda x: x if x.sum() > 0 else -x)


# Working in place


def test_an_overwritten_tensor_is_the_new_one_for_all_readers() -> None:
    def function(x: Tensor) -> Tensor:
        before = x.exp()
        after = before.relu_()
        return before + after

    assert last(graph_of(function)).inputs == ("relu_", "relu_")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (y := x.exp(), y[:, :1].relu_(), y.cos())[2],
        lambda x: (y := x.exp(), z := y[:, :1], y.relu_(), z.cos())[3],
        lambda x: (y := x.exp(), z := y[:, :, 1:], y[:, :, :5].relu_(), z.cos())[3],
    ],
)
def test_overwriting_what_is_read_under_another_name_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ConfigError, match="changes in place what another layer still reads"):
        graph_of(function)


def test_pieces_of_one_cut_may_be_overwritten() -> None:
    def function(x: Tensor) -> Tensor:
        first, second = x.exp().chunk(2, 1)
        return torch.cat([first.relu_(), second.sigmoid_()], 1)

    assert last(graph_of(function)).kind == "cat"


# The network is left as it was


def test_modes_weights_and_gradients_are_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Conv2d(2, 2, 1))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    capture(network, SHAPE)
    assert [module.training for module in network] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(entry.grad is None for entry in network.parameters())


def test_huge_shapes_cost_nothing() -> None:
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv3d(1, 64, 3, padding=1), nn.MaxPool3d(2), nn.ConvTranspose3d(64, 2, 2, 2)
        )
    assert last(capture(network, (1, 1, 8192, 8192, 8192))).shape == (1, 2, 8192, 8192, 8192)


def test_numbers_are_kept() -> None:
    assert last(graph_of(lambda x: x * torch.full((), 3.0))).options["other"] == 3.0
    assert last(graph_of(lambda x: torch.where(x > 0, x, torch.ones(1, 2, 1, 1)))).options["other"] == 1.0
    assert last(graph_of(lambda x: 2.0 - x)).options["other"] == 2.0


def test_shared_weights_are_named_by_both() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    graph = capture(nn.Sequential(layer, layer), SHAPE)
    first, second = list(graph.nodes.values())[1:]
    assert first.weights == second.weights
    assert first.weights["weight"] in [("0.weight",), ("1.weight",)]


def test_weights_made_of_parameters_are_named_by_them() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    node = last(capture(layer, SHAPE))
    assert node.derived == ("weight",)
    assert node.ranges == (Window(3), Window(3))
    assert node.parameter_count == sum(entry.numel() for entry in layer.parameters())


# Walking back


def test_slices_needed_of_every_node() -> None:
    def function(x: Tensor) -> Tensor:
        low = functional.max_pool2d(x.exp(), 2)
        return functional.interpolate(functional.avg_pool2d(low, 3, 1, 1), scale_factor=2.0) + x

    graph = graph_of(function)
    needed = graph.needed(graph.outputs[0], 0, 4, 7)
    by_kind = {graph.nodes[name].kind: slices for name, slices in needed.items()}
    assert by_kind == {
        "add": (4, 7), "interpolation": (4, 7), "average_pool": (2, 4), "max_pool": (1, 5), "exp": (2, 10),
        "input": (2, 10),
    }  # fmt: skip
    assert graph.period(graph.outputs[0], 0) == 2


def test_slices_of_which_nothing_is_needed_are_left_out() -> None:
    graph = capture(nn.ConvTranspose2d(2, 2, 1, stride=2), SHAPE)
    assert graph.input not in graph.needed(graph.outputs[0], 0, 3, 4)
    assert graph.needed(graph.outputs[0], 0, 3, 5)[graph.input] == (2, 3)
