"""Images smaller than what a network was trained on, made as large with zeros around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from medseg.inference.slabs import Box, Read, Tile

__all__ = ["Margins", "margins_up_to"]


@dataclass(frozen=True)
class Margins:
    """Zeros, the mean of normalised intensities, that are put around an image and taken off its scores.

    Attributes:
        before: Voxels before the first along each spatial axis.
        size: Voxels of the image along each spatial axis.
        after: Voxels behind the last along each spatial axis.

    Example:
        >>> margins = margins_up_to((5, 9), (8, 8))
        >>> margins
        Margins(before=(1, 0), size=(5, 9), after=(2, 0))
        >>> margins.padded_size
        (8, 9)
    """

    before: tuple[int, ...]
    size: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def padded_size(self) -> tuple[int, ...]:
        """Voxels along each spatial axis with the margins."""
        return tuple(sum(lengths) for lengths in zip(self.before, self.size, self.after, strict=True))

    def around(self, read: Read, axis: int) -> Read:
        """Read the padded image where ``read`` gives the image itself, in slabs along ``axis``."""
        if self.padded_size == self.size:
            return read
        beside = [0] * (2 * len(self.size))
        for other, (low, high) in enumerate(zip(self.before, self.after, strict=True)):
            if other != axis:
                # Pairs of (before, after), the last axis first.
                place = 2 * (len(self.size) - 1 - other)
                beside[place : place + 2] = low, high

        def padded(start: int, stop: int) -> Tensor:
            low, high = (min(max(edge - self.before[axis], 0), self.size[axis]) for edge in (start, stop))
            inner = read(low, high)
            amounts = list(beside)
            place = 2 * (len(self.size) - 1 - axis)
            lacking = stop - start - (high - low)
            amounts[place] = min(max(self.before[axis] - start, 0), lacking)
            amounts[place + 1] = lacking - amounts[place]
            return functional.pad(inner, amounts)

        return padded

    def off(
        self, slabs: Iterable[tuple[int, Tensor]], axis: int, tile: Tile | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """What slabs of the padded image's scores, (B, K, …) along ``axis``, say of the image itself.

        Args:
            slabs: First slice and scores, of the whole plane or of a tile of it.
            axis: Along which they come.
            tile: Of the padded image, where they are of one.
        """
        scores = tuple((0, length) for length in self.padded_size) if tile is None else tile.scores
        kept = self._of_the_image(scores)
        for start, slab in slabs:
            inner = slab
            for other, ((low, high), (first, _)) in enumerate(zip(kept, scores, strict=True)):
                if other != axis:
                    inner = inner.narrow(2 + other, low + self.before[other] - first, high - low)
            begin = max(start - self.before[axis], 0)
            end = min(start + slab.shape[2 + axis] - self.before[axis], self.size[axis])
            if begin < end:
                yield begin, inner.narrow(2 + axis, begin + self.before[axis] - start, end - begin)

    def without(self, tile: Tile) -> Tile:
        """A tile of the padded image as the tile of the image that is in it."""
        return replace(tile, scores=self._of_the_image(tile.scores), own=self._of_the_image(tile.own))

    def _of_the_image(self, box: Box) -> Box:
        return tuple(
            (min(max(start - before, 0), length), min(max(stop - before, 0), length))
            for (start, stop), before, length in zip(box, self.before, self.size, strict=True)
        )


def margins_up_to(size: Sequence[int], smallest: Sequence[int]) -> Margins:
    """The margins that make an image at least as large as ``smallest``, half of them before it.

    As MONAI's sliding window pads an image that is smaller than its window.
    """
    lacking = [max(0, least - length) for length, least in zip(size, smallest, strict=True)]
    before = tuple(voxels // 2 for voxels in lacking)
    after = tuple(voxels - half for voxels, half in zip(lacking, before, strict=True))
    return Margins(before, tuple(size), after)
