"""Changes that act along each axis by itself, as matrices: blur, larger voxels, ghosts.

Several of them become one matrix by multiplication, and a patch is passed over once per axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "apply_along_axes",
    "blur_matrix",
    "composed",
    "ghosting_matrix",
    "low_resolution_matrix",
    "negligible",
]

_REACH_SIGMAS = 4.0
"""Where a Gaussian is cut off."""


def apply_along_axes(image: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply each line along each axis by that axis's matrix.

    Args:
        image: One channel (X, Y, Z).
        matrices: Square, one per axis; ``None`` leaves an axis as it is.

    Example:
        >>> image = torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]]])
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> apply_along_axes(image, [swap, None, None]).flatten()
        tensor([3., 5., 1., 2.])
    """
    first, second, third = (None if m is None else m.to(image) for m in matrices)
    if first is not None:
        image = (first @ image.flatten(1)).reshape(image.shape)
    if second is not None:
        image = torch.matmul(second, image)
    return image if third is None else image @ third.T


def blur_matrix(voxels: int, sigma_voxels: float) -> Tensor:
    """A Gaussian along an axis; at the ends the voxels that there are weigh more, so that 1 stays 1.

    Example:
        >>> blur_matrix(3, 0.5).mul(1e4).round().int()
        tensor([[8805, 1192,    3],
                [1065, 7870, 1065],
                [   3, 1192, 8805]], dtype=torch.int32)
    """
    place = torch.arange(voxels, dtype=torch.float64)
    distance = (place[:, None] - place).abs() / sigma_voxels
    weights = torch.exp(-0.5 * distance**2) * (distance <= _REACH_SIGMAS)
    return (weights / weights.sum(1, keepdim=True)).float()


def low_resolution_matrix(voxels: int, factor: float) -> Tensor:
    """Means over voxels that are ``factor`` times as large, then linear interpolation back.

    The large voxels lie evenly over the axis; their number is rounded.

    Example:
        >>> low_resolution_matrix(4, 2.0) @ torch.tensor([0.0, 2.0, 4.0, 6.0])
        tensor([1., 2., 4., 5.])
    """
    large = max(1, round(voxels / factor))
    side = voxels / large
    place = torch.arange(voxels, dtype=torch.float64)
    starts = torch.arange(large, dtype=torch.float64)[:, None] * side
    covered = (torch.minimum(place + 1.0, starts + side) - torch.maximum(place, starts)).clamp(min=0.0)
    centre = ((place + 0.5) / side - 0.5).clamp(0.0, large - 1.0)
    back = (1.0 - (centre[:, None] - torch.arange(large)).abs()).clamp(min=0.0)
    return (back @ (covered / side)).float()


def ghosting_matrix(voxels: int, period: int, loss: float) -> Tensor:
    """Every ``period``-th line of k-space weaker by ``loss``, but for the middle one, which holds the mean.

    Example:
        >>> ghosting_matrix(4, 2, 0.5) @ torch.tensor([4.0, 0.0, 0.0, 0.0])
        tensor([ 3.5000,  0.5000, -0.5000,  0.5000])
    """
    gain = torch.ones(voxels // 2 + 1, dtype=torch.float64)
    gain[::period] -= loss
    gain[0] = 1.0
    kernel: Tensor = torch.fft.irfft(gain.to(torch.complex128), voxels)
    place = torch.arange(voxels)
    return kernel[(place[:, None] - place) % voxels].float()


def composed(matrices: Sequence[Tensor]) -> Tensor | None:
    """One matrix for several, of which the first is applied first."""
    return functools.reduce(lambda done, further: further @ done, matrices) if matrices else None


def negligible(sigma_voxels: float) -> bool:
    """Whether a Gaussian is so narrow that the next voxel weighs nothing."""
    return sigma_voxels * _REACH_SIGMAS < 1.0 or math.exp(-0.5 / sigma_voxels**2) < 1e-4
