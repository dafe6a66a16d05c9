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

    Example:
        >>> spread_of(torch.tensor([1.0, 3.0])).merged(spread_of(torch.tensor([5.0, 7.0]))).squares
        20.0
    """

    count: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0

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
        if count == 0:
            return self
        apart = other.mean - self.mean
        return Spread(
            count=count,
            lowest=min(self.lowest, other.lowest),
            highest=max(self.highest, other.highest),
            mean=self.mean + apart * other.count / count,
            squares=self.squares + other.squares + apart * apart * self.count * other.count / count,
        )


def spread_of(voxels: torch.Tensor) -> Spread:
    """The spread of voxels of any shape, in double precision whatever their type."""
    strides = voxels.stride()
    as_they_lie = sorted(range(voxels.ndim), key=lambda dim: strides[dim], reverse=True)
    spread = Spread()
    for block in torch.split(voxels.permute(as_they_lie).reshape(-1), _BLOCK_VOXELS):
        lowest, highest = block.aminmax()
        doubled = block.double()
        mean = doubled.mean()
        about_mean = doubled.sub_(mean)
        squares = about_mean.dot(about_mean)
        part = Spread(len(block), lowest.item(), highest.item(), mean.item(), squares.item())
        spread = spread.merged(part)
    return spread


def normalize_(channel: torch.Tensor, how: Normalization, spread: Spread | None = None) -> torch.Tensor:
    """Normalise a channel, or a part of it, in place.

    Args:
        channel: Voxels of floating point.
        how: The scheme.
        spread: Of the whole channel; what ``"zscore"`` needs. A channel that is constant becomes zero.

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
    if spread.is_constant:
        return channel.zero_()
    return channel.sub_(spread.mean).div_(spread.std)
