"""DeepLab in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medseg.networks.blocks import (
    ConvEncoder,
    JoinedPyramid,
    ResidualEncoder,
    SegmentationNetwork,
    SummedPyramid,
    choice,
    crop_like,
    dilate_instead,
    he_initialise,
    level_geometry,
    linear_resize,
    per_axis,
    positive,
    probability,
    shrink_branches,
)

__all__ = ["CONFIGURATIONS", "DeepLab"]

Axes = tuple[int, ...]

_BACKBONES = ("bottleneck", "residual", "vgg")

_PASCAL_VOC = {"spatial_dims": 2, "in_channels": 3, "out_channels": 21}
_VGG_16: dict[str, Any] = {
    **_PASCAL_VOC,
    "backbone": "vgg",
    "features": (64, 128, 256, 512, 512),
    "counts": (2, 2, 3, 3, 3),
    "norm": None,
    "dropout": 0.5,
    "output_stride": 8,
    "aspp_features": 1024,
}
_RESNET: dict[str, Any] = {
    **_PASCAL_VOC,
    "backbone": "bottleneck",
    "features": (64, 256, 512, 1024, 2048),
    "kernel_sizes": (7, 3, 3, 3, 3),
    "stem": "resnet",
    "output_stride": 8,
}
_VERSION_3: dict[str, Any] = {
    **_RESNET,
    "version": 3,
    "rates": (6, 12, 18),
    "output_stride": 16,
    "aspp_features": 256,
    "image_feature": True,
    "multi_grid": (1, 2, 4),
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "deeplab_largefov_vgg16": {**_VGG_16, "rates": (12,)},
    "deeplab_v2_vgg16": {**_VGG_16, "rates": (6, 12, 18, 24)},
    "deeplab_v2_resnet101": {
        **_RESNET,
        "counts": (0, 3, 4, 23, 3),
        "rates": (6, 12, 18, 24),
        "aspp_features": None,
    },
    "deeplab_v3_resnet50": {**_VERSION_3, "counts": (0, 3, 4, 6, 3)},
    "deeplab_v3_resnet101": {**_VERSION_3, "counts": (0, 3, 4, 23, 3)},
}
"""The papers' own networks, as keyword arguments of :class:`DeepLab`."""


