"""Residual units, and the path of them down the levels: ResNet's body."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medseg.networks.blocks.layers import (
    ConvBlock,
    activation_layer,
    convolution,
    norm_layer,
    sliding_max_pool,
)
from medseg.networks.blocks.options import choice, per_axis, positive, probability

__all__ = ["STEMS", "HasBranches", "ResidualEncoder", "ResidualUnit", "shrink_branches"]

Axes = tuple[int, ...]

STEMS = ("plain", "resnet")
"""What stands before the residual units, by name."""

_NARROWING = 4


@runtime_checkable
class HasBranches(Protocol):
    """What adds branches to what it was given."""

    def branch_ends(self) -> list[nn.Module]:
        """The last convolution of each branch that no norm follows."""
        ...


class ResidualUnit(nn.Module):
    """Convolutions whose result is added to what they were given, then the activation.

    Every convolution has its norm, every one but the last its activation. A bottleneck's are 1x1(x1) down
    to a quarter of the channels, one of ``kernel_size``, and 1x1(x1) up again. Where channels or grid
    change, a 1x1(x1) convolution with norm takes the input over to the sum.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out of every convolution; or of each, one by one, which says how many there
            are. A bottleneck takes one number.
        kernel_size: One number or one an axis.
        count: How many convolutions, where ``out_channels`` is one number.
        bottleneck: Whether the unit is a bottleneck.
        stride: Of the first convolution, in a bottleneck of the middle one; one number or one an axis.
        dilation: One number or one an axis.
        padding: ``"same"``; the sum needs both of one size.
        norm: One of ``NORMS`` or ``None``.
        activation: One of ``ACTIVATIONS``.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> ResidualUnit(3, 8, 16, stride=(2, 2, 1))(torch.zeros(1, 8, 6, 6, 6)).shape
        torch.Size([1, 16, 3, 3, 6])

    References:
        He et al., Deep residual learning for image recognition, CVPR 2016. A bottleneck's stride is
        there the first 1x1's, which leaves three of four pixels out.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int | Sequence[int],
        kernel_size: int | Sequence[int] = 3,
        *,
        count: int = 2,
        bottleneck: bool = False,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        padding: str = "same",
        norm: str | None = "batch",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        choice(padding, ("same",), "padding")
        step = per_axis(stride, spatial_dims, "stride")
        outs = (out_channels,) * count if isinstance(out_channels, int) else tuple(out_channels)
        kernels: list[int | Sequence[int]] = [kernel_size] * len(outs)
        if bottleneck:
            narrow = max(1, outs[-1] // _NARROWING)
            outs, kernels = (narrow, narrow, outs[-1]), [1, kernel_size, 1]
        strides = [(1,) * spatial_dims] * len(outs)
        strides[1 if bottleneck else 0] = step

        self.body = nn.Sequential()
        before = in_channels
        for index, (width, kernel) in enumerate(zip(outs, kernels, strict=True)):
            if index > 0:
                self.body.append(activation_layer(activation))
            layer = _NormedConvolution(
                spatial_dims, before, width, kernel, stride=strides[index], dilation=dilation, norm=norm
            )
            self.body.append(layer)
            before = width
        self.skip = nn.Sequential()
        if in_channels != outs[-1] or any(size > 1 for size in step):
            self.skip.append(
                _NormedConvolution(spatial_dims, in_channels, outs[-1], 1, stride=step, norm=norm)
            )
        self.act = activation_layer(activation)

    def forward(self, features: Tensor) -> Tensor:
        """Take (B, C, X, Y[, Z]) to the channels and the grid, ceil(size / stride), of the convolutions."""
        total: Tensor = self.act(self.body(features) + self.skip(features))
        return total

    def branch_ends(self) -> list[nn.Module]:
        """The branch's last convolution if no norm follows."""
        end = self.body[-1]
        return [] if hasattr(end, "norm") else [end.get_submodule("conv")]


class _NormedConvolution(nn.Sequential):
    """A convolution and its norm; a bias where there is none."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        norm: str | None,
        **geometry: Any,
    ) -> None:
        super().__init__()
        conv = convolution(
            spatial_dims, in_channels, out_channels, kernel_size, bias=norm is None, **geometry
        )
        self.add_module("conv", conv)
        normalise = norm_layer(norm, spatial_dims, out_channels)
        if normalise is not None:
            self.add_module("norm", normalise)


def shrink_branches(module: nn.Module) -> None:
    """Make the last convolution of each residual branch smaller, where no norm sets its scale.

    When each of n branches adds as much as it was given, the variance grows to 2^n times. Of branches with
    1 / n of the variance all together add as much as one. Besides, He's factor of two makes up for a
    rectifier, and there is none between a branch and its sum. So the weights that ``he_initialise`` has
    drawn, after which this is called, are multiplied by sqrt(1 / (2 n)).

    Args:
        module: Changed in place: the branches of each :class:`HasBranches` in it, taken as one chain.
    """
    ends: list[nn.Module] = []
    for part in module.modules():
        if isinstance(part, HasBranches):
            ends += part.branch_ends()
    with torch.no_grad():
        for end in ends:
            end.get_parameter("weight").mul_(math.sqrt(0.5 / len(ends)))


class ResidualEncoder(nn.Module):
    """Levels of residual units; the first unit of each level but the finest takes the step down.

    The finest level begins with the stem, a convolution with norm and activation. The plain stem keeps
    the grid. ResNet's halves it, and max pooling over 3 voxels an axis takes the first step down:
    ``stem="resnet"``, ``kernel_sizes`` 7, 3, 3, 3, 3 and ``counts`` 0, 3, 4, 23, 3 make ResNet-101.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        features: Channels of each level.
        kernel_sizes: One a level, spelt out by axis; the finest level's is also the stem's.
        strides: One for each step down, spelt out by axis.
        counts: Units of each level, one number or one a level; the finest may have none.
        stem: ``"plain"`` or ``"resnet"``.
        dilations: One a level, spelt out by axis; 1 if not given.
        multi_grid: Factors of the coarsest level's dilation, one for each of its units; 1 if not given
            (Chen et al., Rethinking atrous convolution, 2017).
        dropout: Probability of dropout behind each of the two coarsest levels.
        **unit: Of every unit: ``bottleneck``, ``norm``, ``activation``, ``padding``.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> encoder = ResidualEncoder(2, 1, (4, 8), ((3, 3), (3, 3)), ((2, 2),))
        >>> [tuple(features.shape) for features in encoder(torch.zeros(2, 1, 5, 6))]
        [(2, 4, 5, 6), (2, 8, 3, 3)]
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
        stem: str = "plain",
        dilations: Sequence[Axes] | None = None,
        multi_grid: Sequence[int] | None = None,
        dropout: float = 0.0,
        **unit: Any,
    ) -> None:
        super().__init__()
        probability(dropout, "dropout")
        is_resnet = choice(stem, STEMS, "stem") == "resnet"
        self.features = tuple(features)
        depth = len(self.features)
        units = _unit_counts(counts, depth)
        flat: Axes = (1,) * spatial_dims
        spreads = (flat,) * depth if dilations is None else tuple(dilations)
        grids = [(1,) * count for count in units]
        if multi_grid is not None:
            grids[-1] = _one_a_unit(multi_grid, units[-1])
        before = self.features[0]
        self.levels = nn.ModuleList()
        for level, width in enumerate(self.features):
            stage, kernel = nn.Sequential(), kernel_sizes[level]
            step = flat if level == 0 else strides[level - 1]
            if level == 0:
                look = {name: unit[name] for name in ("norm", "activation") if name in unit}
                halved = 2 if is_resnet else 1
                stage.add_module(
                    "stem", ConvBlock(spatial_dims, in_channels, width, kernel, stride=halved, **look)
                )
            elif level == 1 and is_resnet:
                stage.add_module("pool", sliding_max_pool(spatial_dims, 3, step))
                step = flat
            for index, factor in enumerate(grids[level]):
                spread = tuple(factor * gap for gap in spreads[level])
                made = ResidualUnit(spatial_dims, before, width, kernel, stride=step, dilation=spread, **unit)
                stage.add_module(f"unit{index}", made)
                before, step = width, flat
            if dropout > 0.0 and level >= depth - 2:
                stage.add_module("dropout", nn.Dropout(dropout))
            self.levels.append(stage)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, features[level], …) of every level, the finest first."""
        maps: list[Tensor] = []
        for level in self.levels:
            images = level(images)
            maps.append(images)
        return maps


def _unit_counts(counts: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """How many units each level has, one or more; at the finest none will do, for it has the stem."""
    each = (counts,) * depth if isinstance(counts, int) else tuple(counts)
    if len(each) != depth:
        raise ValueError(f"counts has {len(each)} entries for {depth} levels; give one for each")
    least = (0,) + (1,) * (depth - 1)
    if any(count < fewest for count, fewest in zip(each, least, strict=True)):
        raise ValueError(f"counts={each} leaves a level without units; give each but the finest 1 or more")
    return each


def _one_a_unit(multi_grid: Sequence[int], count: int) -> tuple[int, ...]:
    if len(multi_grid) != count:
        raise ValueError(
            f"multi_grid has {len(multi_grid)} entries for the {count} units of the coarsest level; "
            "give one for each"
        )
    return tuple(positive(factor, "multi_grid") for factor in multi_grid)
