"""A fully connected random field as a network's last layer. Imports torch and networks.blocks alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks import (
    BilateralKernel,
    SpatialKernel,
    WrappedNetwork,
    crop_like,
    is_symbolic,
    mean_field,
    positive,
    potts,
)

__all__ = ["CRFRNN", "WithCRF"]


class CRFRNN(nn.Module):
    """Mean-field inference in a fully connected CRF, whose weights and costs of classes are learnt.

    Each iteration a voxel hears the beliefs of all others through two Gaussians, one of distance and
    intensity and one of distance alone, each with a weight for every class; costs of any two classes side by
    side make scores of that. Gradients go through all iterations, to the scores and to these weights; none
    goes to the image, or to the Gaussians' deviations. As it starts, it is :func:`medseg.classical.dense_crf`
    with the same options.

    It looks at the whole image: it can be neither streamed nor exported.

    Args:
        classes: Channels of the scores.
        spacing_mm: Distance between voxels along each axis; the number of axes follows from it.
        iterations: Of the mean field; a positive number.
        bilateral_weight: Of the links by distance and intensity, to start with.
        bilateral_sigma_mm: Their deviation in space.
        intensity_sigma: Their deviation in intensity, as the network sees it; one number or one a channel.
        spatial_weight: Of the links by distance alone, to start with.
        spatial_sigma_mm: Their deviation.
        passes: Of the lattice; see :class:`medseg.networks.blocks.PermutohedralLattice`.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> crf = CRFRNN(2, spacing_mm=(1.0, 1.0), iterations=3)
        >>> crf(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8)).shape
        torch.Size([1, 2, 8, 8])

    References:
        Zheng et al., Conditional random fields as recurrent neural networks, ICCV 2015.
    """

    def __init__(
        self,
        classes: int,
        spacing_mm: Sequence[float],
        *,
        iterations: int = 5,
        bilateral_weight: float = 1.0,
        bilateral_sigma_mm: float = 2.0,
        intensity_sigma: float | Sequence[float] = 0.5,
        spatial_weight: float = 0.5,
        spatial_sigma_mm: float = 1.0,
        passes: int = 1,
    ) -> None:
        super().__init__()
        self.spacing_mm = tuple(float(length) for length in spacing_mm)
        self.iterations, self.passes = positive(iterations, "iterations"), positive(passes, "passes")
        sigmas = [intensity_sigma] if isinstance(intensity_sigma, int | float) else list(intensity_sigma)
        self.intensity_sigma: float | tuple[float, ...] = sigmas[0] if len(sigmas) == 1 else tuple(sigmas)
        self.bilateral_sigma_mm, self.spatial_sigma_mm = bilateral_sigma_mm, spatial_sigma_mm
        lengths = {
            "spacing_mm": self.spacing_mm,
            "intensity_sigma": sigmas,
            "bilateral_sigma_mm": (bilateral_sigma_mm,),
            "spatial_sigma_mm": (spatial_sigma_mm,),
        }
        for name, values in lengths.items():
            if not values or not all(0.0 < value < math.inf for value in values):
                raise ValueError(f"{name}={values!r} is not positive; give numbers above 0")
        if len(self.spacing_mm) not in (2, 3):
            raise ValueError(f"spacing_mm has {len(self.spacing_mm)} numbers; give 2 or 3")
        ones = torch.ones(positive(classes, "classes"), 1)
        self.bilateral_weights = nn.Parameter(bilateral_weight * ones)
        self.spatial_weights = nn.Parameter(spatial_weight * ones)
        self.compatibility = nn.Parameter(potts(classes, ones))

    def forward(self, images: Tensor, scores: Tensor) -> Tensor:
        """Class scores that have heard each other.

        Args:
            images: Shape (B, C, X, Y[, Z]).
            scores: Class scores of them, shape (B, classes, X, Y[, Z]).

        Raises:
            ValueError: It is to be exported, or shapes do not fit.
        """
        if torch.compiler.is_compiling() or is_symbolic(images):
            raise ValueError("a CRF looks at the whole image; use a sliding window, or leave it out")
        if images.shape[2:] != scores.shape[2:] or scores.dim() != len(self.spacing_mm) + 2:
            raise ValueError(
                f"images {tuple(images.shape)} and scores {tuple(scores.shape)} do not fit "
                f"{len(self.spacing_mm)} axes of one size; crop them to each other"
            )
        kind = "cpu" if scores.is_meta else scores.device.type
        with torch.autocast(kind, enabled=False):
            return torch.stack(
                [self._refined(image, each) for image, each in zip(images, scores, strict=True)]
            )

    def _refined(self, image: Tensor, scores: Tensor) -> Tensor:
        precise = torch.promote_types(scores.dtype, torch.float32)
        unary = -scores.to(precise).flatten(1)
        spatial = SpatialKernel(scores.shape[1:], self.spacing_mm, self.spatial_sigma_mm, unary)
        # Where there are shapes and no numbers, as in plans of memory, one kernel stands for the other.
        bilateral: SpatialKernel | BilateralKernel = spatial
        if scores.device.type != "meta":
            with torch.no_grad():
                bilateral = BilateralKernel(
                    image.detach().to(precise),
                    self.spacing_mm,
                    self.bilateral_sigma_mm,
                    self.intensity_sigma,
                    self.passes,
                )
        weights = (self.bilateral_weights.to(precise), self.spatial_weights.to(precise))
        costs = self.compatibility.to(precise)
        refined = mean_field(unary, (bilateral, spatial), weights, costs, self.iterations)
        return refined.reshape(scores.shape)


class WithCRF(WrappedNetwork):
    """A segmentation network with :class:`CRFRNN` behind its class scores.

    Args:
        network: A segmentation network.
        spacing_mm: Distance between voxels along each axis; 1 mm if left out.
        **options: What else :class:`CRFRNN` takes.

    Raises:
        ValueError: An option is invalid.
    """

    def __init__(self, network: nn.Module, spacing_mm: Sequence[float] | None = None, **options: Any) -> None:
        super().__init__(network)
        spacing = (1.0,) * self.spatial_dims if spacing_mm is None else spacing_mm
        if len(spacing) != self.spatial_dims:
            raise ValueError(f"spacing_mm has {len(spacing)} numbers; give {self.spatial_dims}")
        self.crf = CRFRNN(self.out_channels, spacing, **options)

    def behind(self, images: Tensor, scores: Tensor) -> Tensor:
        """See :class:`WrappedNetwork`."""
        refined: Tensor = self.crf(crop_like(images, scores, self.spatial_dims), scores)
        return refined
