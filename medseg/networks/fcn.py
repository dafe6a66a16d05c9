"""Fully convolutional networks (FCN-32s, 16s, 8s) in 2D and 3D. Imports torch and the blocks alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks import (
    ConvBlock,
    ConvStack,
    SegmentationNetwork,
    choice,
    convolution,
    crop_like,
    he_initialise,
    level_geometry,
    linear_resize,
    max_pool,
    positive,
    probability,
)

__all__ = ["CONFIGURATIONS", "FCN", "FCNEncoder", "linear_transposed_convolution"]

_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_UPSAMPLE = ("transposed", "linear")

_VGG16: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 21,
    "features": (64, 128, 256, 512, 512, 4096),
    "counts": (2, 2, 3, 3, 3),
    "kernel_sizes": (3, 3, 3, 3, 3, 7),
    "norm": None,
    "dropout": 0.5,
    "last_upsample": "linear",
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fcn32s": {**_VGG16, "skips": 0},
    "fcn16s": {**_VGG16, "skips": 1},
    "fcn8s": {**_VGG16, "skips": 2},
}
"""The paper's three networks on VGG-16, for the 21 classes of PASCAL VOC."""


class FCN(SegmentationNetwork):
    """FCN: a classifier's body made convolutional, class scores at several strides, and their sum.

    The body is VGG's: convolutions on every level, max pooling between them, and on the coarsest level
    the classifier's fully connected layers as convolutions, fc6 with that level's kernel and fc7 with a
    kernel of 1. A 1x1(x1) convolution scores the classes there. The scores are upsampled by the last
    stride, added to scores of the pooled map of that grid (the paper's pool4), and so on (pool3), as often
    as ``skips`` says; one upsampling by all strides that are left leads back to the image's grid.

    **Grids.** The published networks pad the image by 100 pixels, without which VGG's unpadded fc6 would
    have nothing to see in a small one, and crop the scores by offsets found layer by layer. Here fc6 is
    zero padded as all convolutions are, so that every grid is its stride's: voxel j of a grid of stride s
    stands for the s voxels from j s on, and its centre lies at j s + (s - 1) / 2. The upsampling spreads it
    around just that point (:func:`linear_transposed_convolution`), and only what pooling hung over the end
    is cropped. Any input size is taken and given back.

    **Start.** Upsampling starts as linear interpolation. The paper learns all of it but the last, which
    stays fixed (``last_upsample="linear"``), and starts the score layers at zero, so that in the first
    step nothing else has a gradient; that asks for a pretrained body. Here they are drawn as He's
    initialisation says, divided by the root of their number, so that their sum has that deviation.

    **Paper's figures.** Long et al. count 134 M parameters for VGG-16 with 21 classes. Built here
    (:data:`CONFIGURATIONS`): FCN-32s 134,346,581, FCN-16s 134,364,410, FCN-8s 134,376,863. The paper's
    figure is the same rounded; what its fixed last upsampling holds (112,896 in FCN-8s as a dense kernel
    of 16) is no parameter here.

    Scores on a grid of stride 8 are coarse for volumes. The defaults are therefore narrow, with batch norm,
    and take a skip from every pooled map, down to pool1 behind the first stride.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level, from the finest to the coarsest, the last being fc6's and fc7's.
        counts: Convolutions of each level but the coarsest; as in VGG-16, 2 on the two finest levels and 3
            below, if not given.
        skips: How many pooled maps are scored, from the coarsest on: 0, 1, 2 are the paper's 32s, 16s, 8s.
            At most two fewer than the levels, which is what is taken if not given.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout behind fc6 and fc7; 0.5 in the paper.
        upsample: Of the scores that meet skips: ``"transposed"``, learnt from all classes to all, or
            ``"linear"``, fixed.
        last_upsample: Of the summed scores to the image's grid. The learnt one costs the square of the
            classes at full resolution: with dozens of them take ``"linear"``.
        kernel_sizes: One a level, each one number or one an axis; 3 if not given. The last is fc6's.
        strides: One for each step down, that is one fewer than the levels; 2 if not given.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> network = FCN(2, in_channels=1, out_channels=3, features=(8, 16, 32), skips=1)
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Long, Shelhamer, Darrell, Fully convolutional networks for semantic segmentation, CVPR 2015.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (16, 32, 64, 128, 128),
        counts: Sequence[int] | None = None,
        skips: int | None = None,
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        upsample: str = "transposed",
        last_upsample: str = "transposed",
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides)
        super().__init__(spatial_dims, in_channels, out_channels, steps, norm)
        self.skips = _checked_skips(skips, len(widths))

        blocks: dict[str, Any] = {"norm": norm, "activation": activation}
        self.encoder = FCNEncoder(
            spatial_dims, self.in_channels, widths, kernels, steps, counts=counts, dropout=dropout, **blocks
        )
        self.score = convolution(spatial_dims, widths[-1], self.out_channels, 1)
        # Level l is pooled from level l - 1, and has its channels until it convolves them itself.
        pooled = widths[:-2][::-1][: self.skips]
        self.skip_scores = nn.ModuleList(
            convolution(spatial_dims, width, self.out_channels, 1) for width in pooled
        )
        he_initialise(self)
        with torch.no_grad():
            for layer in (self.score, *self.skip_scores):
                layer.weight /= math.sqrt(1 + self.skips)

        split = len(steps) - self.skips
        self.up = nn.ModuleList(
            _upsampling(choice(upsample, _UPSAMPLE, "upsample"), self.out_channels, step)
            for step in steps[split:][::-1]
        )
        rest = tuple(math.prod(axis) for axis in zip(*steps[:split], strict=True))
        self.last_up = _upsampling(choice(last_upsample, _UPSAMPLE, "last_upsample"), self.out_channels, rest)

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        maps = self.encoder.pooled(images)
        scores = self.score(maps[-1])
        for index, (up, skip_score) in enumerate(zip(self.up, self.skip_scores)):  # noqa: B905 (scripted)
            skip = skip_score(maps[-2 - index])
            scores = crop_like(up(scores), skip, self.spatial_dims) + skip
        return crop_like(self.last_up(scores), images, self.spatial_dims)


class FCNEncoder(nn.Module):
    """VGG's body with fc6 and fc7 as convolutions on the coarsest level.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        features: Channels of each level.
        kernel_sizes: One a level, spelt out by axis.
        strides: One for each step down, spelt out by axis.
        counts: Convolutions of each level but the coarsest; 2, 2, 3, 3, ... if not given.
        dropout: Probability of dropout behind fc6 and fc7.
        **blocks: ``norm`` and ``activation`` of every block.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        *,
        counts: Sequence[int] | None = None,
        dropout: float = 0.0,
        **blocks: Any,
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        last = len(self.features) - 1
        convolutions = ([2, 2] + [3] * last)[:last] if counts is None else list(counts)
        if len(convolutions) != last:
            raise ValueError(
                f"counts has {len(convolutions)} entries for {last + 1} levels; "
                f"give {last}, one for each but the coarsest"
            )
        self.pools = nn.ModuleList([nn.Identity()])
        for step in strides:
            self.pools.append(max_pool(spatial_dims, step) if max(step) > 1 else nn.Identity())
        before = (in_channels, *self.features)
        self.levels = nn.ModuleList(
            ConvStack(
                spatial_dims,
                before[level],
                self.features[level],
                kernel_sizes[level],
                count=positive(count, "counts"),
                **blocks,
            )
            for level, count in enumerate(convolutions)
        )
        connected = nn.Sequential()
        rate = probability(dropout, "dropout")
        for name, width, kernel in (("fc6", before[last], kernel_sizes[-1]), ("fc7", before[-1], 1)):
            connected.add_module(name, ConvBlock(spatial_dims, width, before[-1], kernel, **blocks))
            if rate > 0.0:
                connected.add_module(f"{name}_dropout", nn.Dropout(rate))
        self.levels.append(connected)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, features[level], ...) of every level, the finest first."""
        maps: list[Tensor] = []
        for pool, level in zip(self.pools, self.levels):  # noqa: B905 (scripted)
            images = level(pool(images))
            maps.append(images)
        return maps

    def pooled(self, images: Tensor) -> list[Tensor]:
        """What is scored: the pooled maps that the inner levels begin with, then fc7's, finest first.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Returns:
            One map for each level but the finest: (B, features[level - 1], ...), of the coarsest one
            (B, features[-1], ...).
        """
        maps: list[Tensor] = []
        for pool, level in zip(self.pools, self.levels):  # noqa: B905 (scripted)
            images = pool(images)
            maps.append(images)
            images = level(images)
        maps[-1] = images
        return maps[1:]


def linear_transposed_convolution(channels: int, stride: Sequence[int]) -> nn.Module:
    """A learnable upsampling by ``stride`` that starts as linear interpolation of each channel by itself.

    Along an axis of stride s, input voxel j stands for the output's voxels j s to j s + s - 1 and has its
    centre in their midst, at j s + (s - 1) / 2. Linear interpolation weighs an output voxel at a distance d
    from there by 1 - d / s. For even s the distances are halves and 2 s of them lie below s; for odd s they
    are whole and 2 s - 1 do. That is the kernel's size k = 2 s - (s mod 2), with its middle (k - 1) / 2 in
    the kernel. A transposed convolution puts that middle at j s + (k - 1) / 2 - p for a padding p, so that
    p = (k - s) / 2, whole in both cases, aligns the two grids and makes the output s times the input. In
    the interior this is ``interpolate(..., align_corners=False)``; at the ends, where interpolation repeats
    the last voxel, it fades towards zero. An axis of stride 1 has kernel 1 and stays as it is.

    Args:
        channels: Channels in and out.
        stride: One number an axis, two or three of them.

    Returns:
        The transposed convolution, without bias.

    Example:
        >>> layer = linear_transposed_convolution(1, (2, 1))
        >>> layer.weight[0, 0, :, 0].tolist()
        [0.25, 0.75, 0.75, 0.25]
    """
    kernel = tuple(2 * step - step % 2 for step in stride)
    padding = tuple((size - step) // 2 for size, step in zip(kernel, stride, strict=True))
    layer = _TRANSPOSED[len(stride)](
        channels, channels, kernel, stride=tuple(stride), padding=padding, bias=False
    )
    weights = torch.ones(())
    for size, step in zip(kernel, stride, strict=True):
        distance = torch.abs(torch.arange(size) - (size - 1) / 2)
        weights = weights[..., None] * (1.0 - distance / step)
    with torch.no_grad():
        layer.weight.zero_()  # type: ignore[operator]
        for channel in range(channels):
            layer.weight[channel, channel] = weights  # type: ignore[operator]
    return layer


def _upsampling(kind: str, channels: int, stride: tuple[int, ...]) -> nn.Module:
    """Upsampling by ``stride``: learnt from linear interpolation on, or fixed."""
    if kind == "transposed":
        return linear_transposed_convolution(channels, stride)
    return linear_resize(len(stride), stride)


def _checked_skips(skips: object, levels: int) -> int:
    most = levels - 2
    if skips is None:
        return most
    if not isinstance(skips, int) or isinstance(skips, bool) or not 0 <= skips <= most:
        raise ValueError(
            f"skips={skips!r} does not fit {levels} levels; give 0 to {most}, one for each level between the "
            "finest and the coarsest"
        )
    return skips
