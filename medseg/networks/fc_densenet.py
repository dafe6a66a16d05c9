"""FC-DenseNet in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks import (
    CropConcat,
    SegmentationNetwork,
    activation_layer,
    convolution,
    he_initialise,
    level_geometry,
    max_pool,
    norm_layer,
    positive,
    probability,
)

__all__ = ["CONFIGURATIONS", "DenseBlock", "DenseDecoder", "DenseEncoder", "FCDenseNet"]

_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}

_PAPER: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 11,
    "base_features": 48,
    "strides": (2, 2, 2, 2, 2),
    "norm": "batch",
    "activation": "relu",
    "dropout": 0.2,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fc_densenet56": {**_PAPER, "growth_rate": 12, "layers": 4},
    "fc_densenet67": {**_PAPER, "growth_rate": 16, "layers": 5},
    "fc_densenet103": {**_PAPER, "growth_rate": 16, "layers": (4, 5, 7, 10, 12, 15)},
}
"""The paper's networks, for the eleven classes of CamVid."""


class FCDenseNet(SegmentationNetwork):
    """FC-DenseNet, the "one hundred layers tiramisu": dense blocks on the way down and on the way up.

    Within a dense block every layer (norm, activation, convolution, dropout) sees the block's input and
    all that the layers before it made, and adds ``growth_rate`` channels. On the way down each block's
    input and its new channels are the skip, and a transition (norm, activation, 1x1 convolution, dropout,
    2x2 max pooling) leads to the next level. On the way up only what the block below newly made is
    upsampled, by a transposed convolution, so that the channels do not pile up; the skip is joined on. The
    1x1 classifier sees the whole of the last block. Any input size is taken and given back.

    Parameters of the paper's networks (:data:`CONFIGURATIONS`), for three channels and eleven classes:

    ============== ========= =============
    configuration  here      paper
    ============== ========= =============
    fc_densenet56  1,375,019 1.5 million
    fc_densenet67  3,460,475 3.5 million
    fc_densenet103 9,318,075 9.4 million
    ============== ========= =============

    The paper's figures do not follow from its own tables of layers, which give about 1.38, 3.46 and 9.32
    million. The authors' code has a bias in every convolution besides (1,776, 2,768 and 4,016 in all), which
    norms and the classifier take up; here they exist only with ``norm=None``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        base_features: Channels of the first convolution; the paper has 48.
        growth_rate: Channels that each layer adds; the paper has 12 or 16.
        layers: Layers of every dense block, or of each level's, from the finest to the coarsest; 2, 3, 4,
            ... if not given, for the finest grid costs the most. The way up has as many as the way down.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout behind every convolution in blocks and transitions; the paper has
            0.2, for long trainings.
        kernel_sizes: One a level, each one number or one an axis, such as ``(3, 3, 1)`` where the third
            axis is coarse; 3 if not given.
        strides: One for each step down, that is one fewer than the levels.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> network = FCDenseNet(2, in_channels=1, out_channels=3, growth_rate=4, strides=(2, 2))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Jégou et al., The one hundred layers tiramisu: fully convolutional DenseNets for semantic
        segmentation, CVPR workshops 2017.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        base_features: int = 32,
        growth_rate: int = 12,
        layers: int | Sequence[int] | None = None,
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
    ) -> None:
        if not strides:
            raise ValueError("strides names no step down, one or more are needed; give such as (2, 2, 2)")
        kernels, steps = level_geometry(len(strides) + 1, spatial_dims, kernel_sizes, strides)
        super().__init__(spatial_dims, in_channels, out_channels, steps, norm)
        self.kernel_sizes = kernels
        self.growth_rate = positive(growth_rate, "growth_rate")
        self.layers = _layers_by_level(layers, len(kernels))

        options: dict[str, Any] = {
            "growth_rate": self.growth_rate,
            "norm": norm,
            "activation": activation,
            "dropout": probability(dropout, "dropout"),
        }
        width = positive(base_features, "base_features")
        geometry = (self.layers, self.kernel_sizes, self.strides)
        self.encoder = DenseEncoder(spatial_dims, self.in_channels, width, *geometry, **options)
        self.decoder = DenseDecoder(spatial_dims, self.encoder.features, *geometry, **options)
        self.head = convolution(spatial_dims, self.decoder.out_channels, self.out_channels, 1)
        he_initialise(self)
        with torch.no_grad():
            for up in self.decoder.ups:
                # What is upsampled was not rectified: nothing halves its variance, as He's weights expect.
                up.get_parameter("weight").mul_(math.sqrt(0.5))

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        scores: Tensor = self.head(self.decoder(self.encoder(images)))
        return scores


class DenseEncoder(nn.Module):
    """The way down: every level's skip, and of the coarsest only what its block newly made.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        base_features: Channels of the first convolution.
        layers: Layers of each level's block.
        kernel_sizes: One a level, spelt out by axis.
        strides: One for each step down, spelt out by axis.
        growth_rate: Channels that each layer of a block makes.
        **options: ``norm``, ``activation`` and ``dropout`` of every layer.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        base_features: int,
        layers: Sequence[int],
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        *,
        growth_rate: int,
        **options: Any,
    ) -> None:
        super().__init__()
        bias = options["norm"] is None
        self.first = convolution(spatial_dims, in_channels, base_features, kernel_sizes[0], bias=bias)
        self.levels = nn.ModuleList()
        self.downs = nn.ModuleList()
        width = base_features
        features = []
        for level, step in enumerate(strides):
            block = DenseBlock(
                spatial_dims, width, layers[level], kernel_sizes[level], growth_rate, **options
            )
            width += block.made_channels
            features.append(width)
            self.levels.append(block)
            self.downs.append(_transition_down(spatial_dims, width, step, **options))
        self.coarsest = DenseBlock(spatial_dims, width, layers[-1], kernel_sizes[-1], growth_rate, **options)
        self.features = (*features, self.coarsest.made_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, features[level], …) of every level, the finest first."""
        features: Tensor = self.first(images)
        maps: list[Tensor] = []
        for level, down in zip(self.levels, self.downs):  # noqa: B905 (scripted)
            skip = torch.cat([features, level(features)], 1)
            maps.append(skip)
            features = down(skip)
        maps.append(self.coarsest(features))
        return maps


class DenseDecoder(nn.Module):
    """The way up: what the block below made is upsampled, joined to the skip, and a block follows.

    Args:
        spatial_dims: 2 or 3.
        features: Channels of the encoder's maps.
        layers: Layers of each level's block.
        kernel_sizes: One a level, spelt out by axis.
        strides: One for each step down, spelt out by axis.
        growth_rate: Channels that each layer of a block makes.
        **options: ``norm``, ``activation`` and ``dropout`` of every layer.
    """

    def __init__(
        self,
        spatial_dims: int,
        features: Sequence[int],
        layers: Sequence[int],
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        *,
        growth_rate: int,
        **options: Any,
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList()
        self.joins = nn.ModuleList()
        self.levels = nn.ModuleList()
        made = features[-1]
        for level in reversed(range(len(strides))):
            width = features[level] + made
            self.ups.append(_transition_up(spatial_dims, made, strides[level], bias=options["norm"] is None))
            self.joins.append(CropConcat(spatial_dims))
            block = DenseBlock(
                spatial_dims, width, layers[level], kernel_sizes[level], growth_rate, **options
            )
            self.levels.append(block)
            made = block.made_channels
        self.out_channels = width + made

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The finest block's input and what it made: (B, out_channels, X, Y[, Z]).

        Args:
            maps: Those of the encoder, the finest first.
        """
        made = maps[-1]
        features = made
        for index, (up, join, level) in enumerate(zip(self.ups, self.joins, self.levels)):  # noqa: B905 (scripted)
            features = join(maps[-2 - index], up(made))
            made = level(features)
        return torch.cat([features, made], 1)


