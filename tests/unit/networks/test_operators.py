"""Upsampling operators by name: the lectures' worked examples, matrices written out, captures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.blocks import UPSAMPLING, max_pool_with_indices, upsampling_layer

Array = npt.NDArray[np.float64]

CHANNELS = {"transposed": {"in_channels": 3, "out_channels": 3}}


def plane(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows)[None, None]


SMALL = plane([[1.0, 2.0], [3.0, 4.0]])


def test_nearest_as_in_the_lectures() -> None:
    assert upsampling_layer("nearest", 2)(SMALL)[0, 0].tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]


def test_bed_of_nails_as_in_the_lectures() -> None:
    assert upsampling_layer("bed_of_nails", 2)(SMALL)[0, 0].tolist() == [
        [1, 0, 2, 0],
        [0, 0, 0, 0],
        [3, 0, 4, 0],
        [0, 0, 0, 0],
    ]


def test_max_unpooling_as_in_the_lectures() -> None:
    image = plane([[1.0, 2.0, 6.0, 3.0], [3.0, 5.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0], [7.0, 3.0, 4.0, 8.0]])
    _, indices = max_pool_with_indices(2)(image)
    assert upsampling_layer("max_unpool", 2)(SMALL, indices, image)[0, 0].tolist() == [
        [0, 0, 2, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [3, 0, 0, 4],
    ]


def test_bilinear_as_in_the_lectures() -> None:
    assert upsampling_layer("linear", 2)(SMALL)[0, 0].tolist() == [
        [1.0, 1.25, 1.75, 2.0],
        [1.5, 1.75, 2.25, 2.5],
        [2.5, 2.75, 3.25, 3.5],
        [3.0, 3.25, 3.75, 4.0],
    ]


def test_bicubic_as_in_the_lectures() -> None:
    finer = upsampling_layer("cubic", 2)(SMALL)[0, 0]
    assert [round(value, 2) for value in finer[0].tolist()] == [0.68, 1.02, 1.56, 1.89]
    # Turned half around, the image is 5 less itself, and so is what a linear operator makes of it.
    torch.testing.assert_close(finer + finer.flip(0, 1), torch.full((4, 4), 5.0))
    assert [round(value, 2) for value in finer[1].tolist()] == [1.35, 1.68, 2.23, 2.56]


def resampling_matrix(length: int, stride: int, kind: str) -> Array:
    """What interpolation along one axis does, row by row: (length·stride, length)."""
    matrix = np.zeros((length * stride, length))
    for row in range(length * stride):
        position = (row + 0.5) / stride - 0.5
        for index in range(math.floor(position) - 1, math.floor(position) + 3):
            distance = abs(position - index)
            if kind == "linear":
                weight = max(0.0, 1.0 - distance)
            elif distance <= 1.0:
                weight = 1.25 * distance**3 - 2.25 * distance**2 + 1.0
            else:
                weight = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2.0 else 0.0
            matrix[row, min(max(index, 0), length - 1)] += weight
    return matrix


@given(
    size=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    stride=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    kind=st.sampled_from(["linear", "cubic"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_interpolation_is_the_tensor_product_of_one_axis(
    size: list[int], stride: list[int], kind: str, seed: int
) -> None:
    dims = len(size)
    image = np.random.default_rng(seed).normal(size=(2, 3, *size))
    expected = image
    for axis in range(dims):
        matrix = resampling_matrix(size[axis], stride[axis], kind)
        expected = np.moveaxis(np.tensordot(matrix, expected, (1, axis + 2)), 0, axis + 2)
    finer = upsampling_layer(kind, dims, stride[:dims])(torch.from_numpy(image))
    np.testing.assert_allclose(finer.numpy(), expected, atol=1e-10)


def test_cubic_of_a_product_is_the_product_of_cubics() -> None:
    """f(x)·g(y)·h(z) becomes F(x)·G(y)·H(z), each by torch's bicubic along a line."""
    lines = [torch.randn(length, dtype=torch.float64) for length in (4, 5, 3)]
    volume = torch.einsum("x,y,z->xyz", *lines)[None, None]
    finer = [
        functional.interpolate(line[None, None, None], scale_factor=(1.0, step), mode="bicubic")[0, 0, 0]
        for line, step in zip(lines, (2.0, 3.0, 2.0), strict=True)
    ]
    torch.testing.assert_close(
        upsampling_layer("cubic", 3, (2, 3, 2))(volume)[0, 0], torch.einsum("x,y,z->xyz", *finer)
    )


