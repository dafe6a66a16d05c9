"""Every routine against PyTorch's own convolutions in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from medseg.inference.streaming.kernels import convolve as routines
from medseg.inference.streaming.kernels.convolve import convolve, convolve_transposed
from medseg.inference.streaming.kernels.layer import Layer
from medseg.network_graph import Node
from medseg.ranges import TransposedWindow

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
PRECISIONS = [torch.float32, torch.bfloat16]
# Where the processor does not compute in bfloat16, PyTorch's transposed convolutions round every partial sum.
ROUNDED_ONCE = PRECISIONS if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [torch.float32]


@dataclass(frozen=True)
class Case:
    """A layer's numbers along all axes, and the image that it sees."""

    dims: int
    channels: tuple[int, int]
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    size: tuple[int, ...]
    batch: int
    bias: bool
    channels_last: bool


def per_axis(dims: int, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(low, high)] * dims)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dims = draw(st.sampled_from([2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    stride = draw(per_axis(dims, 1, 3))
    kernel, padding = draw(per_axis(dims, 1, 4)), draw(per_axis(dims, 0, 2))
    dilation = draw(st.one_of(st.just((1,) * dims), per_axis(dims, 1, 2)))
    return Case(
        dims=dims,
        channels=(groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))),
        groups=groups,
        kernel=kernel,
        stride=stride,
        padding=tuple(min(pad, tap // 2) for pad, tap in zip(padding, kernel, strict=True)),
        dilation=dilation,
        output_padding=tuple(draw(st.integers(0, step - 1)) for step in stride),
        size=draw(per_axis(dims, 7, 10)),
        batch=draw(st.sampled_from([1, 1, 2])),
        bias=draw(st.booleans()),
        channels_last=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from(PRECISIONS), seed=st.integers(0, 1000))
def test_convolution_equals_pytorch_in_double_precision(case: Case, dtype: torch.dtype, seed: int) -> None:
    inputs, outputs = case.channels
    images, weight, bias = tensors(case, (outputs, inputs // case.groups, *case.kernel), outputs, dtype, seed)
    apply = convolve(
        layer_of(case, weight, bias, transposed=False),
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
    )
    double = functional.conv2d if case.dims == 2 else functional.conv3d
    expected = double(
        images.double(), weight.double(), doubled(bias), case.stride, case.padding, case.dilation, case.groups
    )
    assert_equal(apply(images), expected, dtype)


@settings(max_examples=100, deadline=None)
@given(case=cases(), dtype=st.sampled_from(ROUNDED_ONCE), seed=st.integers(0, 1000))
def test_transposed_convolution_equals_pytorch_in_double_precision(
    case: Case, dtype: torch.dtype, seed: int
) -> None:
    inputs, outputs = case.channels
    images, weight, bias = tensors(case, (inputs, outputs // case.groups, *case.kernel), outputs, dtype, seed)
    made = convolve_transposed(layer_of(case, weight, bias, transposed=True), windows_of(case))(images)
    assert_equal(made, expected_transposed(case, images, weight, bias), dtype)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride"), [(2, 2), (3, 2), (4, 2), (5, 2), (3, 1), (1, 2), (3, 3), (2, 3)]
)
@pytest.mark.parametrize("dtype", ROUNDED_ONCE)
def test_transposed_convolutions_of_networks(dims: int, kernel: int, stride: int, dtype: torch.dtype) -> None:
    for padding, output_padding in [(0, 0), (kernel // 2, stride - 1)]:
        case = Case(
            dims, (16, 8), 1, (kernel,) * dims, (stride,) * dims, (padding,) * dims, (1,) * dims,
            (output_padding,) * dims, (5, 8, 7)[:dims], 1, bias=True, channels_last=True,
        )  # fmt: skip
        images, weight, bias = tensors(case, (16, 8, *case.kernel), 8, dtype, seed=1)
        made = convolve_transposed(layer_of(case, weight, bias, transposed=True), windows_of(case))(images)
        assert_equal(made, expected_transposed(case, images, weight, bias), dtype)


def test_transposed_convolution_by_hand() -> None:
    # Inputs 1 and 2 spread by taps 10, 20, 30 to every other output; 30 meets 2 * 10 in the middle.
    case = Case(
        2, (1, 1), 1, (3, 1), (2, 1), (0, 0), (1, 1), (0, 0), (2, 1), 1, bias=True, channels_last=True
    )
    weight = torch.tensor([10.0, 20.0, 30.0]).reshape(1, 1, 3, 1)
    layer = layer_of(case, weight, torch.tensor([1.0]), transposed=True)
    made = convolve_transposed(layer, windows_of(case))(torch.tensor([1.0, 2.0]).reshape(1, 1, 2, 1))
    assert made.flatten().tolist() == [11.0, 21.0, 51.0, 41.0, 61.0]


@pytest.mark.parametrize("dtype", ROUNDED_ONCE)
def test_results_have_channels_last_even_of_one_channel(dtype: torch.dtype) -> None:
    case = Case(
        3, (1, 4), 1, (3, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), (0, 0, 0), (5, 6, 7), 1,
        bias=True, channels_last=True,
    )  # fmt: skip
    images, weight, bias = tensors(case, (4, 1, 3, 3, 3), 4, dtype, seed=0)
    layer = layer_of(case, weight, bias, transposed=False)
    made = convolve(layer, stride=case.stride, padding=case.padding, dilation=case.dilation)(images)
    assert made.shape == (1, 4, 3, 6, 7)
    assert made.is_contiguous(memory_format=torch.channels_last_3d)

    case = Case(
        3, (8, 4), 1, (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1), (0, 0, 0), (5, 6, 7), 1,
        bias=False, channels_last=True,
    )  # fmt: skip
    images, weight, bias = tensors(case, (8, 4, 2, 2, 2), 4, dtype, seed=0)
    made = convolve_transposed(layer_of(case, weight, bias, transposed=True), windows_of(case))(images)
    assert made.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_without_onednn_pytorch_computes_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(
        3, (6, 4), 1, (3, 2, 3), (2, 2, 2), (1, 0, 1), (1, 1, 1), (1, 0, 1), (7, 6, 8), 1,
        bias=True, channels_last=True,
    )  # fmt: skip
    images, weight, bias = tensors(case, (6, 4, *case.kernel), 4, dtype, seed=2)
    monkeypatch.setattr(routines, "_by_onednn", lambda _: False)
    monkeypatch.setattr(torch, "mkldnn_convolution", None)
    made = convolve_transposed(layer_of(case, weight, bias, transposed=True), windows_of(case))(images)
    assert_equal(made, expected_transposed(case, images, weight, bias), dtype)

    images, weight, bias = tensors(case, (4, 6, *case.kernel), 4, dtype, seed=2)
    layer = layer_of(case, weight, bias, transposed=False)
    made = convolve(layer, stride=case.stride, padding=case.padding, dilation=case.dilation)(images)
    expected = functional.conv3d(images.double(), weight.double(), doubled(bias), case.stride, case.padding)
    assert_equal(made, expected, dtype)


def tensors(
    case: Case, weight_shape: Sequence[int], outputs: int, dtype: torch.dtype, seed: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(case.batch, case.channels[0], *case.size, generator=random).to(dtype)
    weight = torch.randn(*weight_shape, generator=random).to(dtype)
    bias = torch.randn(outputs, generator=random).to(dtype) if case.bias else None
    if case.channels_last:
        images, weight = (
            tensor.contiguous(memory_format=LAYOUTS[tensor.ndim]) for tensor in (images, weight)
        )
    return images, weight, bias


def layer_of(case: Case, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Layer:
    kind = "transposed_convolution" if transposed else "convolution"
    node = Node(kind, kind, "", ("image",), (), weight.dtype, (), options={"groups": case.groups})
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Layer(node, (), tuple(range(case.dims)), weights, weight.dtype, torch.device("cpu"))


def windows_of(case: Case) -> tuple[TransposedWindow, ...]:
    axes = zip(case.kernel, case.stride, case.padding, case.dilation, case.output_padding, strict=True)
    return tuple(TransposedWindow(*numbers) for numbers in axes)


def expected_transposed(case: Case, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Uncut along the streaming axis, which is the first."""
    double = functional.conv_transpose2d if case.dims == 2 else functional.conv_transpose3d
    padding, added = (0, *case.padding[1:]), (0, *case.output_padding[1:])
    return double(
        images.double(),
        weight.double(),
        doubled(bias),
        case.stride,
        padding,
        added,
        case.groups,
        case.dilation,
    )


def doubled(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.double()


def assert_equal(made: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert made.dtype == dtype
    assert made.shape == expected.shape
    # Sums of up to 320 products in single precision are rounded once to the type of the result.
    rounding = torch.finfo(dtype).eps + 32 * torch.finfo(torch.float32).eps
    tolerance = rounding * float(expected.abs().max())
    assert float((made.double() - expected).abs().max()) <= tolerance
