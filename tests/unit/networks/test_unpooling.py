"""Max pooling with indices and unpooling by them: worked examples, torch's own unpooling, captures."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.blocks import (
    ConvBlock,
    MaxUnpool,
    UnpoolingDecoder,
    convolution,
    he_initialise,
    max_pool_with_indices,
)


def plane(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows)[None, None]


LECTURE = plane([[1.0, 2.0, 6.0, 3.0], [3.0, 5.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0], [7.0, 3.0, 4.0, 8.0]])


def test_the_lectures_example() -> None:
    maxima, indices = max_pool_with_indices(2)(LECTURE)
    assert maxima[0, 0].tolist() == [[5, 6], [7, 8]]
    assert indices[0, 0].tolist() == [[5, 2], [12, 15]]
    put_back = MaxUnpool(2)(plane([[1.0, 2.0], [3.0, 4.0]]), indices, LECTURE)
    assert put_back[0, 0].tolist() == [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]


def test_windows_of_three_side_by_side() -> None:
    image = torch.zeros(1, 1, 6, 6)
    for row, column in ((2, 1), (0, 4), (5, 0), (3, 3)):
        image[0, 0, row, column] = 9.0
    _, indices = max_pool_with_indices(2, stride=3)(image)
    put_back = MaxUnpool(2, stride=3)(plane([[1.0, 2.0], [3.0, 4.0]]), indices, image)
    assert put_back[0, 0].tolist() == [
        [0, 0, 0, 0, 2, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 4, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [3, 0, 0, 0, 0, 0],
    ]


def test_overlapping_windows_that_share_a_maximum_add_their_values() -> None:
    """Windows of 3 at stride 2: rows and columns 0-2 and 2-4; the 9 in the middle is in all four."""
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 9.0
    maxima, indices = max_pool_with_indices(2, stride=2, kernel_size=3)(image)
    assert maxima[0, 0].tolist() == [[9, 9], [9, 9]]
    put_back = MaxUnpool(2, stride=2, kernel_size=3)(plane([[1.0, 2.0], [4.0, 8.0]]), indices, image)
    assert put_back[0, 0, 2, 2] == 15.0
    assert put_back.count_nonzero() == 1

    image[0, 0, 3, 4] = 10.0  # takes the last window away from the middle
    _, indices = max_pool_with_indices(2, stride=2, kernel_size=3)(image)
    put_back = MaxUnpool(2, stride=2, kernel_size=3)(plane([[1.0, 2.0], [4.0, 8.0]]), indices, image)
    assert (put_back[0, 0, 2, 2].item(), put_back[0, 0, 3, 4].item()) == (7.0, 8.0)
    assert put_back.count_nonzero() == 2


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_unpooling_is_the_transpose_of_what_max_pooling_picks(kernel_size: int) -> None:
    """Max pooling's gradient is its transpose applied to the values, an implementation of torch's own."""
    image = torch.randn(1, 2, 7, 8, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maxima, indices = max_pool_with_indices(3, stride=2, kernel_size=kernel_size)(image)
    values = torch.randn_like(maxima)
    (expected,) = torch.autograd.grad(maxima, image, values)
    put_back = MaxUnpool(3, stride=2, kernel_size=kernel_size)(values, indices, image)
    torch.testing.assert_close(put_back, expected)


@given(
    size=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    stride=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_equals_torch_s_unpooling_where_windows_do_not_overlap(
    size: list[int], stride: list[int], seed: int
) -> None:
    dims = len(size)
    steps = tuple(stride[:dims])
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    maxima, indices = max_pool_with_indices(dims, steps)(images)
    assert maxima.shape[2:] == tuple(-(-n // step) for n, step in zip(size, steps, strict=True))
    values = torch.randn_like(maxima)
    peer = functional.max_unpool2d if dims == 2 else functional.max_unpool3d
    expected = peer(values, indices, steps, output_size=images.shape)
    assert torch.equal(MaxUnpool(dims, steps)(values, indices, images), expected)
    kept = MaxUnpool(dims, steps)(maxima, indices, images)
    assert torch.equal(kept, torch.where(kept != 0.0, images, torch.zeros_like(images)))


class PoolUnpool(nn.Module):
    """Down and up again, as every network with indices does it."""

    def __init__(self, dims: int, kernel_size: int) -> None:
        super().__init__()
        self.pool = max_pool_with_indices(dims, 2, kernel_size)
        self.unpool = MaxUnpool(dims, 2, kernel_size)

    def forward(self, images: Tensor) -> Tensor:
        maxima, indices = self.pool(images)
        put_back: Tensor = self.unpool(maxima + 1.0, indices, images)
        return put_back


@pytest.mark.parametrize(
    ("dims", "kernel_size", "capture"),
    list(itertools.product((2, 3), (2, 3), ("export", "fx", "script", "trace"))),
)
def test_captured_at_other_and_odd_sizes(dims: int, kernel_size: int, capture: str) -> None:
    network = PoolUnpool(dims, kernel_size)
    batch = torch.randn(1, 2, *(8, 6, 4)[:dims])
    for size in ((9, 7, 5), (4, 10, 6)):
        other = torch.randn(2, 3, *size[:dims])
        if capture == "export":
            captured = torch.export.export(network, (other,)).module()
        elif capture == "fx":
            captured = torch.fx.symbolic_trace(network)
        elif capture == "script":
            captured = torch.jit.script(network)
        else:
            captured = torch.jit.trace(network, batch)
        assert torch.equal(captured(other), network(other))


def test_the_exported_pattern_is_plain() -> None:
    """What a streaming engine recognises: pooling, two flattenings, a scatter into zeros, a view."""
    program = torch.export.export(PoolUnpool(3, 2), (torch.randn(1, 2, 5, 6, 7),))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert [call for call in calls if "getitem" not in call and "add" not in call] == [
        "aten.max_pool3d_with_indices.default",
        "aten.new_zeros.default",
        "aten.flatten.using_ints",
        "aten.flatten.using_ints",
        "aten.scatter.src",
        "aten.view.default",
    ]


@pytest.mark.parametrize(("dims", "kernel_size"), [(2, 2), (2, 3), (3, 2), (3, 3)])
def test_deterministic_algorithms_run_forward_and_backward(dims: int, kernel_size: int) -> None:
    images = torch.randn(2, 3, *(9, 8, 7)[:dims]).requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            put_back = PoolUnpool(dims, kernel_size)(images)
            (gradient,) = torch.autograd.grad(put_back.square().sum(), images)
            results.append((put_back, gradient))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][1].count_nonzero() > 0


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_the_gradient_is_that_of_differences(kernel_size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 1, 5, 5, generator=generator)
    maxima, indices = max_pool_with_indices(2, 2, kernel_size)(image)
    values = torch.randn(maxima.shape, generator=generator, dtype=torch.float64).requires_grad_()
    unpool = MaxUnpool(2, 2, kernel_size)
    assert torch.autograd.gradcheck(lambda v: unpool(v, indices, image), (values,))


def test_a_stride_of_one_keeps_its_axis() -> None:
    images = torch.randn(1, 1, 4, 6, 5)
    maxima, indices = max_pool_with_indices(3, (2, 2, 1))(images)
    assert maxima.shape == (1, 1, 2, 3, 5)
    assert MaxUnpool(3, (2, 2, 1))(maxima, indices, images).count_nonzero() == 30


@pytest.mark.parametrize(("dims", "stride"), [(2, (2, 2)), (3, (2, 2, 2)), (3, (3, 2, 1))])
def test_weights_behind_unpooling_make_up_for_its_zeros(dims: int, stride: tuple[int, ...]) -> None:
    """The mean square of rectified maps is kept but for volume^0.2, by which pooling has raised it."""
    torch.manual_seed(0)
    decoder = UnpoolingDecoder(dims, [stride], [ConvBlock(dims, 32, 64, norm=None)])
    he_initialise(decoder)
    decoder.allow_for_zeros()
    before = torch.randn(1, 32, *(24,) * dims).relu()
    maxima, indices = max_pool_with_indices(dims, stride)(before)
    values = torch.randn_like(maxima).relu()
    kept = decoder([before], [indices], values).square().mean() / values.square().mean()
    assert kept.item() == pytest.approx(math.prod(stride) ** -0.2, rel=0.15)


def test_a_decoder_runs_from_the_coarsest_level_to_the_finest() -> None:
    image = torch.randn(1, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    once, first = max_pool_with_indices(2)(image)
    twice, second = max_pool_with_indices(2, (3, 1))(once)
    fine, coarse = convolution(2, 1, 1, 3), convolution(2, 1, 1, 1)
    decoder = UnpoolingDecoder(2, [(2, 2), (3, 1)], [fine, coarse])
    expected = fine(MaxUnpool(2)(coarse(MaxUnpool(2, (3, 1))(twice, second, once)), first, image))
    assert torch.equal(decoder([image, once], [first, second], twice), expected)
