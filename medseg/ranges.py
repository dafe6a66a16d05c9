"""Which input slices a range of output slices needs, for every kind of layer along one axis.

The one table that receptive fields, halos and streaming read. A layer that is separable (all layers of
convolutional networks are) has one of these for each spatial axis. Ranges are half open, [start, stop).

* :class:`Pointwise`: activations, additions, joining channels.
* :class:`Window`: convolution, max and average pooling.
* :class:`TransposedWindow`: transposed convolution.
* :class:`Unpooling`: max unpooling by the indices of a window.
* :class:`Interpolation`: nearest, linear, cubic.
* :class:`Shift`: padding and cropping.
* :class:`Broadcast`: one slice repeated.
* :class:`Whole`: layers that look at everything: global pooling, instance norm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

__all__ = [
    "INTERPOLATION_MODES",
    "PADDING_MODES",
    "AxisRange",
    "Broadcast",
    "Interpolation",
    "Pointwise",
    "Shift",
    "Slices",
    "TransposedWindow",
    "Unpooling",
    "Whole",
    "Window",
]

Slices = tuple[int, int]
"""Slices [start, stop) along one axis; none where start equals stop."""

PADDING_MODES = ("constant", "replicate", "reflect", "circular")
INTERPOLATION_MODES = ("nearest", "nearest-exact", "linear", "cubic")


class AxisRange(ABC):
    """What one layer needs along one axis."""

    @abstractmethod
    def needs(self, start: int, stop: int) -> Slices:
        """Input slices that output slices [start, stop) depend on, as if the volume had no ends.

        The smallest range that holds them all; where it reaches beyond the volume, padding stands there.

        Args:
            start: First output slice.
            stop: Behind the last one; greater than ``start``.
        """

    @abstractmethod
    def length_after(self, length: int) -> int:
        """Output slices for an input of ``length`` slices."""

    @property
    def scale(self) -> Fraction:
        """Input slices per output slice: the stride, or below 1 for a way up."""
        return Fraction(1)

    def reads(self, start: int, stop: int, length: int) -> Slices:
        """What of an input of ``length`` slices is read for output slices [start, stop): those that exist.

        Unlike :meth:`needs` this knows the volume's ends, and what padding by reflection copies from where.
        """
        first, last = self.needs(start, stop)
        first = min(max(first, 0), length)
        return first, max(first, min(last, length))


@dataclass(frozen=True)
class Pointwise(AxisRange):
    """Every output slice needs the same input slice."""

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`."""
        return start, stop

    def length_after(self, length: int) -> int:
        """See :class:`AxisRange`."""
        return length


@dataclass(frozen=True)
class Window(AxisRange):
    """Convolution or pooling.

    Attributes:
        kernel: Taps of the window.
        stride: Input slices from one window to the next.
        padding: Slices before the first and behind the last, as two numbers.
        dilation: Input slices from one tap to the next.
        ceil_mode: Whether the last window may hang over the end.

    Example:
        >>> Window(kernel=3, stride=2, padding=(1, 1)).needs(4, 6)
        (7, 12)
    """

    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    ceil_mode: bool = False

    @property
    def extent(self) -> int:
        """Input slices from the first tap to the last, both counted."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def scale(self) -> Fraction:
        """See :class:`AxisRange`."""
        return Fraction(self.stride)

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`."""
        first = self.stride * start - self.padding[0]
        return first, first + self.stride * (stop - 1 - start) + self.extent

    def length_after(self, length: int) -> int:
        """See :class:`AxisRange`."""
        room = length + sum(self.padding) - self.extent
        if not self.ceil_mode:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        # A window that would begin in the padding behind the end is left out, as PyTorch does.
        starts_inside = (count - 1) * self.stride < length + self.padding[0]
        return count if starts_inside else count - 1


@dataclass(frozen=True)
class TransposedWindow(AxisRange):
    """Transposed convolution: input slice i adds to output slices ``i * stride - padding + dilation * tap``.

    Attributes:
        kernel: Taps.
        stride: Output slices from one input slice to the next.
        padding: Output slices cut off at both ends.
        dilation: Output slices from one tap to the next.
        output_padding: Output slices added behind the end.

    Example:
        >>> TransposedWindow(kernel=2, stride=2).needs(3, 6)
        (1, 3)
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    output_padding: int = 0

    @property
    def scale(self) -> Fraction:
        """See :class:`AxisRange`."""
        return Fraction(1, self.stride)

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`; empty where no tap reaches, as with strides above the kernel."""
        return _slices_that_reach(start, stop, self.kernel, self.stride, self.padding, self.dilation)

    def length_after(self, length: int) -> int:
        """See :class:`AxisRange`."""
        spread = self.dilation * (self.kernel - 1) + 1
        return (length - 1) * self.stride - 2 * self.padding + spread + self.output_padding


