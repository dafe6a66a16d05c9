"""Class scores of the network grid, held from when they come until nothing needs them any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from medseg.errors import BundleError, GeometryError, InputError

__all__ = ["ScoreSlabs", "WholeScores"]


class ScoreSlabs:
    """Scores that come slab by slab, from the first slice to the last, are checked, and are forgotten again.

    Args:
        slabs: First slice and scores, (K, X', Y', Z') with as many slices along ``axis`` as are done. Slabs
            may lie in memory that is used again for the next one.
        shape: (X', Y', Z') of all of them together.
        axis: The spatial axis along which they come.
        where: What computes them, for errors.
        classes: How many there must be; any number if left out.

    Attributes:
        axis: As given.
        last: One past the last slice that has come.

    Raises:
        BundleError: While slabs come: another number of classes, or scores that are not finite.
        GeometryError: While slabs come: they do not make up ``shape``.
    """

    def __init__(
        self,
        slabs: Iterable[tuple[int, torch.Tensor]],
        shape: Sequence[int],
        axis: int,
        *,
        where: str = "the network",
        classes: int | None = None,
    ) -> None:
        self.axis = axis
        self.last = 0
        self._slabs = iter(slabs)
        self._shape = tuple(shape)
        self._where = where
        self._classes = classes
        self._held: list[tuple[int, torch.Tensor]] = []

    @property
    def needs_order(self) -> bool:
        """Whether slices are gone once later ones have been read."""
        return True

    @property
    def like(self) -> torch.Tensor:
        """A tensor of the scores' type, where they are; there is one as soon as a slab has come."""
        return self._held[-1][1]

    def require(self, low: int, high: int) -> None:
        """Let slabs come until slices [low, high) are held.

        Raises:
            InputError: Slices of them were forgotten.
        """
        first = self._held[0][0] if self._held else self.last
        if low < first:
            raise InputError(
                f"slice {low} of the scores is asked for after it was forgotten",
                where=self._where,
                fix="read slices in the stage's order, each once",
            )
        while self.last < high:
            # The slab that comes may take the place of the one that went before.
            self._held = [(start, slab.clone()) for start, slab in self._held]
            self._take(*self._next())

    def release(self, below: int) -> None:
        """Forget the slices before ``below``."""
        kept = []
        for start, slab in self._held:
            end = start + slab.shape[1 + self.axis]
            if end > below:
                first = max(start, below)
                kept.append((first, slab.narrow(1 + self.axis, first - start, end - first)))
        self._held = kept

    def box(self, ranges: Sequence[tuple[int, int]], order: Sequence[int]) -> torch.Tensor:
        """A copy of the scores in a box, contiguous, its axes in the order that is wanted.

        Args:
            ranges: Voxels [start, stop) along each axis of the network grid; they must be held.
            order: Which of these axes comes first, second, third.

        Returns:
            Shape (K, x, y, z).
        """
        sizes = [ranges[axis][1] - ranges[axis][0] for axis in order]
        result = self.like.new_empty((len(self.like), *sizes))
        low, high = ranges[self.axis]
        along = 1 + list(order).index(self.axis)
        for start, slab in self._held:
            first, last = max(low, start), min(high, start + slab.shape[1 + self.axis])
            if first >= last:
                continue
            cut = [(first - start, last - start) if axis == self.axis else ranges[axis] for axis in range(3)]
            for axis, (begin, end) in enumerate(cut):
                slab = slab.narrow(1 + axis, begin, end - begin)
            turned = _planar(slab.permute(0, *(1 + axis for axis in order)))
            result.narrow(along, first - low, last - first).copy_(turned)
        return result

    def _next(self) -> tuple[int, torch.Tensor]:
        for start, slab in self._slabs:
            return start, slab
        raise GeometryError(
            f"scores end with slice {self.last - 1}, the network grid has {self._shape[self.axis]}",
            where=self._where,
        )

    def _take(self, start: int, scores: torch.Tensor) -> None:
        count = scores.shape[1 + self.axis]
        expected = list(self._shape)
        expected[self.axis] = count
        if start != self.last or list(scores.shape[1:]) != expected or start + count > self._shape[self.axis]:
            raise GeometryError(
                f"scores of shape {tuple(scores.shape[1:])} from slice {start} on do not fit its grid, "
                f"{self._shape} from slice {self.last} on",
                where=self._where,
            )
        if self._classes not in (None, len(scores)):
            raise BundleError(
                f"gives {len(scores)} classes, {self._classes} are declared",
                where=self._where,
                fix="use the weights and the plan of one and the same training",
            )
        if not _is_finite(scores):
            raise BundleError(
                "gives scores that are NaN or infinite",
                where=self._where,
                fix="try --precision float32, or another checkpoint",
            )
        precise = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
        self._held.append((start, precise))
        self.last += count


class WholeScores(ScoreSlabs):
    """Scores of the whole network grid, that may be read in any order and more than once.

    Args:
        scores: Shape (K, X', Y', Z').
        shape: That they must have.
        axis: The spatial axis along which they will be read.
        where: What computed them, for errors.
        classes: How many there must be; any number if left out.
    """

    def __init__(
        self,
        scores: torch.Tensor,
        shape: Sequence[int],
        axis: int,
        *,
        where: str = "the network",
        classes: int | None = None,
    ) -> None:
        super().__init__([], shape, axis, where=where, classes=classes)
        self._take(0, scores)

    @property
    def needs_order(self) -> bool:
        """Whether slices are gone once later ones have been read: no."""
        return False

    def release(self, below: int) -> None:
        """Keep everything."""


def _is_finite(scores: torch.Tensor) -> bool:
    # A finite sum has finite terms, and is many times faster; that of large finite terms may overflow.
    return bool(scores.sum().isfinite()) or all(bool(channel.isfinite().all()) for channel in scores)


def _planar(scores: torch.Tensor) -> torch.Tensor:
    """The same scores; if those of a voxel lie side by side, copied so that those of a class do."""
    if scores.stride(0) != 1 or len(scores) == 1:
        return scores
    # PyTorch turns matrices by blocks, much faster than what has more axes.
    by_voxel = scores.permute(1, 2, 3, 0).reshape(-1, len(scores)).contiguous()
    return by_voxel.t().contiguous().reshape(scores.shape)
