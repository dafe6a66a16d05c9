"""DeconvNet in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medseg.networks.blocks import (
    ConvBlock,
    PoolingEncoder,
    SegmentationNetwork,
    UnpoolingDecoder,
    activation_layer,
    check_images,
    choice,
    convolution,
    he_initialise,
    is_symbolic,
    level_geometry,
    norm_layer,
    positive,
    probability,
    transposed_operator,
)

__all__ = ["CONFIGURATIONS", "DeconvBlock", "DeconvNet", "DeconvNetEncoder"]

Axes = tuple[int, ...]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "deconvnet_vgg16": {
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": 21,
        "features": (64, 128, 256, 512, 512, 4096),
        "kernel_sizes": (3, 3, 3, 3, 3, 7),
        "counts": (2, 2, 3, 3, 3),
        "fc_padding": "valid",
    },
}
"""The paper's own network, as keyword arguments of :class:`DeconvNet`, for the 21 classes of PASCAL VOC."""


class DeconvNet(SegmentationNetwork):
    """DeconvNet: a classifier's convolutions down to one vector, and their mirror image up again.

    Levels of convolutions are each pooled by indices. The coarsest level is the classifier's two fully
    connected layers as convolutions, ``fc6`` (of that level's kernel) and ``fc7`` (1x1x1), and the way back
    from them, a transposed convolution of fc6's kernel. From there each level is unpooled and made dense
    by transposed convolutions of stride 1, as many as the level has on the way down. There are no skips.
    Scores are logits.

    The paper's network (:data:`CONFIGURATIONS`, ``deconvnet_vgg16``) is VGG-16 with batch norm and its mirror
    image. For 21 classes it has 251,788,949 parameters here, four fifths of them in fc6 (7x7, 512 to 4096)
    and its mirror, and 251,805,653 with a bias for each of the 29 layers that a batch norm follows and takes
    away again, which these have not; the published figure is about 252 M. Its fully connected layers see
    the 7x7 voxels that an image of 224x224 leaves and add no padding (``fc_padding="valid"``), so that its
    code is one vector. With ``"same"``, the default, fc6 and its mirror are padded and any size is taken;
    that changes no weight, and either way the input's size is given back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level, from the finest to the coarsest, the last of which are those of
            the fully connected layers.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout behind each of the two fully connected layers, as VGG-16 has it.
        kernel_sizes: One a level, each one number or one an axis, the last one that of fc6; 3 if not given.
        strides: One for each step down, that is one fewer than the levels; 2 if not given.
        counts: Convolutions of each level but the coarsest, one number or one a level.
        fc_padding: ``"same"`` or ``"valid"``: whether fc6 is padded; if not, it needs an input that leaves
            at least its kernel's voxels of the coarsest grid.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> import torch
        >>> network = DeconvNet(2, in_channels=1, out_channels=3, features=(8, 16, 32))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Noh, Hong, Han, Learning deconvolution network for semantic segmentation, ICCV 2015.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (16, 32, 64, 128),
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        counts: int | Sequence[int] = 2,
        fc_padding: str = "same",
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides)
        super().__init__(spatial_dims, in_channels, out_channels, steps, norm)
        self.features = widths
        self.kernel_sizes = kernels
        self.fc_padding = choice(fc_padding, ("same", "valid"), "fc_padding")

        blocks: dict[str, Any] = {"norm": norm, "activation": activation}
        self.encoder = DeconvNetEncoder(
            spatial_dims,
            self.in_channels,
            widths,
            kernels,
            steps,
            counts=counts,
            dropout=dropout,
            fc_padding=self.fc_padding,
            **blocks,
        )
        self.fc6_deconv = DeconvBlock(
            spatial_dims, widths[-1], widths[-2], kernels[-1], padding=self.fc_padding, **blocks
        )
        conv_levels = len(widths) - 1
        convolutions = (counts,) * conv_levels if isinstance(counts, int) else tuple(counts)
        levels: list[nn.Module] = []
        for level, (width, count) in enumerate(zip(widths[:-1], convolutions, strict=True)):
            outs = (*(width,) * (count - 1), widths[max(0, level - 1)])
            levels.append(
                nn.Sequential(
                    *(
                        DeconvBlock(spatial_dims, before, after, kernels[level], **blocks)
                        for before, after in itertools.pairwise((width, *outs))
                    )
                )
            )
        self.decoder = UnpoolingDecoder(spatial_dims, steps, levels)
        self.head = convolution(spatial_dims, widths[0], self.out_channels, 1)
        he_initialise(self)
        self.decoder.allow_for_zeros()

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        maps, indices, code = self.encoder.pooled(images)
        scores: Tensor = self.head(self.decoder(maps, indices, self.fc6_deconv(code)))
        return scores

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
        for axis, left in enumerate(self.coarsest_size(size)):
            if left < 1:
                smallest = (self.kernel_sizes[-1][axis] - 1) * self.total_stride()[axis] + 1
                raise ValueError(
                    f"axis {'XYZ'[axis]} has {size[axis]} voxels of size {size}, too few for a fully "
                    f"connected layer without padding; pad it to {smallest} or more, "
                    "or build the network with fc_padding='same'"
                )
        super().check_input(images)

    def coarsest_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Voxels per axis of the fully connected layers for an input of ``size`` voxels."""
        pooled = super().coarsest_size(size)
        if self.fc_padding == "same":
            return pooled
        return tuple(left - kernel + 1 for left, kernel in zip(pooled, self.kernel_sizes[-1], strict=True))