def test_cubic_in_2d_is_torch_s_bicubic() -> None:
    images = torch.randn(2, 3, 5, 4)
    expected = functional.interpolate(images, scale_factor=(2.0, 3.0), mode="bicubic", align_corners=False)
    assert torch.equal(upsampling_layer("cubic", 2, (2, 3))(images), expected)


def test_bed_of_nails_in_3d_keeps_an_axis_of_stride_one() -> None:
    volume = torch.arange(1.0, 9.0).view(1, 1, 2, 2, 2)
    nails = upsampling_layer("bed_of_nails", 3, (2, 3, 1))(volume)
    assert nails.shape == (1, 1, 4, 6, 2)
    assert torch.equal(nails[:, :, ::2, ::3], volume)
    assert nails.count_nonzero() == 8


def convolution_matrix(kernel: Array, size: tuple[int, int], stride: int, padding: int) -> Array:
    """The matrix by which a convolution turns a flattened plane into another: one row an output voxel."""
    out = [(length + 2 * padding - kernel.shape[0]) // stride + 1 for length in size]
    matrix = np.zeros((out[0] * out[1], size[0] * size[1]))
    for (i, j), (a, b) in itertools.product(np.ndindex(*out), np.ndindex(*kernel.shape)):
        row, column = i * stride + a - padding, j * stride + b - padding
        if 0 <= row < size[0] and 0 <= column < size[1]:
            matrix[i * out[1] + j, row * size[1] + column] = kernel[a, b]
    return matrix


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "fine", "extra"),
    [
        (3, 2, 1, (3, 3), 0),
        (3, 2, 1, (4, 4), 1),
        (3, 2, 0, (5, 5), 0),
        (3, 1, 1, (4, 3), 0),
        (2, 2, 0, (6, 4), 0),
    ],
)
def test_transposed_convolution_is_the_transpose_of_the_convolution_s_matrix(
    kernel_size: int, stride: int, padding: int, fine: tuple[int, int], extra: int
) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(kernel_size, kernel_size))
    matrix = convolution_matrix(kernel, fine, stride, padding)
    weight = torch.from_numpy(kernel)[None, None]
    image = torch.from_numpy(rng.normal(size=fine))[None, None]
    convolved = functional.conv2d(image, weight, stride=stride, padding=padding)
    np.testing.assert_allclose(convolved.numpy().ravel(), matrix @ image.numpy().ravel(), atol=1e-12)

    layer = upsampling_layer(
        "transposed",
        2,
        stride,
        in_channels=1,
        out_channels=1,
        kernel_size=kernel_size,
        padding=(padding, padding),
        output_padding=(extra, extra),
        bias=False,
    ).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        coarse = torch.from_numpy(rng.normal(size=convolved.shape))
        risen = layer(coarse)
    assert risen.shape[2:] == fine
    np.testing.assert_allclose(risen.numpy().ravel(), matrix.T @ coarse.numpy().ravel(), atol=1e-12)


def transposed_3x3(**options: object) -> Tensor:
    """Kernel 1 2 3 / 4 5 6 / 7 8 9 at stride 2 over 1 2 / 3 4."""
    layer = upsampling_layer("transposed", 2, in_channels=1, out_channels=1, bias=False, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 10.0).view(1, 1, 3, 3))
        rows: Tensor = layer(SMALL)[0, 0]
    return rows


