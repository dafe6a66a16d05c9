"""Deep supervision's levels: their weights, and targets on their grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["deep_supervision_weights", "nearest_resize"]


def deep_supervision_weights(levels: int) -> tuple[float, ...]:
    """Weights of the levels, the finest first: each half of the one before, together one.

    Example:
        >>> [round(weight, 3) for weight in deep_supervision_weights(3)]
        [0.571, 0.286, 0.143]
    """
    halves = [0.5**level for level in range(levels)]
    return tuple(half / sum(halves) for half in halves)


def nearest_resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Take the nearest voxel, by centres, on a grid of ``size`` voxels over the same extent.

    Works on every number type, integers and booleans as well.

    Args:
        values: Shape (B, C, X, Y[, Z]).
        size: The new X, Y[, Z].

    Example:
        >>> nearest_resize(torch.arange(6).view(1, 1, 1, 6), (1, 3)).flatten().tolist()
        [1, 3, 5]
    """
    for axis, (old, new) in enumerate(zip(values.shape[2:], size, strict=True), start=2):
        if old != new:
            centres = (torch.arange(new, device=values.device, dtype=torch.float64) + 0.5) * (old / new)
            values = values.index_select(axis, centres.long().clamp_(max=old - 1))
    return values