class DenseBlock(nn.Module):
    """Layers of which each sees the block's input and all that the layers before it made.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        layers: How many.
        kernel_size: Spelt out by axis.
        growth_rate: Channels that each layer makes.
        **options: ``norm``, ``activation`` and ``dropout`` of every layer.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        layers: int,
        kernel_size: tuple[int, ...],
        growth_rate: int,
        **options: Any,
    ) -> None:
        super().__init__()
        self.made_channels = layers * growth_rate
        self.layers = nn.ModuleList(
            _layer(spatial_dims, in_channels + before * growth_rate, growth_rate, kernel_size, **options)
            for before in range(layers)
        )

    def forward(self, features: Tensor) -> Tensor:
        """What the layers make of (B, in_channels, …), without it: (B, made_channels, …)."""
        made: list[Tensor] = []
        for layer in self.layers:
            made.append(layer(torch.cat([features] + made, 1) if len(made) > 0 else features))  # noqa: RUF005
        return torch.cat(made, 1)


def _layer(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, ...],
    *,
    norm: str | None,
    activation: str,
    dropout: float,
) -> nn.Sequential:
    """Normalisation, activation, convolution, dropout."""
    layer = nn.Sequential()
    normalise = norm_layer(norm, spatial_dims, in_channels)
    if normalise is not None:
        layer.add_module("norm", normalise)
    # Without norm the input itself is rectified, which other layers still read.
    layer.add_module("act", activation_layer(activation, inplace=norm is not None))
    convolve = convolution(spatial_dims, in_channels, out_channels, kernel_size, bias=norm is None)
    layer.add_module("conv", convolve)
    if dropout > 0.0:
        layer.add_module("dropout", nn.Dropout(dropout))
    return layer


def _transition_down(
    spatial_dims: int, channels: int, stride: tuple[int, ...], **options: Any
) -> nn.Sequential:
    """A 1x1 layer that keeps the channels, then max pooling."""
    transition = _layer(spatial_dims, channels, channels, 1, **options)
    if any(step > 1 for step in stride):
        transition.add_module("pool", max_pool(spatial_dims, stride))
    return transition


def _transition_up(spatial_dims: int, channels: int, stride: tuple[int, ...], *, bias: bool) -> nn.Module:
    """A transposed convolution that makes exactly ``stride`` voxels of one, its kernels overlapping.

    The kernel is 3 at the paper's stride of 2; 2s - 1 voxels reach as far as linear interpolation does.
    """
    return _TRANSPOSED[spatial_dims](
        channels,
        channels,
        tuple(2 * step - 1 for step in stride),
        stride=stride,
        padding=tuple(step // 2 for step in stride),
        output_padding=tuple(1 - step % 2 for step in stride),
        bias=bias,
    )


def _layers_by_level(layers: int | Sequence[int] | None, levels: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(2, levels + 2))
    numbers = layers if isinstance(layers, Sequence) else (layers,) * levels
    if len(numbers) != levels:
        raise ValueError(f"layers has {len(numbers)} entries for {levels} levels; give one for each, or one")
    return tuple(positive(number, "layers") for number in numbers)
