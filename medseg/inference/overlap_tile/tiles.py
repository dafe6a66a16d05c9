"""Where tiles lie, and what of the image each of them sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.inference.overlap_tile.fitting import TileFit
from medseg.ranges import Slices

__all__ = ["PADDING_MODES", "Layout", "Span", "Tile", "cut_out", "source_indices"]

PADDING_MODES = ("reflect", "replicate", "constant")
"""What stands beyond the image's ends: mirrored voxels, the last one repeated, or zeros."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    Attributes:
        start: The first voxel that it gives.
        used: How many it gives; those of its result that lie behind are thrown away.
        size: Voxels of its result.
    """

    start: int
    used: int
    size: int


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes:
        spans: One for each axis.
    """

    spans: tuple[Span, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of its result along each axis."""
        return tuple(span.size for span in self.spans)

    @property
    def target(self) -> tuple[slice, ...]:
        """The voxels that it gives."""
        return tuple(slice(span.start, span.start + span.used) for span in self.spans)


@dataclass(frozen=True)
class Layout:
    """All tiles of an image; each voxel belongs to exactly one.

    Tiles follow each other at the largest multiple of the network's stride that the size of their result
    holds, for elsewhere pooling would begin at another phase. The last one along an axis is as small as the
    network allows; where it still hangs over, more border is mirrored.

    Attributes:
        shape: Of the image's space.
        fit: What the network takes.
        size: Of the results of tiles, but for the last ones.
        padding_mode: One of :data:`PADDING_MODES`.
    """

    shape: tuple[int, ...]
    fit: TileFit
    size: tuple[int, ...]
    padding_mode: str = "reflect"

    def spans(self, axis: int) -> tuple[Span, ...]:
        """The tiles along one axis, in order."""
        fit, length, spans = self.fit.axes[axis], self.shape[axis], list[Span]()
        start = 0
        while start < length:
            rest = length - start
            size = min(self.size[axis], fit.at_least(rest))
            used = rest if size >= rest else size - size % fit.stride
            spans.append(Span(start, used, size))
            start += used
        return tuple(spans)

    def row(self, axis: int, span: Span) -> Iterator[Tile]:
        """The tiles at one place along ``axis``."""
        others = [self.spans(other) if other != axis else (span,) for other in range(len(self.shape))]
        return (Tile(spans) for spans in itertools.product(*others))

    @property
    def computed_voxels(self) -> int:
        """Voxels that the network is given in all."""
        total = 1
        for axis, fit in enumerate(self.fit.axes):
            total *= sum(fit.input_length(span.size) for span in self.spans(axis))
        return total

    def indices(self, axis: int, span: Span) -> list[int]:
        """For every voxel that the network is given along ``axis``, where it is taken from; -1 if nowhere."""
        fit = self.fit.axes[axis]
        first, count = span.start - fit.before, fit.input_length(span.size)
        return source_indices(first, count, self.shape[axis], self.padding_mode)

    def needed(self, axis: int, span: Span) -> Slices:
        """Slices [start, stop) of the image that a row of tiles is made of."""
        real = [index for index in self.indices(axis, span) if index >= 0]
        return (min(real), max(real) + 1) if real else (0, 0)


def source_indices(first: int, count: int, length: int, mode: str) -> list[int]:
    """Where the voxels [first, first + count) of an endless image are taken from in one of ``length`` voxels.

    A mirror stands on the first and on the last voxel, which are therefore not repeated; between the two the
    image is thrown back and forth as often as it takes.

    Args:
        first: May be negative.
        count: Voxels.
        length: Voxels that there are.
        mode: One of :data:`PADDING_MODES`.

    Returns:
        Indices; -1 stands for zero.

    Example:
        >>> source_indices(-4, 9, length=3, mode="reflect")
        [0, 1, 2, 1, 0, 1, 2, 1, 0]
    """
    places = range(first, first + count)
    if mode == "constant":
        return [place if 0 <= place < length else -1 for place in places]
    if mode == "replicate":
        return [min(max(place, 0), length - 1) for place in places]
    turn = max(1, 2 * (length - 1))
    return [min(place % turn, turn - place % turn) if length > 1 else 0 for place in places]


def cut_out(image: Tensor, indices: Sequence[Sequence[int]]) -> Tensor:
    """The voxels of (B, C, X, Y[, Z]) at ``indices`` along each axis; zero where an index is negative."""
    chosen = [torch.tensor(along, device=image.device) for along in indices]
    grid = torch.meshgrid(*(along.clamp(min=0) for along in chosen), indexing="ij")
    place: tuple[slice | Tensor, ...] = (slice(None), slice(None), *grid)
    tile = image[place]
    for axis, along in enumerate(chosen):
        outside = (along < 0).nonzero().flatten()
        if len(outside):
            tile.index_fill_(2 + axis, outside, 0)
    return tile