class DeepLab(SegmentationNetwork):
    """DeepLab: a backbone that dilates instead of striding, then kernels of several rates side by side.

    The backbone steps down until one voxel of its grid is ``output_stride`` voxels of the image; from
    there on its kernels are dilated by the strides left out, so that they see as far. Atrous spatial
    pyramid pooling looks at its last map with kernels of several dilations, the rates. Version 2 sums the
    class scores of these branches. Version 3 joins their features with those of a 1x1(x1) convolution and,
    with ``image_feature``, of the mean over the image. Scores are upsampled linearly.

    The defaults are for 3D. Scores lie on every 4th voxel at most, where the papers have every 8th: linear
    upsampling of the best possible scores gives hippocampi of 35 x 50 x 35 voxels a Dice of 0.94. With
    ``output_stride=2`` that is 0.99, for four times the time and three times the memory. The papers' rates,
    6 to 24 at stride 8, reach over 9 to 37 % of a 513 pixel image to either side; 1 to 6 at stride 4 do so
    of some 64 voxels, as patches have. Bottlenecks make wide levels affordable on that grid.

    :data:`CONFIGURATIONS` has the papers' own networks, for 21 classes; the papers give no counts.
    ``deeplab_largefov_vgg16`` has 20,505,429 parameters, which are known as 20.5 M.
    ``deeplab_v2_vgg16`` has 37,877,652. ``deeplab_v2_resnet101`` has 44,048,532, known as 44 M; as in the
    published model its pyramid scores at once, without hidden layers. ``deeplab_v3_resnet50`` has
    39,048,277 and ``deeplab_v3_resnet101`` 58,040,405; torchvision's have 590,592 more each: another 3x3
    convolution before the scores, and batch norm instead of a bias behind the image's mean. Differences
    from the papers: a level's stride is that of its first 3x3 instead of 1x1 convolution; VGG's poolings
    are of 2x2 pixels, and those at stride 1 are left out; maps are resized on voxel centres, which does
    not need sizes of 8 n + 1. At an output stride of 8 instead of 16 version 3 doubles its rates.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level, from the finest to the coarsest; its length is the depth.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout behind the pyramid's hidden layers, before it where it has none.
        kernel_sizes: One a level, each one number or one an axis; 3 if not given. The pyramid has the
            coarsest level's.
        strides: One for each step down, that is one fewer than the levels; 2 if not given.
        spacing_mm: Of the image's voxels; the rates are those along the axis that is then finest, and
            proportionally smaller, 1 at least, along others. The same along all axes if not given.
        backbone: ``"bottleneck"`` or ``"residual"`` (units of three or two convolutions), or ``"vgg"``
            (convolutions and max pooling).
        counts: Units, for ``"vgg"`` convolutions, of each level, one number or one a level; if not given 1
            at the finest and 2 at the others, for ``"vgg"`` 2.
        stem: ``"plain"``, or ``"resnet"``: a first convolution that strides, then max pooling.
        multi_grid: Factors of the coarsest level's dilation, one for each of its units.
        output_stride: Voxels of the image a score, at most; one number or one an axis.
        version: 2 or 3.
        rates: Dilations of the pyramid's branches, each one number or one an axis (which ``spacing_mm``
            leaves alone).
        aspp_features: Channels of the pyramid's hidden layers; version 2 may have none, ``None``.
        image_feature: Whether version 3 sees the image's mean feature, which is not local.

    Raises:
        ValueError: An option is invalid, or two do not go together.

    Example:
        >>> import torch
        >>> network = DeepLab(2, in_channels=1, out_channels=3, features=(8, 16))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Chen et al., DeepLab, IEEE TPAMI 2018 (version 2, and LargeFOV); Chen et al., Rethinking atrous
        convolution for semantic image segmentation, 2017 (version 3).
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 64, 128, 256),
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        spacing_mm: Sequence[float] | None = None,
        backbone: str = "bottleneck",
        counts: int | Sequence[int] | None = None,
        stem: str = "plain",
        multi_grid: Sequence[int] | None = None,
        output_stride: int | Sequence[int] = 4,
        version: int = 2,
        rates: Sequence[int | Sequence[int]] = (1, 2, 4, 6),
        aspp_features: int | None = 64,
        image_feature: bool = False,
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides)
        halved: Axes = (2 if stem == "resnet" else 1,) * spatial_dims
        limit = per_axis(output_stride, spatial_dims, "output_stride")
        kept, dilations = _within_stride((halved, *steps), limit)
        super().__init__(spatial_dims, in_channels, out_channels, kept, norm)
        self.features = widths
        probability(dropout, "dropout")
        look: dict[str, Any] = {"norm": norm, "activation": activation}
        geometry = (spatial_dims, self.in_channels, widths, kernels, kept[1:])
        if choice(backbone, _BACKBONES, "backbone") == "vgg":
            _refuse_of_vgg(stem, multi_grid)
            per_level = 2 if counts is None else counts
            self.encoder: nn.Module = ConvEncoder(
                *geometry, counts=per_level, dilations=dilations[1:], **look
            )
        else:
            per_level = (1, *(2,) * (len(widths) - 1)) if counts is None else counts
            self.encoder = ResidualEncoder(
                *geometry,
                counts=per_level,
                stem=stem,
                dilations=dilations[1:],
                multi_grid=multi_grid,
                bottleneck=backbone == "bottleneck",
                **look,
            )
        spread = _rates(rates, spatial_dims, spacing_mm, self.total_stride())
        self.pyramid = _pyramid(
            version,
            (spatial_dims, widths[-1], self.out_channels, kernels[-1], spread),
            hidden=aspp_features,
            image_feature=image_feature,
            dropout=dropout,
            **look,
        )
        self.upsample = linear_resize(spatial_dims, self.total_stride())
        he_initialise(self)
        shrink_branches(self.encoder)

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        scores = self.upsample(self.pyramid(self.encoder(images)[-1]))
        return crop_like(scores, images, self.spatial_dims)


def _pyramid(
    version: int,
    geometry: tuple[int, int, int, Axes, Sequence[Axes]],
    *,
    hidden: int | None,
    image_feature: bool,
    **options: Any,
) -> nn.Module:
    if version not in (2, 3):
        raise ValueError(f"version={version!r} is unknown; choose 2 or 3")
    if hidden is not None:
        positive(hidden, "aspp_features")
    if version == 2:
        if image_feature:
            raise ValueError("version=2 sums scores and has no image_feature; choose version=3")
        return SummedPyramid(*geometry, hidden=hidden, **options)
    if hidden is None:
        raise ValueError("version=3 joins features and needs aspp_features; give it, such as 256")
    return JoinedPyramid(*geometry, hidden=hidden, image_feature=image_feature, **options)


def _refuse_of_vgg(stem: str, multi_grid: Sequence[int] | None) -> None:
    if stem != "plain" or multi_grid is not None:
        raise ValueError(
            "backbone='vgg' has no residual units; leave stem and multi_grid out, or choose 'bottleneck'"
        )


def _within_stride(strides: Sequence[Axes], limit: Axes) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """Dilate instead of all steps that lead, along each axis by itself, beyond ``limit`` voxels.

    Returns:
        The strides, and the dilation of each level, one more than strides.
    """
    if any(first > most for first, most in zip(strides[0], limit, strict=True)):
        raise ValueError(
            f"output_stride={limit} is less than that of stem='resnet'; give {max(strides[0])} or more"
        )
    kept, dilations = [], []
    for axis, most in enumerate(limit):
        line = [(step[axis],) for step in strides]
        reached = itertools.accumulate((step for (step,) in line), operator.mul)
        beyond = sum(total > most for total in reached)
        on_axis, spread = dilate_instead(line, beyond)
        kept.append([step for (step,) in on_axis])
        dilations.append([gap for (gap,) in spread])
    return tuple(zip(*kept, strict=True)), tuple(zip(*dilations, strict=True))


def _rates(
    rates: Sequence[int | Sequence[int]],
    spatial_dims: int,
    spacing_mm: Sequence[float] | None,
    stride: Axes,
) -> tuple[Axes, ...]:
    """Spell the rates out by axis, so that they reach as far in millimetres along each.

    What counts is the spacing of the grid that the pyramid stands on: of the image's times its stride.
    """
    if len(rates) == 0:
        raise ValueError("rates is empty, so that nothing makes scores; give one rate or more")
    given = (1.0,) * spatial_dims if spacing_mm is None else tuple(spacing_mm)
    if len(given) != spatial_dims or not all(math.isfinite(size) and size > 0 for size in given):
        raise ValueError(
            f"spacing_mm={given} does not name the spacing of {spatial_dims} axes; give one each"
        )
    spacing = given if spacing_mm is None else tuple(map(operator.mul, given, stride))
    scale = tuple(min(spacing) / size for size in spacing)
    return tuple(
        tuple(max(1, round(positive(rate, "rates") * part)) for part in scale)
        if isinstance(rate, int)
        else per_axis(rate, spatial_dims, "rates")
        for rate in rates
    )
