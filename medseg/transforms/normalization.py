"""Bringing intensities to a common scale: what must be known of an image, and the arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medseg.runs import Normalization

__all__ = ["Spread", "normalize_", "spread_of"]

_BLOCK_VOXELS = 1 << 16


@dataclass(frozen=True)
class Spread:
    """Where the voxels of a channel lie, gathered part by part.

    Sums of squares are taken about each part's own mean and merged as by Chan, Golub and LeVeque (1983),
    "Algorithms for computing the sample variance", so that neither large means nor many voxels cost digits.

    Attributes:
        count: Number of voxels.
        lowest: Smallest value.
        highest: Largest value.
        mean: Their mean, in double precision.
        squares: Sum of the squared distances from the mean.
        background: A value that was left out of all of these.
        background_count: How many voxels have it.

    Example:
        >>> spread_of(torch.tensor([1.0, 3.0])).merged(spread_of(torch.tensor([5.0, 7.0]))).squares
        20.0
    """

    count: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0
    background: float | None = None
    background_count: int = 0

    @property
    def std(self) -> float:
        """Standard deviation of the voxels themselves (divided by their number)."""
        return math.sqrt(self.squares / self.count)

    @property
    def is_constant(self) -> bool:
        """Whether all voxels are equal; rounding would leave ``std`` just above zero."""
        return self.lowest == self.highest

    def merged(self, other: Spread) -> Spread:
        """The spread of both parts together."""
        count = self.count + other.count
        background = self.background if other.background is None else other.background
        background_count = self.background_count + other.background_count
        if count == 0:
            return Spread(background=background, background_count=background_count)
        apart = other.mean - self.mean
        return Spread(
            count=count,
            lowest=min(self.lowest, other.lowest),
            highest=max(self.highest, other.highest),
            mean=self.mean + apart * other.count / count,
            squares=self.squares + other.squares + apart * apart * self.count * other.count / count,
            background=background,
            background_count=background_count,
        )

    def that_counts(self) -> Spread:
        """Of the body; of the whole image where the body is empty or of one value."""
        if self.background is None or self.background_count == 0 or (self.count and not self.is_constant):
            return self
        value = self.background
        return self.merged(Spread(self.background_count, lowest=value, highest=value, mean=value))


def spread_of(voxels: torch.Tensor, background: float | None = None) -> Spread:
    """The spread of voxels of any shape, in double precision whatever their type.

    Args:
        voxels: Of any type.
        background: Voxels of exactly this value are left out, and counted.

    Example:
        >>> spread = spread_of(torch.tensor([0.0, 1.0, 0.0, 3.0]), background=0.0)
        >>> spread.mean, spread.background_count
        (2.0, 2)
    """
    strides = voxels.stride()
    as_they_lie = sorted(range(voxels.ndim), key=lambda dim: strides[dim], reverse=True)
    spread = Spread(background=background)
    for every in torch.split(voxels.permute(as_they_lie).reshape(-1), _BLOCK_VOXELS):
        block = every if background is None else every[every != background]
        left_out = len(every) - len(block)
        if len(block) == 0:
            spread = spread.merged(Spread(background=background, background_count=left_out))
            continue
        lowest, highest = block.aminmax()
        doubled = block.double()
        mean = doubled.mean()
        about_mean = doubled.sub_(mean)
        squares = about_mean.dot(about_mean)
        numbers = lowest.item(), highest.item(), mean.item(), squares.item()
        spread = spread.merged(Spread(len(block), *numbers, background, left_out))
    return spread


def normalize_(channel: torch.Tensor, how: Normalization, spread: Spread | None = None) -> torch.Tensor:
    """Normalise a channel, or a part of it, in place.

    Args:
        channel: Voxels of floating point.
        how: The scheme.
        spread: Of the whole channel, without its background if the scheme names one; what ``"zscore"``
            needs. A channel that is constant becomes zero.

    Returns:
        ``channel``.

    Example:
        >>> voxels = torch.tensor([1.0, 3.0])
        >>> normalize_(voxels, Normalization(scheme="zscore"), spread_of(voxels))
        tensor([-1.,  1.])
    """
    if how.mean is not None and how.std is not None:  # clip_zscore: its four numbers come together
        return channel.clamp_(how.lower, how.upper).sub_(how.mean).div_(how.std)
    if how.scheme == "none" or spread is None:
        return channel
    spread = spread.that_counts()
    if spread.is_constant:
        return channel.zero_()
    return channel.sub_(spread.mean).div_(spread.std)
