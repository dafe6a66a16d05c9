"""V-Net in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks import (
    CropConcat,
    SegmentationNetwork,
    activation_layer,
    choice,
    convolution,
    he_initialise,
    level_geometry,
    norm_layer,
    positive,
    probability,
    shrink_branches,
    transposed_convolution,
)

__all__ = ["CONFIGURATIONS", "VNet", "VNetDecoder", "VNetEncoder", "VNetStage"]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "vnet_2016": {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "features": (16, 32, 64, 128, 256),
        "counts": (1, 2, 3, 3, 3),
        "norm": None,
        "activation": "prelu",
        "kernel_sizes": (5, 5, 5, 5, 5),
    },
    "vnet_monai": {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "features": (16, 32, 64, 128, 256),
        "counts": (1, 1, 2, 3, 2),
        "up_counts": (1, 1, 2, 2),
        "norm": "batch",
        "activation": "elu",
        "kernel_sizes": (5, 5, 5, 5, 5),
        "variant": "port",
    },
}
"""The paper's network, and the one that MONAI has."""

_PADDING: dict[int, Any] = {2: nn.ConstantPad2d, 3: nn.ConstantPad3d}
_MOST_CONVOLUTIONS = 3


class VNet(SegmentationNetwork):
    """V-Net: stages of convolutions that learn what to add to their input, strides instead of pooling.

    A stage's input is added to what its last convolution gives, and the activation follows. Strided
    convolutions lead down, transposed ones up, both with kernels of their stride; there the skip is joined
    on, so that a stage on the way up has twice the channels of the one beside it. The image itself is
    repeated to the channels of the first stage to be added there; where these are no multiple of its own,
    a 1x1x1 convolution takes it there. A 1x1x1 convolution gives the scores. Any input size is taken and
    given back: a strided convolution pads the end with zeros, and the way up crops.

    The paper's network, ``CONFIGURATIONS["vnet_2016"]``, has 65,175,314 parameters, each PReLU having a slope
    for every channel; the paper states no figure. Its table of receptive fields (5, 22, 72, 172 and 372
    voxels on the way down) confirms the numbers of convolutions. MONAI's network has fewer of them:
    ``CONFIGURATIONS["vnet_monai"]`` has 45,597,658 parameters here and 45,597,898 there, where the
    transposed convolutions have 240 biases that batch norm takes away.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level on the way down, from the finest to the coarsest.
        counts: Convolutions of each level's stage on the way down; 1, 2, 3, 3, ... if not given.
        up_counts: Convolutions of each level's stage on the way up, the coarsest level left out; as on the
            way down if not given.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``, as in the paper.
        activation: ``"prelu"``, ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout at the end of the way down (its two coarsest levels).
        kernel_sizes: One a level, each one number or one an axis; 3 if not given, the paper has 5.
        strides: One for each step down, that is one fewer than the levels; 2 if not given.
        variant: ``"paper"``; or ``"port"`` for what became of it in MONAI: a stage's last convolution,
            but that of the first, has its activation before the sum too, and a convolution to the classes
            with norm and activation stands before the 1x1x1 one.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> network = VNet(2, in_channels=1, out_channels=3, features=(8, 16))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Milletari, Navab, Ahmadi, V-Net: fully convolutional neural networks for volumetric medical image
        segmentation, 3DV 2016.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (16, 32, 64, 128),
        counts: Sequence[int] | None = None,
        up_counts: Sequence[int] | None = None,
        norm: str | None = "batch",
        activation: str = "prelu",
        dropout: float = 0.0,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        variant: str = "paper",
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides)
        super().__init__(spatial_dims, in_channels, out_channels, steps, norm)
        self.features = widths
        self.kernel_sizes = kernels
        depth = len(self.features)
        rising = tuple(min(level + 1, _MOST_CONVOLUTIONS) for level in range(depth))
        self.counts = _one_a_level(rising if counts is None else counts, depth, "counts")
        mirrored = self.counts[:-1] if up_counts is None else up_counts
        self.up_counts = _one_a_level(mirrored, depth - 1, "up_counts")
        is_port = choice(variant, ("paper", "port"), "variant") == "port"

        layer: dict[str, Any] = {"norm": norm, "activation": activation}
        geometry = (self.features, self.kernel_sizes, self.strides)
        self.encoder = VNetEncoder(
            spatial_dims, self.in_channels, *geometry, self.counts, early=is_port, dropout=dropout, **layer
        )
        self.decoder = VNetDecoder(spatial_dims, *geometry, self.up_counts, early=is_port, **layer)
        self.head = nn.Sequential()
        width = 2 * self.features[0]
        if is_port:
            kernel = self.kernel_sizes[0]
            conv = convolution(spatial_dims, width, self.out_channels, kernel, bias=norm is None)
            self.head.append(_layer(conv, spatial_dims, norm, activation))
            width = self.out_channels
        self.head.append(convolution(spatial_dims, width, self.out_channels, 1))
        he_initialise(self)
        shrink_branches(self)

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        scores: Tensor = self.head(self.decoder(self.encoder(images)))
        return scores


class VNetEncoder(nn.Module):
    """The way down: a stage at every level, strided convolutions between them.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        features: Channels of each level.
        kernel_sizes: One a level, spelt out by axis.
        strides: One for each step down, spelt out by axis.
        counts: Convolutions of each level.
        early: Whether all stages but the first have an activation before the sum too.
        dropout: Probability of dropout behind each of the two coarsest levels.
        norm: One of ``NORMS`` or ``None``.
        activation: One of ``ACTIVATIONS``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        counts: Sequence[int],
        *,
        early: bool,
        dropout: float,
        norm: str | None,
        activation: str,
    ) -> None:
        super().__init__()
        probability(dropout, "dropout")
        self.features = tuple(features)
        self.levels = nn.ModuleList()
        before = in_channels
        for level, (width, kernel, count) in enumerate(zip(features, kernel_sizes, counts, strict=True)):
            stage = nn.Sequential()
            if level > 0:
                step = strides[level - 1]
                if any(size > 1 for size in step):
                    stage.add_module("pad", _overhang(spatial_dims, step))
                down = convolution(
                    spatial_dims, before, width, step, stride=step, padding="valid", bias=norm is None
                )
                stage.add_module("down", _layer(down, spatial_dims, norm, activation))
                before = width
            made = VNetStage(
                spatial_dims,
                before,
                width,
                kernel,
                count,
                early=early and level > 0,
                norm=norm,
                activation=activation,
            )
            stage.add_module("sum", made)
            before = width
            if dropout > 0.0 and level >= len(features) - 2:
                stage.add_module("dropout", nn.Dropout(dropout))
            self.levels.append(stage)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, features[level], …) of every level, the finest first."""
        maps: list[Tensor] = []
        for level in self.levels:
            images = level(images)
            maps.append(images)
        return maps


class VNetDecoder(nn.Module):
    """The way up: transposed convolutions, skips, and stages that see both.

    Args:
        spatial_dims: 2 or 3.
        features: Channels of each level on the way down.
        kernel_sizes: One a level, spelt out by axis.
        strides: One for each step down, spelt out by axis.
        counts: Convolutions of each level but the coarsest.
        early: Whether stages have an activation before the sum too.
        norm: One of ``NORMS`` or ``None``.
        activation: One of ``ACTIVATIONS``.
    """

    def __init__(
        self,
        spatial_dims: int,
        features: Sequence[int],
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        counts: Sequence[int],
        *,
        early: bool,
        norm: str | None,
        activation: str,
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList()
        self.joins = nn.ModuleList()
        self.levels = nn.ModuleList()
        below = features[-1]
        for level in reversed(range(len(strides))):
            width = features[level]
            up = transposed_convolution(spatial_dims, below, width, strides[level], bias=norm is None)
            self.ups.append(_layer(up, spatial_dims, norm, activation))
            self.joins.append(CropConcat(spatial_dims))
            below = 2 * width
            stage = VNetStage(
                spatial_dims,
                below,
                below,
                kernel_sizes[level],
                counts[level],
                early=early,
                norm=norm,
                activation=activation,
            )
            self.levels.append(stage)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The finest level's features: (B, 2 features[0], X, Y[, Z]).

        Args:
            maps: Those of the encoder, the finest first.
        """
        features = maps[-1]
        for index, (up, join, level) in enumerate(zip(self.ups, self.joins, self.levels)):  # noqa: B905 (scripted)
            features = level(join(maps[-2 - index], up(features)))
        return features


