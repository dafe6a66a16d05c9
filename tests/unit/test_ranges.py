"""Ranges: hand-computed, and held to PyTorch's own layers by changing one slice at a time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from medseg.ranges import (
    PADDING_MODES,
    AxisRange,
    Broadcast,
    Interpolation,
    Pointwise,
    Shift,
    TransposedWindow,
    Unpooling,
    Whole,
    Window,
)

Layer = Callable[[Tensor], Tensor]

# By hand


@pytest.mark.parametrize(
    ("needs", "start", "stop", "expected"),
    [
        (Pointwise(), 3, 5, (3, 5)),
        (Window(3), 0, 1, (0, 3)),
        (Window(3, padding=(1, 1)), 0, 4, (-1, 5)),
        (Window(3, padding=(2, 2), dilation=2), 5, 6, (3, 8)),
        (Window(2, stride=2), 3, 5, (6, 10)),
        (Window(5, stride=3, padding=(2, 2)), 1, 3, (1, 9)),
        (TransposedWindow(2, stride=2), 0, 1, (0, 1)),
        (TransposedWindow(2, stride=2), 1, 3, (0, 2)),
        (TransposedWindow(3, stride=2, padding=1), 4, 5, (2, 3)),  # an even slice has the middle tap alone
        (TransposedWindow(3, stride=2, padding=1), 3, 4, (1, 3)),
        (TransposedWindow(4, stride=2, padding=1), 4, 5, (1, 3)),
        (TransposedWindow(1, stride=2), 3, 4, (1, 1)),  # nothing but the bias
        (TransposedWindow(2, stride=1, dilation=3), 5, 6, (2, 6)),
        (Unpooling(Window(2, stride=2), 9), 4, 7, (2, 4)),
        (Unpooling(Window(3, stride=2), 9), 4, 5, (1, 3)),
        (Interpolation("nearest", 4, 8), 3, 6, (1, 3)),
        (Interpolation("nearest", 8, 4), 1, 3, (2, 5)),
        (Interpolation("nearest-exact", 8, 4), 1, 3, (3, 6)),
        (Interpolation("linear", 4, 8, scale_factor=2.0), 0, 1, (-1, 1)),
        (Interpolation("linear", 4, 8, scale_factor=2.0), 3, 4, (1, 3)),
        (Interpolation("linear", 3, 9), 4, 5, (1, 2)),  # stands on a slice: its neighbours weigh nothing
        (Interpolation("linear", 3, 5, align_corners=True), 2, 4, (1, 3)),
        (Interpolation("cubic", 4, 8), 3, 4, (0, 4)),
        (Interpolation("cubic", 3, 9), 4, 6, (0, 4)),
        (Shift(2, 1), 0, 4, (-2, 2)),
        (Shift(-3, -1), 0, 4, (3, 7)),
        (Broadcast(9), 3, 5, (0, 1)),
        (Whole(7, 7), 3, 5, (0, 7)),
    ],
)
def test_needs(needs: AxisRange, start: int, stop: int, expected: tuple[int, int]) -> None:
    assert needs.needs(start, stop) == expected


@pytest.mark.parametrize(
    ("needs", "length", "expected"),
    [
        (Pointwise(), 7, 7),
        (Window(3, stride=2), 8, 3),
        (Window(3, stride=2, ceil_mode=True), 8, 4),
        (Window(2, stride=2, padding=(1, 1), ceil_mode=True), 3, 2),  # a third would begin in the padding
        (TransposedWindow(3, stride=2, padding=1, output_padding=1), 5, 10),
        (Unpooling(Window(2, stride=2, ceil_mode=True), 9), 5, 9),
        (Interpolation("linear", 5, 7, scale_factor=1.5), 6, 9),
        (Interpolation("linear", 5, 7), 5, 7),
        (Shift(2, -1), 5, 6),
        (Broadcast(9), 1, 9),
        (Whole(7, 1), 7, 1),
        (Whole(7, 7), 7, 7),
    ],
)
def test_length_after(needs: AxisRange, length: int, expected: int) -> None:
    assert needs.length_after(length) == expected


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (Pointwise(), 1),
        (Window(3, stride=2), 2),
        (TransposedWindow(3, stride=2), Fraction(1, 2)),
        (Unpooling(Window(2, stride=3), 9), Fraction(1, 3)),
        (Interpolation("linear", 4, 8), Fraction(1, 2)),
        (Interpolation("linear", 4, 9, scale_factor=2.0), Fraction(1, 2)),
        (Interpolation("linear", 4, 7, align_corners=True), Fraction(1, 2)),
        (Interpolation("linear", 4, 1, align_corners=True), 3),
        (Shift(1, 1), 1),
        (Broadcast(4), Fraction(1, 4)),
        (Whole(4, 1), 4),
    ],
)
def test_scale(needs: AxisRange, expected: Fraction) -> None:
    assert needs.scale == expected


@pytest.mark.parametrize(
    ("mode", "start", "stop", "expected"),
    [
        ("constant", 0, 2, (0, 0)),
        ("constant", 1, 5, (0, 2)),
        ("replicate", 0, 2, (0, 1)),
        ("replicate", 0, 5, (0, 2)),
        ("replicate", 9, 11, (5, 6)),
        ("reflect", 0, 2, (2, 4)),
        ("reflect", 2, 5, (0, 2)),
        ("reflect", 0, 7, (0, 4)),
        ("reflect", 9, 12, (2, 5)),
        ("reflect", 7, 10, (4, 6)),
        ("circular", 0, 2, (3, 5)),
        ("circular", 2, 4, (0, 6)),
        ("circular", 9, 12, (0, 3)),
        ("circular", 4, 6, (1, 3)),
    ],
)
def test_what_padding_reads_at_the_ends(mode: str, start: int, stop: int, expected: tuple[int, int]) -> None:
    assert Shift(3, 3, mode).reads(start, stop, length=6) == expected


def test_reads_are_clipped_to_what_there_is() -> None:
    window = Window(3, padding=(1, 1))
    assert window.reads(0, 2, length=9) == (0, 3)
    assert window.reads(7, 9, length=9) == (6, 9)
    assert Window(1, padding=(2, 2)).reads(0, 1, length=9) == (0, 0)
    assert Window(1, padding=(2, 2)).reads(12, 13, length=9) == (9, 9)


# Against PyTorch


def reached(layer: Layer, length: int, *, changed_by: float = 1.0) -> Tensor:
    """Matrix (output slices, input slices): whether a change of one slice changes the other.

    All inputs and weights are positive and the change is, so that nothing cancels; in double precision,
    where no weight above 1e-9 is lost.
    """
    image = torch.rand(1, 1, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1.0
    changes = torch.eye(length, dtype=torch.float64).unsqueeze(1) * changed_by
    return ((layer(image + changes) - layer(image)).abs() > 1e-9).squeeze(1).T


def check(needs: AxisRange, layer: Layer, length: int, *, changed_by: float = 1.0) -> None:
    """Nothing outside the range matters, and in the middle its ends do."""
    matters = reached(layer, length, changed_by=changed_by)
    count = needs.length_after(length)
    assert matters.shape[0] == count
    for start in range(count):
        for stop in range(start + 1, min(start + 4, count) + 1):
            sources = matters[start:stop].any(0).nonzero().ravel().tolist()
            first, last = needs.reads(start, stop, length)
            assert all(first <= source < last for source in sources), (start, stop, sources, first, last)
            unclipped = needs.needs(start, stop)
            if unclipped == (first, last) and first < last:
                assert sources, (start, stop)
                assert (sources[0], sources[-1] + 1) == (first, last), (start, stop)


few = settings(max_examples=40, deadline=None)
small = st.integers(1, 4)


@few
@given(small, small, st.integers(0, 3), small, st.integers(1, 24))
def test_convolution(kernel: int, stride: int, padding: int, dilation: int, length: int) -> None:
    needs = Window(kernel, stride, (padding, padding), dilation)
    assume(length + 2 * padding >= needs.extent)
    weight = torch.ones(1, 1, kernel, dtype=torch.float64)
    check(
        needs,
        lambda image: functional.conv1d(image, weight, None, stride, padding, dilation),
        length,
    )


@few
@given(small, small, st.integers(0, 2), st.integers(1, 2), st.booleans(), st.integers(4, 24))
def test_max_pooling(
    kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool, length: int
) -> None:
    padding = min(padding, kernel // 2)
    needs = Window(kernel, stride, (padding, padding), dilation, ceil_mode)
    assume(length + 2 * padding >= needs.extent)
    check(
        needs,
        lambda image: functional.max_pool1d(image, kernel, stride, padding, dilation, ceil_mode),
        length,
        changed_by=10.0,
    )


@few
@given(small, small, st.integers(0, 2), st.booleans(), st.integers(4, 24))
def test_average_pooling(kernel: int, stride: int, padding: int, ceil_mode: bool, length: int) -> None:
    padding = min(padding, kernel // 2)
    needs = Window(kernel, stride, (padding, padding), 1, ceil_mode)
    check(needs, lambda image: functional.avg_pool1d(image, kernel, stride, padding, ceil_mode), length)


@few
@given(small, small, st.integers(0, 3), small, st.integers(0, 3), st.integers(1, 12))
def test_transposed_convolution(
    kernel: int, stride: int, padding: int, dilation: int, output_padding: int, length: int
) -> None:
    assume(output_padding < max(stride, dilation))
    needs = TransposedWindow(kernel, stride, padding, dilation, output_padding)
    assume(needs.length_after(length) > 0)
    weight = torch.ones(1, 1, kernel, dtype=torch.float64)
    check(
        needs,
        lambda image: functional.conv_transpose1d(
            image, weight, None, stride, padding, output_padding, 1, dilation
        ),
        length,
    )


@few
@given(small, small, st.integers(0, 1), st.booleans(), st.integers(4, 16))
def test_unpooling_by_all_indices_that_can_occur(
    kernel: int, stride: int, padding: int, ceil_mode: bool, length: int
) -> None:
    padding = min(padding, kernel // 2)
    window = Window(kernel, stride, (padding, padding), 1, ceil_mode)
    pooled = window.length_after(length)
    needs = Unpooling(window, length)
    matters = torch.zeros(length, pooled, dtype=torch.bool)
    # A large value at one slice makes every window that holds it point there.
    for peak in range(length):
        image = torch.zeros(1, 1, length, dtype=torch.float64)
        image[0, 0, peak] = 1.0
        _, indices = functional.max_pool1d(
            image, kernel, stride, padding, ceil_mode=ceil_mode, return_indices=True
        )
        for source in range(pooled):
            matters[indices[0, 0, source], source] = True
    for start in range(length):
        sources = matters[start].nonzero().ravel().tolist()
        first, last = needs.reads(start, start + 1, pooled)
        assert (sources[0], sources[-1] + 1) == (first, last) if sources else first == last


@few
@example("nearest-exact", False, 6, 37)
@given(
    st.sampled_from(["nearest", "nearest-exact", "linear"]),
    st.booleans(),
    st.integers(1, 16),
    st.integers(1, 40),
)
def test_interpolation_to_a_size(mode: str, aligned: bool, length: int, target: int) -> None:
    aligned = aligned and mode == "linear"
    needs = Interpolation(mode, length, target, aligned)
    check(needs, interpolator(mode, aligned, size=target), length)


@few
@given(
    st.sampled_from(["nearest", "nearest-exact", "linear"]),
    st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0]),
    st.integers(2, 16),
)
def test_interpolation_by_a_factor(mode: str, factor: float, length: int) -> None:
    needs = Interpolation(mode, length, int(length * factor), scale_factor=factor)
    check(needs, interpolator(mode, False, scale_factor=factor), length)


def interpolator(mode: str, aligned: bool, **options: float) -> Layer:
    corners = {"align_corners": aligned} if mode in ("linear", "bicubic") else {}

    def interpolate(image: torch.Tensor) -> torch.Tensor:
        # Which slice is the nearest depends on the precision; networks run in single.
        taken = image.float() if mode.startswith("nearest") else image
        return functional.interpolate(taken, mode=mode, **options, **corners).to(image.dtype)  # type: ignore[arg-type]

    return interpolate


@few
@given(st.booleans(), st.integers(1, 12), st.integers(1, 30))
def test_cubic_interpolation(aligned: bool, length: int, target: int) -> None:
    needs = Interpolation("cubic", length, target, aligned)

    def layer(image: Tensor) -> Tensor:
        return functional.interpolate(
            image.unsqueeze(-1), (target, 1), mode="bicubic", align_corners=aligned
        ).squeeze(-1)

    check(needs, layer, length)


@few
@given(st.sampled_from(PADDING_MODES), st.integers(-3, 5), st.integers(-3, 5), st.integers(6, 12))
def test_padding_and_cropping(mode: str, before: int, after: int, length: int) -> None:
    if mode != "constant":
        before, after = max(before, 0), max(after, 0)
    assume(length + before + after > 0)
    check(Shift(before, after, mode), lambda image: functional.pad(image, (before, after), mode), length)
