"""Dilated nets in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medseg.networks.blocks import (
    ContextModule,
    ConvBlock,
    ConvEncoder,
    SegmentationNetwork,
    convolution,
    crop_like,
    dilate_instead,
    he_initialise,
    level_geometry,
    linear_resize,
    positive,
    probability,
)

__all__ = ["CONFIGURATIONS", "DilatedNet"]

_FRONT_END: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 21,
    "features": (64, 128, 256, 512, 512, 4096),
    "counts": (2, 2, 3, 3, 3, 1),
    "kernel_sizes": (3, 3, 3, 3, 3, 7),
    "pointwise_features": (4096,),
    "norm": None,
    "dropout": 0.5,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "dilated_frontend": {**_FRONT_END, "context": None},
    "dilated_context_basic": {**_FRONT_END, "context": "basic"},
    "dilated_context_large": {**_FRONT_END, "context": "large"},
}
"""The paper's networks for Pascal VOC, by name."""


class DilatedNet(SegmentationNetwork):
    """Dilated net: a front end that soon stops pooling and spreads its kernels instead, and a context module.

    The front end is a classifier's body, levels of convolutions with max pooling between them, of whose
    steps down the last ``dilated_steps`` are taken away: the convolutions behind them are spread by as much,
    so that they see as far as before, on a finer grid. Class scores are computed there, the context module
    (:class:`medseg.networks.blocks.ContextModule`) looks around in them, and linear interpolation brings
    them to the input's grid. Any input size is taken and given back.

    The paper's front end is VGG-16 without its last two poolings, conv5 spread by 2 and fc6 by 4, so that
    scores lie on every 8th pixel: 134,346,581 parameters for 3 channels and 21 classes, of which the paper
    gives no number. The *basic* context adds 28,392 (64 C² weights, as the paper says, and biases), the
    *large* one 6,803,139. The paper enlarges images by reflection and convolves without padding; here
    convolutions pad with zeros. It trains the front end first and the context module behind it; here they
    learn together, which *large* does at learning rates of 0.001 and below.

    The defaults are narrow and shallow, for 3D: scores lie on every 2nd voxel.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level, from first to last.
        counts: Convolutions of each level, one number or one a level.
        pointwise_features: Channels of the pointwise convolutions between the last level and the class
            scores, VGG's fc7; none by default.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``; of the front end, the context module has
            none.
        activation: Of the front end: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or
            ``"silu"``.
        dropout: Probability of dropout behind the last level and behind each pointwise convolution.
        kernel_sizes: One a level, each one number or one an axis; 3 if not given.
        strides: One for each step down, as if all of them pooled; 2 if not given.
        dilated_steps: How many of the last steps dilate instead of pooling; of fewer steps, all.
        context: ``"basic"``, ``"large"`` or ``None``. Its kernel is that of the level that first has the
            grid of the scores.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> import torch
        >>> network = DilatedNet(2, in_channels=1, out_channels=3, features=(4, 6, 8, 8))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Yu, Koltun, Multi-scale context aggregation by dilated convolutions, ICLR 2016.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (16, 32, 64, 128),
        counts: int | Sequence[int] = 2,
        pointwise_features: Sequence[int] = (),
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        dilated_steps: int = 2,
        context: str | None = "basic",
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides)
        if dilated_steps < 0:
            raise ValueError(f"dilated_steps={dilated_steps} is no number of steps; give 0 or more")
        dilated = min(dilated_steps, len(steps))
        strides_left, dilations = dilate_instead(steps, dilated)
        super().__init__(spatial_dims, in_channels, out_channels, strides_left, norm)

        blocks: dict[str, Any] = {"norm": norm, "activation": activation}
        self.encoder = ConvEncoder(
            spatial_dims,
            self.in_channels,
            widths,
            kernels,
            strides_left,
            counts=counts,
            dilations=dilations,
            **blocks,
        )
        self.classifier = nn.Sequential(nn.Dropout(probability(dropout, "dropout")))
        for width in pointwise_features:
            before, widths = widths[-1], (*widths, positive(width, "pointwise_features"))
            self.classifier.append(ConvBlock(spatial_dims, before, width, 1, **blocks))
            self.classifier.append(nn.Dropout(dropout))
        self.classifier.append(convolution(spatial_dims, widths[-1], self.out_channels, 1))
        he_initialise(self)
        self.context: nn.Module = nn.Identity()
        if context is not None:
            kernel = kernels[len(steps) - dilated]
            self.context = ContextModule(spatial_dims, self.out_channels, context, kernel)
        self.upsample = linear_resize(spatial_dims, self.total_stride())

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        scores = self.upsample(self.context(self.classifier(self.encoder(images)[-1])))
        return crop_like(scores, images, self.spatial_dims)