class DeconvNetEncoder(nn.Module):
    """VGG's classifier without its last layer: levels pooled by indices, then fc6 and fc7.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        features: Channels of each level, the last being those of fc6 and fc7.
        kernel_sizes: One a level, spelt out by axis, the last being fc6's.
        strides: One for each step down, spelt out by axis.
        counts: Convolutions of each level but the coarsest.
        dropout: Probability of dropout behind fc6 and fc7.
        fc_padding: ``"same"`` or ``"valid"``.
        **blocks: ``norm`` and ``activation`` of every block.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[Axes],
        strides: Sequence[Axes],
        *,
        counts: int | Sequence[int] = 2,
        dropout: float = 0.0,
        fc_padding: str = "same",
        **blocks: Any,
    ) -> None:
        super().__init__()
        probability(dropout, "dropout")
        self.features = tuple(features)
        self.convolutions = PoolingEncoder(
            spatial_dims, in_channels, features[:-1], kernel_sizes[:-1], strides, counts=counts, **blocks
        )
        below, width = features[-2:]
        blocks["padding"] = fc_padding
        self.fully_connected = nn.Sequential()
        for name, before, kernel in (("fc6", below, kernel_sizes[-1]), ("fc7", width, 1)):
            self.fully_connected.add_module(name, ConvBlock(spatial_dims, before, width, kernel, **blocks))
            if dropout > 0.0:
                self.fully_connected.add_module(f"{name}_dropout", nn.Dropout(dropout))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, features[level], …), the finest first: before pooling, and the last one fc7's."""
        maps, _, code = self.pooled(images)
        maps.append(code)
        return maps

    def pooled(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """All that the way up needs: maps before pooling, the indices of their maxima, and fc7's map."""
        maps, indices, coarsest = self.convolutions.pooled(images)
        return maps, indices, self.fully_connected(coarsest)


class DeconvBlock(nn.Sequential):
    """Transposed convolution of stride 1, normalisation, activation: what a ConvBlock is, mirrored.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: One an axis.
        norm: As in :class:`DeconvNet`.
        activation: As in :class:`DeconvNet`.
        padding: ``"same"`` keeps the size; ``"valid"`` gives back what a convolution without padding lost.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        norm: str | None = "batch",
        activation: str = "relu",
        padding: str = "same",
    ) -> None:
        super().__init__()
        self.add_module(
            "deconv",
            transposed_operator(
                spatial_dims,
                1,
                in_channels=in_channels,
                out_channels=out_channels,
                kernel_size=kernel_size,
                padding=[size // 2 if padding == "same" else 0 for size in kernel_size],
                bias=norm is None,
            ),
        )
        normalise = norm_layer(norm, spatial_dims, out_channels)
        if normalise is not None:
            self.add_module("norm", normalise)
        self.add_module("act", activation_layer(activation))