def test_transposed_convolution_by_hand() -> None:
    """Four kernels, two apart, overlap in the middle row and column, where they add."""
    full = [
        [1, 2, 3 + 2, 4, 6],
        [4, 5, 6 + 8, 10, 12],
        [7 + 3, 8 + 6, 9 + 14 + 9 + 4, 16 + 8, 18 + 12],
        [12, 15, 18 + 16, 20, 24],
        [21, 24, 27 + 28, 32, 36],
    ]
    assert transposed_3x3(padding=(0, 0)).tolist() == full
    assert transposed_3x3(padding=(1, 1)).tolist() == [row[1:4] for row in full[1:4]]
    to_4x4 = [row[1:] for row in full[1:]]
    assert transposed_3x3(padding=(1, 1), output_padding=(1, 1)).tolist() == to_4x4
    assert transposed_3x3().tolist() == to_4x4


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 7])
def test_transposed_convolution_gives_the_stride_times_the_size_if_not_told_otherwise(
    kernel_size: int,
) -> None:
    layer = upsampling_layer(
        "transposed", 3, (2, 3, 2), in_channels=1, out_channels=2, kernel_size=kernel_size
    )
    assert layer(torch.zeros(1, 1, 5, 3, 4)).shape == (1, 2, 10, 9, 8)


class Finer(nn.Module):
    """An operator as a network has it."""

    def __init__(self, name: str, dims: int) -> None:
        super().__init__()
        self.pool = max_pool_with_indices(dims, (2, 2, 1)[:dims])
        self.layer = upsampling_layer(name, dims, (2, 2, 1)[:dims], **CHANNELS.get(name, {}))

    def forward(self, images: Tensor) -> Tensor:
        finer: Tensor = self.layer(images)
        return finer


class FinerByIndices(Finer):
    """Max unpooling, which needs them."""

    def forward(self, images: Tensor) -> Tensor:
        maxima, indices = self.pool(images)
        finer: Tensor = self.layer(maxima, indices, images)
        return finer


CASES = list(itertools.product(sorted(UPSAMPLING), (2, 3)))


def finer(name: str, dims: int) -> nn.Module:
    torch.manual_seed(0)
    return (FinerByIndices if name == "max_unpool" else Finer)(name, dims)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_captured_at_other_sizes(name: str, dims: int) -> None:
    network = finer(name, dims)
    captured = [
        torch.jit.script(network),
        torch.jit.trace(network, torch.randn(1, 3, *(4, 6, 8)[:dims])),
        torch.fx.symbolic_trace(network),
    ]
    for size in ((5, 4, 3), (7, 6, 5)):
        images = torch.randn(2, 3, *size[:dims])
        expected = network(images)
        exported = torch.export.export(network, (images,)).module()
        factor = (1, 1, 1) if name == "max_unpool" else (2, 2, 1)
        assert expected.shape[2:] == tuple(a * b for a, b in zip(size[:dims], factor, strict=False))
        for other in (*captured, exported):
            torch.testing.assert_close(other(images), expected)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_deterministic_algorithms_run_and_gradients_flow(name: str, dims: int) -> None:
    network = finer(name, dims)
    images = torch.randn(2, 3, *(6, 5, 4)[:dims]).requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [torch.autograd.grad(network(images).square().sum(), images)[0] for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*gradients)
    assert gradients[0].count_nonzero() > 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bicubic", {}, "upsampling='bicubic' is unknown; did you mean 'cubic'"),
        ("nearest", {"spatial_dims": 1}, "spatial_dims=1 is not supported; choose 2 or 3"),
        ("linear", {"stride": (2, 2, 2)}, "stride has 3 numbers"),
        ("cubic", {"stride": 0}, "stride=0 is not a positive whole number"),
        (
            "transposed",
            {"in_channels": 1, "out_channels": 1, "padding": (1, 1, 1)},
            r"padding=\(1, 1, 1\) .* do not have 2 numbers",
        ),
        (
            "transposed",
            {"in_channels": 1, "out_channels": 1, "output_padding": (1, 2)},
            r"output_padding=\(1, 2\) reaches the stride \(2, 2\); give less",
        ),
    ],
)
def test_what_does_not_fit_is_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        upsampling_layer(name, **{"spatial_dims": 2, **options})
