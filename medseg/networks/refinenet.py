"""RefineNet in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks import (
    ResidualEncoder,
    SegmentationNetwork,
    activation_layer,
    choice,
    convolution,
    crop_like,
    he_initialise,
    level_geometry,
    linear_resize,
    positive,
    probability,
    shrink_branches,
    sliding_max_pool,
)

__all__ = ["CONFIGURATIONS", "ChainedPooling", "Fusion", "PlainResidualUnit", "RefineBlock", "RefineNet"]

Axes = tuple[int, ...]

_UNITS = ("bottleneck", "residual")
_WINDOW = 5
"""Voxels an axis that a pooling of the chain looks at."""

_RESNET_101: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 21,
    "features": (64, 256, 512, 1024, 2048),
    "kernel_sizes": (7, 3, 3, 3, 3),
    "stem": "resnet",
    "units": "bottleneck",
    "counts": (0, 3, 4, 23, 3),
    "refine_features": (256, 256, 256, 512),
    "dropout": 0.5,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "refinenet_resnet101": {**_RESNET_101, "cascades": 4},
    "refinenet_resnet101_2_cascaded": {**_RESNET_101, "cascades": 2},
    "refinenet_resnet101_single": {**_RESNET_101, "cascades": 1},
}
"""The paper's own networks, as keyword arguments of :class:`RefineNet`."""


class RefineNet(SegmentationNetwork):
    """RefineNet: a residual encoder, and blocks that refine its coarse maps by its finer ones.

    All levels but the finest give a map each. Cascaded blocks go through them from the coarsest: each
    takes its maps and what the block before it gave, convolves each by residual units, fuses them on its
    finest grid, and gathers their surroundings by a chain of poolings. Scores lie on the grid of the
    second level, and are upsampled linearly.

    The defaults are for 3D: scores lie on every 2nd voxel, and a block has half of its level's channels.

    :data:`CONFIGURATIONS` has the paper's own networks, for 21 classes. ``refinenet_resnet101``, of four
    blocks, has 109,806,677 parameters; ``refinenet_resnet101_2_cascaded``, whose second block has three
    inputs, 85,617,493; ``refinenet_resnet101_single``, one block of four inputs, 80,306,773. The paper
    gives no counts. The network that is known to have 118 M has four ``poolings`` a block, the paper's
    figure two; with four it is 118,066,773 here, of which 14,336 biases that the other does without.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level, from the finest to the coarsest; its length is the depth.
        norm: The encoder's, ``"batch"``, ``"instance"``, ``"group"`` or ``None``. The blocks have none.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout behind the encoder's two coarsest levels and before the scores.
        kernel_sizes: One a level, each one number or one an axis; 3 if not given.
        strides: One for each step down, that is one fewer than the levels; 2 if not given.
        units: The encoder's, ``"residual"`` or ``"bottleneck"`` (of two or three convolutions).
        counts: Units of each level of the encoder, one number or one a level; if not given none at the
            finest and 1 at the others.
        stem: ``"plain"``, or ``"resnet"``: a first convolution that strides, then max pooling.
        cascades: Blocks, 4 for one a map of the paper's four. Where there are fewer than maps, the coarser
            blocks take as many more than one as come out evenly, the coarsest first; where there are fewer
            maps, there are as many blocks as maps.
        refine_features: Channels of the blocks for each level but the finest; half of ``features`` if not
            given.
        poolings: In the chain of each block.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> network = RefineNet(2, in_channels=1, out_channels=3, features=(8, 16, 16))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Lin et al., RefineNet, CVPR 2017.
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
        units: str = "residual",
        counts: int | Sequence[int] | None = None,
        stem: str = "plain",
        cascades: int = 4,
        refine_features: Sequence[int] | None = None,
        poolings: int = 2,
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides)
        halved: Axes = (2 if stem == "resnet" else 1,) * spatial_dims
        super().__init__(spatial_dims, in_channels, out_channels, (halved, *steps), norm)
        self.features = widths
        self.encoder = ResidualEncoder(
            spatial_dims,
            self.in_channels,
            widths,
            kernels,
            steps,
            counts=(0, *(1,) * len(steps)) if counts is None else counts,
            stem=stem,
            dropout=dropout,
            bottleneck=choice(units, _UNITS, "units") == "bottleneck",
            norm=norm,
            activation=activation,
        )
        refined = _refine_features(refine_features, widths[1:])
        self.adapt = nn.ModuleList(
            convolution(spatial_dims, width, own, kernel)
            for width, own, kernel in zip(widths[1:], refined, kernels[1:], strict=True)
        )
        self.blocks = nn.ModuleList()
        below: list[int] = []
        for start, stop in _groups(len(refined), positive(cascades, "cascades")):
            coarsest = stop + len(below)
            block = RefineBlock(
                spatial_dims,
                (start, stop),
                (*refined[start:stop], *below),
                kernels[1 + start : 1 + coarsest],
                steps[1 + start : coarsest],
                poolings=positive(poolings, "poolings"),
                units_after=3 if start == 0 else 1,
                activation=activation,
            )
            self.blocks.append(block)
            below = [block.out_channels]
        self.dropout = nn.Dropout(probability(dropout, "dropout"))
        self.head = convolution(spatial_dims, below[0], self.out_channels, kernels[1])
        self.upsample = linear_resize(spatial_dims, tuple(map(operator.mul, halved, steps[0])))
        he_initialise(self)
        shrink_branches(self.encoder)
        shrink_branches(self.blocks)
        for part in self.blocks.modules():
            if isinstance(part, Fusion):
                part.share()

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        maps = self.encoder(images)
        paths: list[Tensor] = []
        for level, adapt in enumerate(self.adapt):
            paths.append(adapt(maps[1 + level]))
        below: list[Tensor] = []
        for block in self.blocks:
            below = [block(paths[block.start : block.stop] + below)]  # type: ignore[index]
        scores = self.upsample(self.head(self.dropout(below[0])))
        return crop_like(scores, images, self.spatial_dims)


class PlainResidualUnit(nn.Module):
    """Activation, convolution, activation, convolution, and their result added to what they were given.

    No norm: the encoder is normalised, and what refines it shall see its scale.

    Args:
        spatial_dims: 2 or 3.
        channels: In and out.
        kernel_size: One number or one an axis.
        activation: One of ``ACTIVATIONS``.
    """

    def __init__(
        self, spatial_dims: int, channels: int, kernel_size: int | Sequence[int], activation: str
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            # The sum needs the input as it was.
            activation_layer(activation, inplace=False),
            convolution(spatial_dims, channels, channels, kernel_size),
            activation_layer(activation),
            convolution(spatial_dims, channels, channels, kernel_size),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Take (B, channels, X, Y[, Z]) to the same shape."""
        total: Tensor = features + self.body(features)
        return total

    def branch_ends(self) -> list[nn.Module]:
        """The branch's last convolution."""
        return [self.body[-1]]