@dataclass(frozen=True)
class Unpooling(AxisRange):
    """Max unpooling: an input slice may land wherever the window that it was pooled from has a tap.

    Attributes:
        window: That of the pooling.
        output_length: Slices of what was pooled.

    Example:
        >>> Unpooling(Window(kernel=3, stride=2, padding=(1, 1)), output_length=9).needs(4, 6)
        (2, 4)
    """

    window: Window
    output_length: int

    @property
    def scale(self) -> Fraction:
        """See :class:`AxisRange`."""
        return Fraction(1, self.window.stride)

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`."""
        window = self.window
        return _slices_that_reach(
            start, stop, window.kernel, window.stride, window.padding[0], window.dilation
        )

    def length_after(self, length: int) -> int:
        """The length of what was pooled, whatever ``length`` is."""
        del length
        return self.output_length


@dataclass(frozen=True)
class Interpolation(AxisRange):
    """Resizing, as PyTorch does it; a neighbour whose weight is zero is not needed.

    Attributes:
        mode: One of :data:`INTERPOLATION_MODES`.
        input_length: Slices before.
        output_length: Slices after.
        align_corners: Whether the first and last slices' centres lie on each other, instead of the ends.
        scale_factor: Output slices per input slice, where the layer was told that rather than the size.

    Example:
        >>> Interpolation("linear", 8, 16, scale_factor=2.0).needs(4, 6)
        (1, 4)
    """

    mode: str
    input_length: int
    output_length: int
    align_corners: bool = False
    scale_factor: float | None = None

    @property
    def scale(self) -> Fraction:
        """See :class:`AxisRange`."""
        if self.align_corners:
            return Fraction(self.input_length - 1, max(1, self.output_length - 1))
        if self.scale_factor is not None:
            return 1 / Fraction(self.scale_factor)
        return Fraction(self.input_length, self.output_length)

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`."""
        # A cubic kernel that stands on a slice needs that one alone, its neighbour needs more: look at two.
        indices = {start, min(start + 1, stop - 1), max(stop - 2, start), stop - 1}
        taps = [self._taps(index) for index in indices]
        return min(first for first, _ in taps), max(last for _, last in taps)

    def length_after(self, length: int) -> int:
        """See :class:`AxisRange`; without a scale factor the length is that of the output, whatever comes."""
        return self.output_length if self.scale_factor is None else math.floor(length * self.scale_factor)

    def _taps(self, index: int) -> Slices:
        if self.mode in ("nearest", "nearest-exact"):
            nearest = self._nearest(index)
            return nearest, nearest + 1
        position = index * self.scale
        if not self.align_corners:
            position += self.scale / 2 - Fraction(1, 2)
        below, above = math.floor(position), math.ceil(position)
        margin = 1 if self.mode == "cubic" and below != above else 0
        return below - margin, above + margin + 1

    def _nearest(self, index: int) -> int:
        # In single precision, for PyTorch rounds that down even where the exact quotient is a whole number;
        # of images in double precision, which no network is run in here, it computes in double.
        if self.scale_factor is not None:
            step = np.float32(1.0 / self.scale_factor)
        else:
            step = np.float32(self.input_length) / np.float32(self.output_length)
        offset = np.float32(0.5 if self.mode == "nearest-exact" else 0.0)
        return math.floor((np.float32(index) + offset) * step)


@dataclass(frozen=True)
class Shift(AxisRange):
    """Padding, or cropping where the numbers are negative.

    Attributes:
        before: Slices added before the first.
        after: Slices added behind the last.
        mode: What is added, one of :data:`PADDING_MODES`.

    Example:
        >>> Shift(before=2, after=2, mode="reflect").needs(0, 3)
        (-2, 1)
        >>> Shift(before=2, after=2, mode="reflect").reads(0, 3, length=9)
        (0, 3)
    """

    before: int
    after: int
    mode: str = "constant"

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`; copies of slices from elsewhere count as lying beyond the ends."""
        return start - self.before, stop - self.before

    def length_after(self, length: int) -> int:
        """See :class:`AxisRange`."""
        return length + self.before + self.after

    def reads(self, start: int, stop: int, length: int) -> Slices:
        """See :class:`AxisRange`."""
        first, last = self.needs(start, stop)
        if self.mode == "constant" or (first >= 0 and last <= length):
            return super().reads(start, stop, length)
        if self.mode == "circular":
            if last <= 0 or first >= length:
                turn = length if last <= 0 else -length
                return first + turn, last + turn
            return 0, length
        # Replication and reflection turn round at the volume's ends and nowhere else.
        turns = {index for index in (0, length - 1) if first <= index < last}
        sources = [self._source(index, length) for index in {first, last - 1} | turns]
        return min(sources), max(sources) + 1

    def _source(self, index: int, length: int) -> int:
        if self.mode == "replicate":
            return min(max(index, 0), length - 1)
        return abs(index) if index < length else 2 * (length - 1) - index


@dataclass(frozen=True)
class Broadcast(AxisRange):
    """The only input slice, repeated.

    Attributes:
        output_length: How often.
    """

    output_length: int

    @property
    def scale(self) -> Fraction:
        """See :class:`AxisRange`."""
        return Fraction(1, self.output_length)

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`."""
        del start, stop
        return 0, 1

    def length_after(self, length: int) -> int:
        """See :class:`AxisRange`."""
        return length * self.output_length


@dataclass(frozen=True)
class Whole(AxisRange):
    """Every output slice needs all input slices.

    Attributes:
        input_length: How many there are.
        output_length: How many come out: as many, or one.
    """

    input_length: int
    output_length: int

    @property
    def scale(self) -> Fraction:
        """See :class:`AxisRange`."""
        return Fraction(self.input_length, self.output_length)

    def needs(self, start: int, stop: int) -> Slices:
        """See :class:`AxisRange`."""
        del start, stop
        return 0, self.input_length

    def length_after(self, length: int) -> int:
        """See :class:`AxisRange`."""
        return length if self.output_length == self.input_length else self.output_length


def _slices_that_reach(
    start: int, stop: int, kernel: int, stride: int, padding: int, dilation: int
) -> Slices:
    """Input slices i for which some ``i * stride - padding + dilation * tap`` lies in [start, stop)."""
    reaching: list[int] = []
    for tap in range(kernel):
        offset = padding - dilation * tap
        first, last = -(-(start + offset) // stride), (stop - 1 + offset) // stride
        if first <= last:
            reaching += (first, last)
    if not reaching:
        nowhere = (start + padding) // stride
        return nowhere, nowhere
    return min(reaching), max(reaching) + 1
