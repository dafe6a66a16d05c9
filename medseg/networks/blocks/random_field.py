"""Mean-field inference in a fully connected conditional random field, with gradients.

P. Kraehenbuehl, V. Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials",
NeurIPS 2011. Every pair of voxels is linked by Gaussians of their distance in space and in intensity; what a
voxel hears of all others is then a filter, which takes linear time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from medseg.networks.blocks.permutohedral import PermutohedralLattice

__all__ = ["BilateralKernel", "Kernel", "SpatialKernel", "mean_field", "potts"]


class Kernel(Protocol):
    """A way in which pairs of voxels are linked."""

    def message(self, beliefs: Tensor) -> Tensor:
        """What each voxel hears of all others, shape (K, N) as ``beliefs``; differentiable."""
        ...


class SpatialKernel:
    """Links voxels by a Gaussian of their distance; summed exactly, axis by axis.

    As in the paper's own code a link is divided by the roots of both ends' sums, so that a voxel hears a
    weighted mean, of weight 1 or less, whatever the spacing.

    Args:
        shape: Of the volume, (X, Y) or (X, Y, Z); N voxels, the last axis running fastest.
        spacing_mm: Distance between voxels along each axis.
        sigma_mm: Deviation of the Gaussian.
        like: A tensor of the type and device of the beliefs.

    Example:
        >>> kernel = SpatialKernel((2, 1), (1.0, 1.0), 1.0, torch.zeros(1))
        >>> kernel.message(torch.tensor([[1.0, 0.0]])).tolist()[0][0]
        0.0
    """

    def __init__(
        self, shape: Sequence[int], spacing_mm: Sequence[float], sigma_mm: float, like: Tensor
    ) -> None:
        self.shape = tuple(shape)
        self._axes = [
            _gaussian_matrix(size, spacing / sigma_mm, like)
            for size, spacing in zip(self.shape, spacing_mm, strict=True)
        ]
        self._scale = self._summed(like.new_ones((1, _voxels(self.shape)))).rsqrt_()

    def message(self, beliefs: Tensor) -> Tensor:
        """See ``Kernel``."""
        scaled = beliefs * self._scale
        return self._summed(scaled).sub_(scaled).mul_(self._scale)

    def _summed(self, values: Tensor) -> Tensor:
        summed = values
        before, after = values.shape[0], _voxels(self.shape)
        for size, matrix in zip(self.shape, self._axes, strict=True):
            after //= size
            if after > 1:
                summed = matrix @ summed.reshape(before, size, after)
            else:
                summed = summed.reshape(before, size) @ matrix
            before *= size
        return summed.reshape(values.shape)


class BilateralKernel:
    """Links voxels by a Gaussian of their distance and of their difference in intensity.

    Divided as in :class:`SpatialKernel`; summed on a permutohedral lattice, within a few per cent.

    Args:
        image: Shape (C, X, Y) or (C, X, Y, Z), in the type of the beliefs.
        spacing_mm: Distance between voxels along each axis.
        sigma_mm: Deviation of the Gaussian in space.
        intensity_sigma: Deviation in intensity, one number or one a channel.
        passes: Of the lattice: more are nearer to a Gaussian, and slower.
    """

    def __init__(
        self,
        image: Tensor,
        spacing_mm: Sequence[float],
        sigma_mm: float,
        intensity_sigma: float | Sequence[float],
        passes: int = 1,
    ) -> None:
        features = _features(image, spacing_mm, sigma_mm, intensity_sigma)
        self.lattice = PermutohedralLattice(features, passes)
        del features
        self._scale = self.lattice.filter(image.new_ones((self.lattice.points, 1)))[:, 0].rsqrt_()
        self._own = self.lattice.own_weights() * self._scale

    def message(self, beliefs: Tensor) -> Tensor:
        """See ``Kernel``."""
        heard = self.lattice.filter((beliefs.T * self._scale[:, None]).contiguous()).T
        return torch.addcmul(heard, beliefs, self._own, value=-1.0) * self._scale


def mean_field(
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    iterations: int,
) -> Tensor:
    """What each voxel believes of its class, as all others are taken into account again and again.

    One iteration: hear the others' beliefs through each kernel, weigh what is heard, turn it into a cost for
    each class by ``compatibility``, add the cost of the class itself, normalise.

    Args:
        unary: Cost of each class at each voxel, negative logarithms of probabilities, shape (K, N).
        kernels: How voxels are linked.
        weights: Of each kernel, in the unit of the costs: one number, or one a class, shape (K, 1).
        compatibility: Cost of a class, by rows, beside each other one, by columns: shape (K, K).
        iterations: How often; with none, beliefs are those of ``unary`` alone.

    Returns:
        Class scores (K, N), whose softmax along K the beliefs are.

    Example:
        >>> line = SpatialKernel((5, 1), (1.0, 1.0), 1.0, torch.zeros(1))
        >>> unary = torch.tensor([[1.0, 1.0, 0.4, 1.0, 1.0], [0.0, 0.0, 0.6, 0.0, 0.0]])
        >>> mean_field(unary, [line], [2.0], potts(2, unary), 5).argmax(dim=0).tolist()
        [1, 1, 1, 1, 1]

    References:
        Kraehenbuehl, Koltun, Efficient inference in fully connected CRFs with Gaussian edge potentials,
        NeurIPS 2011. Zheng et al., Conditional random fields as recurrent neural networks, ICCV 2015.
    """
    scores = -unary
    for _ in range(iterations):
        beliefs = torch.softmax(scores, dim=0)
        del scores  # large volumes leave no room for what is not needed any more
        heard = torch.zeros_like(unary)
        for kernel, weight in zip(kernels, weights, strict=True):
            heard.addcmul_(
                kernel.message(beliefs), torch.as_tensor(weight, dtype=unary.dtype, device=unary.device)
            )
        scores = torch.addmm(unary, compatibility, heard).neg_()
    return scores


def potts(classes: int, like: Tensor) -> Tensor:
    """A cost of 1 for any two different classes, shape (K, K)."""
    return 1.0 - torch.eye(classes, dtype=like.dtype, device=like.device)


def _voxels(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _gaussian_matrix(size: int, step: float, like: Tensor) -> Tensor:
    place = torch.arange(size, dtype=like.dtype, device=like.device) * step
    return torch.exp(-0.5 * (place[:, None] - place) ** 2)


def _features(
    image: Tensor, spacing_mm: Sequence[float], sigma_mm: float, intensity_sigma: float | Sequence[float]
) -> Tensor:
    """Positions and intensities in deviations, shape (axes + channels, N)."""
    channels, *shape = image.shape
    features = image.new_empty((len(shape) + channels, *shape))
    for axis, (size, spacing) in enumerate(zip(shape, spacing_mm, strict=True)):
        line = torch.arange(size, dtype=image.dtype, device=image.device) * (spacing / sigma_mm)
        features[axis] = line.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    sigmas = [intensity_sigma] * channels if isinstance(intensity_sigma, int | float) else intensity_sigma
    for channel, sigma in zip(range(channels), sigmas, strict=True):
        torch.div(image[channel], sigma, out=features[len(shape) + channel])
    return features.flatten(1)