class Fusion(nn.Module):
    """Maps of several grids, each convolved to the fewest channels of all, and summed on the finest grid.

    Args:
        spatial_dims: 2 or 3.
        widths: Channels of each map, the finest first.
        kernel_sizes: One a map, spelt out by axis.
        strides: From each map to the next coarser one, spelt out by axis.
    """

    def __init__(
        self,
        spatial_dims: int,
        widths: Sequence[int],
        kernel_sizes: Sequence[Axes],
        strides: Sequence[Axes],
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.out_channels = min(widths)
        self.convs = nn.ModuleList(
            convolution(spatial_dims, width, self.out_channels, kernel)
            for width, kernel in zip(widths, kernel_sizes, strict=True)
        )
        flat: Axes = (1,) * spatial_dims
        totals = itertools.accumulate(
            strides, lambda total, step: tuple(map(operator.mul, total, step)), initial=flat
        )
        self.rises = nn.ModuleList(linear_resize(spatial_dims, total) for total in totals)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Take maps (B, widths[i], …), the finest first, to (B, out_channels, …) on the finest grid."""
        parts: list[Tensor] = []
        for index, (conv, rise) in enumerate(zip(self.convs, self.rises)):  # noqa: B905 (scripted)
            parts.append(crop_like(rise(conv(maps[index])), maps[0], self.spatial_dims))
        return torch.stack(parts).sum(0)

    def share(self) -> None:
        """Make the convolutions smaller, so that the sum has the variance of one map.

        He's factor of two is taken away as well: there is no rectifier before them.
        """
        with torch.no_grad():
            for conv in self.convs:
                conv.get_parameter("weight").mul_(math.sqrt(0.5 / len(self.convs)))


class ChainedPooling(nn.Module):
    """Max pooling over 5 voxels an axis and a convolution, chained, and all added to what they were given.

    The grid is kept, and each pooling reaches further. Along an axis that ``kernel_size`` does not reach
    across it does not pool either.

    Args:
        spatial_dims: 2 or 3.
        channels: In and out.
        kernel_size: Spelt out by axis.
        count: Poolings in the chain.
        activation: One of ``ACTIVATIONS``; stands before the chain.
    """

    def __init__(
        self, spatial_dims: int, channels: int, kernel_size: Axes, count: int, activation: str
    ) -> None:
        super().__init__()
        self.act = activation_layer(activation, inplace=False)
        window = tuple(_WINDOW if size > 1 else 1 for size in kernel_size)
        self.steps = nn.ModuleList(
            nn.Sequential(
                sliding_max_pool(spatial_dims, window),
                convolution(spatial_dims, channels, channels, kernel_size),
            )
            for _ in range(count)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Take (B, channels, X, Y[, Z]) to the same shape."""
        total: Tensor = self.act(features)
        pooled = total
        for step in self.steps:
            pooled = step(pooled)
            total = total + pooled
        return total

    def branch_ends(self) -> list[nn.Module]:
        """The convolution of each step."""
        return [step.get_submodule("1") for step in self.steps]


class RefineBlock(nn.Module):
    """One block: residual units for each map, their fusion, chained pooling, and residual units behind.

    Args:
        spatial_dims: 2 or 3.
        levels: From which to before which of the network's maps it takes.
        widths: Channels of each map that it is given, the finest first; the last may be a coarser block's.
        kernel_sizes: One a map, spelt out by axis.
        strides: From each map to the next coarser one, spelt out by axis.
        poolings: In the chain.
        units_after: Residual units behind the chain.
        activation: One of ``ACTIVATIONS``.
    """

    def __init__(
        self,
        spatial_dims: int,
        levels: tuple[int, int],
        widths: Sequence[int],
        kernel_sizes: Sequence[Axes],
        strides: Sequence[Axes],
        *,
        poolings: int,
        units_after: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.start, self.stop = levels

        def units(width: int, kernel: Axes, count: int) -> nn.Sequential:
            return nn.Sequential(
                *(PlainResidualUnit(spatial_dims, width, kernel, activation) for _ in range(count))
            )

        self.units = nn.ModuleList(
            units(width, kernel, 2) for width, kernel in zip(widths, kernel_sizes, strict=True)
        )
        self.fuse = _OneMap() if len(widths) == 1 else Fusion(spatial_dims, widths, kernel_sizes, strides)
        self.out_channels = min(widths)
        self.pool = ChainedPooling(spatial_dims, self.out_channels, kernel_sizes[0], poolings, activation)
        self.after = units(self.out_channels, kernel_sizes[0], units_after)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Take maps (B, widths[i], …), the finest first, to (B, out_channels, …) on the finest grid."""
        paths: list[Tensor] = []
        for index, unit in enumerate(self.units):
            paths.append(unit(maps[index]))
        refined: Tensor = self.after(self.pool(self.fuse(paths)))
        return refined


class _OneMap(nn.Module):
    """The fusion of a single map: the map."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0]


def _refine_features(given: Sequence[int] | None, features: Sequence[int]) -> tuple[int, ...]:
    if given is None:
        return tuple(max(1, width // 2) for width in features)
    if len(given) != len(features):
        raise ValueError(
            f"refine_features has {len(given)} entries for {len(features)} maps; "
            "give one for each level but the finest"
        )
    return tuple(positive(width, "refine_features") for width in given)


def _groups(maps: int, cascades: int) -> list[tuple[int, int]]:
    """Which maps each block takes, from where to before where; the coarsest block first."""
    groups = []
    stop = maps
    for left in range(min(cascades, maps), 0, -1):
        start = stop - -(-stop // left)
        groups.append((start, stop))
        stop = start
    return groups
