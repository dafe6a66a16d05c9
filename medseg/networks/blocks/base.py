"""What all segmentation networks share: sizes and channels that are checked before any work."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medseg.networks.blocks.options import check_images, is_symbolic, positive

__all__ = ["SegmentationNetwork"]


class SegmentationNetwork(nn.Module):
    """A network from images (B, C, X, Y[, Z]) to class scores (B, classes, X, Y[, Z]).

    A subclass has an ``encoder``: a module that gives feature maps as a list, the finest first, and says
    their channels in ``features``; an autoencoder trains it, and weights are handed over by it. And it has
    :meth:`class_scores`, which may take for granted that the images fit.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        strides: Of each step down, spelt out by axis.
        norm: The normalisation's name, or ``None``.

    Raises:
        ValueError: An option is invalid.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        strides: tuple[tuple[int, ...], ...] = (),
        norm: str | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims={spatial_dims!r} is not supported; choose 2 or 3")
        self.spatial_dims = spatial_dims
        self.in_channels = positive(in_channels, "in_channels")
        self.out_channels = positive(out_channels, "out_channels")
        self.strides = strides
        self.norm = norm

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (logits) of a batch of images.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Returns:
            Shape (B, classes, X, Y[, Z]); of valid convolutions, as much as they leave.

        Raises:
            ValueError: The network cannot take this shape; the message says what it takes.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_input(images)
        return self.class_scores(images)

    def class_scores(self, images: Tensor) -> Tensor:
        """What :meth:`forward` gives for images that fit."""
        raise NotImplementedError

    def check_input(self, images: Tensor) -> None:
        """Refuse a shape that this network cannot take.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Raises:
            ValueError: Axes, channels or sizes do not fit; the message says what does.
        """
        if is_symbolic(images):
            return
        check_images(images, self.spatial_dims, self.in_channels)
        size = tuple(images.shape[2:])
        shared = images.shape[0] if self.norm == "batch" else 1
        standardised = self.norm == "instance" or (self.norm == "batch" and self.training)
        if standardised and shared * math.prod(self.coarsest_size(size)) < 2:
            raise ValueError(
                f"an input of size {size} leaves the coarsest level one voxel, which {self.norm} norm would "
                f"make zero; give more than {self.total_stride()} voxels along one axis"
            )

    def total_stride(self) -> tuple[int, ...]:
        """Voxels of the input per voxel of the coarsest level, by axis.

        Inputs whose sizes are multiples of it pool evenly all the way down.
        """
        return tuple(math.prod(step[axis] for step in self.strides) for axis in range(self.spatial_dims))

    def coarsest_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Voxels per axis of the coarsest level for an input of ``size`` voxels."""
        return tuple(-(-length // step) for length, step in zip(size, self.total_stride(), strict=True))