class VNetStage(nn.Module):
    """Convolutions whose result is added to what they were given, then the activation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in; where they are fewer than the channels out, they are repeated to be added.
        out_channels: Channels of every convolution.
        kernel_size: Spelt out by axis.
        count: How many convolutions.
        early: Whether the last convolution has an activation before the sum too.
        norm: One of ``NORMS`` or ``None``.
        activation: One of ``ACTIVATIONS``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        count: int,
        *,
        early: bool = False,
        norm: str | None,
        activation: str,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for index in range(count):
            before = in_channels if index == 0 else out_channels
            conv = convolution(spatial_dims, before, out_channels, kernel_size, bias=norm is None)
            ahead = early or index < count - 1
            self.convs.append(_layer(conv, spatial_dims, norm, activation if ahead else None))
        self.skip: nn.Module = nn.Identity()
        if out_channels % in_channels:
            self.skip = convolution(spatial_dims, in_channels, out_channels, 1)
        elif out_channels > in_channels:
            self.skip = _Repeat(out_channels // in_channels)
        self.act = _activation(activation, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Take (B, in_channels, X, Y[, Z]) to (B, out_channels, X, Y[, Z])."""
        total: Tensor = self.act(self.convs(features) + self.skip(features))
        return total

    def branch_ends(self) -> list[nn.Module]:
        """The last convolution if no norm follows."""
        end = self.convs[-1]
        return [] if hasattr(end, "norm") else [end.get_submodule("conv")]


class _Repeat(nn.Module):
    """All channels, several times over."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features] * self.times, 1)


def _overhang(spatial_dims: int, stride: tuple[int, ...]) -> nn.Module:
    """Zeros at the end, so that blocks of ``stride`` voxels leave nothing out.

    One voxel less than a block is enough for any size; a strided convolution ignores what fills no block.
    """
    after = tuple(length for step in reversed(stride) for length in (0, step - 1))
    pad: nn.Module = _PADDING[spatial_dims](after, 0.0)
    return pad


def _layer(conv: nn.Module, spatial_dims: int, norm: str | None, activation: str | None) -> nn.Sequential:
    """A convolution, its normalisation and activation, or none of them."""
    channels = int(conv.out_channels)  # type: ignore[arg-type]
    layer = nn.Sequential()
    layer.add_module("conv", conv)
    normalise = norm_layer(norm, spatial_dims, channels)
    if normalise is not None:
        layer.add_module("norm", normalise)
    if activation is not None:
        layer.add_module("act", _activation(activation, channels))
    return layer


def _activation(name: str, channels: int) -> nn.Module:
    """The activation called ``name``; a PReLU has a slope for every channel, as the paper's has."""
    return nn.PReLU(channels) if name == "prelu" else activation_layer(name)


def _one_a_level(numbers: Sequence[int], levels: int, option: str) -> tuple[int, ...]:
    if len(numbers) != levels:
        raise ValueError(f"{option} has {len(numbers)} entries, {levels} are needed; give one for each level")
    return tuple(positive(number, option) for number in numbers)
