"""Levels of resolution: their kernels and strides, and the path of convolutions and pooling down them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medseg.networks.blocks.layers import ConvStack, max_pool
from medseg.networks.blocks.options import choice, per_axis, positive, probability
from medseg.networks.blocks.residual import ResidualUnit

__all__ = ["UNITS", "ConvEncoder", "dilate_instead", "level_geometry"]

Axes = tuple[int, ...]

UNITS: dict[str, type[nn.Module]] = {"plain": ConvStack, "residual": ResidualUnit}
"""What the convolutions of a level make up, by name; all take what :class:`ConvStack` takes."""


def level_geometry(
    levels: int,
    spatial_dims: int,
    kernel_sizes: Sequence[int | Sequence[int]] | None,
    strides: Sequence[int | Sequence[int]] | None,
    *,
    pools_last: bool = False,
) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """Kernel sizes of each level and strides of each step down, spelt out for each axis.

    Args:
        levels: How many; two or more, of those that are all pooled one or more.
        spatial_dims: 2 or 3.
        kernel_sizes: One a level, each one number or one an axis; 3 if not given.
        strides: One for each step down, that is one fewer than the levels; 2 if not given.
        pools_last: A step down follows the coarsest level too, so that there are as many as levels.

    Raises:
        ValueError: Their number does not fit, or a kernel is even.

    Example:
        >>> level_geometry(2, 3, None, [(2, 2, 1)])
        (((3, 3, 3), (3, 3, 3)), ((2, 2, 1),))
    """
    count = levels if pools_last else levels - 1
    if count < 1:
        least = "one" if pools_last else "two"
        raise ValueError(f"features names {levels} levels, {least} or more are needed; give as many widths")
    kernels = [3] * levels if kernel_sizes is None else list(kernel_sizes)
    steps = [2] * count if strides is None else list(strides)
    if len(kernels) != levels:
        raise ValueError(f"kernel_sizes has {len(kernels)} entries for {levels} levels; give one for each")
    if len(steps) != count:
        raise ValueError(
            f"strides has {len(steps)} entries for {levels} levels; give {count}, one for each step down"
        )
    spelt_kernels = tuple(per_axis(kernel, spatial_dims, "kernel_sizes") for kernel in kernels)
    if any(size % 2 == 0 for kernel in spelt_kernels for size in kernel):
        raise ValueError(f"kernel_sizes={kernel_sizes} has even sizes, which have no middle; use odd ones")
    return spelt_kernels, tuple(per_axis(step, spatial_dims, "strides") for step in steps)


def dilate_instead(strides: Sequence[Axes], count: int) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """Take the last ``count`` steps down away, and spread the kernels behind them to see as far.

    Args:
        strides: Of each step down, spelt out by axis.
        count: How many of the last steps keep the grid instead.

    Returns:
        The strides, those of the last steps being 1, and the dilation of each level, one more than strides.

    Example:
        >>> dilate_instead([(2, 2), (2, 2), (2, 1)], 2)
        (((2, 2), (1, 1), (1, 1)), ((1, 1), (1, 1), (2, 2), (4, 2)))

    References:
        Yu, Koltun, Multi-scale context aggregation by dilated convolutions, ICLR 2016.
    """
    kept = len(strides) - count
    spread: Axes = (1,) * len(strides[0])
    dilations = [spread] * (kept + 1)
    for step in strides[kept:]:
        spread = tuple(gap * factor for gap, factor in zip(spread, step, strict=True))
        dilations.append(spread)
    flat: Axes = (1,) * len(strides[0])
    return (*strides[:kept], *(flat,) * count), tuple(dilations)


class ConvEncoder(nn.Module):
    """Levels of convolutions with a step down before each but the first: VGG's body, U-Net's way down.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        features: Channels of each level.
        kernel_sizes: One a level, spelt out by axis.
        strides: One for each step down, spelt out by axis; where all are 1 the grid is kept.
        counts: Convolutions of each level, one number or one a level.
        widths: Channels of each level's convolutions one by one, instead of ``counts``; each level's last
            one is its ``features``.
        dilations: One a level, spelt out by axis; 1 if not given.
        dropout: Probability of dropout behind each of the two coarsest levels.
        downsample: ``"max"`` pools; ``"conv"`` strides in the level's first convolution.
        units: ``"plain"`` or ``"residual"``: whether a sum goes around the level's convolutions.
        **blocks: ``norm``, ``activation`` and ``padding`` of every block.

    Raises:
        ValueError: An option is invalid.
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
        widths: Sequence[Sequence[int]] | None = None,
        dilations: Sequence[Axes] | None = None,
        dropout: float = 0.0,
        downsample: str = "max",
        units: str = "plain",
        **blocks: Any,
    ) -> None:
        super().__init__()
        probability(dropout, "dropout")
        pools = choice(downsample, ("conv", "max"), "downsample") == "max"
        make_unit = UNITS[choice(units, tuple(UNITS), "units")]
        if blocks.get("padding") == "valid" and not (pools and units == "plain"):
            raise ValueError(
                f"padding='valid' does not go with downsample='{downsample}' and units='{units}'; "
                "choose padding='same', or downsample='max' and units='plain'"
            )
        self.features = tuple(features)
        depth = len(self.features)
        if widths is None:
            widths = _repeated(self.features, counts)
        flat: Axes = (1,) * spatial_dims
        before = in_channels
        self.levels = nn.ModuleList()
        for level, (outs, kernel) in enumerate(zip(widths, kernel_sizes, strict=True)):
            step = strides[level - 1] if level > 0 else flat
            options = dict(blocks)
            stage = nn.Sequential()
            steps_down = any(stride > 1 for stride in step)
            if steps_down and pools:
                stage.add_module("pool", max_pool(spatial_dims, step))
            elif steps_down:
                options["stride"] = _seen_whole(step, kernel)
            if dilations is not None:
                options["dilation"] = dilations[level]
            stage.add_module("convs", make_unit(spatial_dims, before, outs, kernel, **options))
            if dropout > 0.0 and level >= depth - 2:
                stage.add_module("dropout", nn.Dropout(dropout))
            self.levels.append(stage)
            before = self.features[level]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, features[level], …) of every level, the finest first."""
        maps: list[Tensor] = []
        for level in self.levels:
            images = level(images)
            maps.append(images)
        return maps


def _repeated(features: Sequence[int], counts: int | Sequence[int]) -> list[tuple[int, ...]]:
    """The features of each level, as often as it has convolutions."""
    convolutions = (counts,) * len(features) if isinstance(counts, int) else tuple(counts)
    if len(convolutions) != len(features):
        raise ValueError(
            f"counts has {len(convolutions)} entries for {len(features)} levels; give one for each"
        )
    pairs = zip(features, convolutions, strict=True)
    return [(width,) * positive(count, "counts") for width, count in pairs]


def _seen_whole(step: Axes, kernel: Axes) -> Axes:
    """Return ``step`` if a convolution of ``kernel`` leaves no voxel out at this stride."""
    if any(size < stride for size, stride in zip(kernel, step, strict=True)):
        raise ValueError(
            f"a convolution of kernel {kernel} at stride {step} leaves voxels out; "
            "give kernels as large as the strides, or downsample='max'"
        )
    return step
