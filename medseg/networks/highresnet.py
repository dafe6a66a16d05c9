"""HighRes3DNet in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.blocks import (
    ConvBlock,
    SegmentationNetwork,
    activation_layer,
    convolution,
    he_initialise,
    norm_layer,
    per_axis,
    positive,
    probability,
    shrink_branches,
)

__all__ = ["CONFIGURATIONS", "HighResEncoder", "HighResNet", "HighResUnit"]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "highres3dnet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 160, "base_features": 16},
}
"""The paper's network for 160 structures of the brain, by name."""

STAGES = ((1, 1), (2, 2), (4, 4))
"""Of each stage of residual units: its width, as a multiple of the base's, and its dilation."""
UNITS = 3
"""Residual units of each stage."""
LAST_WIDTH = 5
"""Of the pointwise convolution behind the stages, as a multiple of the base's."""


class HighResNet(SegmentationNetwork):
    """HighRes3DNet: residual units at full resolution, whose kernels are spread instead of pooling.

    A convolution; three stages of three residual units with two convolutions each, spread by 1, 2 and 4 and
    with 1, 2 and 4 times the base's features; a pointwise convolution with 5 times as many; the pointwise
    one that classifies. Norm and activation stand before each convolution of a unit; where a stage widens,
    the sum's other side is filled up with zeros, half of them before and half behind its channels. With
    kernels of 3 an output voxel sees 87 along each axis, as the paper says. The grid is never left, and any
    input size is taken and given back.

    The paper's own has 16 base features and 160 classes: 821,744 parameters (820,144 weights of
    convolutions, 1,440 of norms, 160 biases), of which the paper says 0.81 million. It counts 20 layers
    without the one that classifies. The default is half as wide: every layer is at full resolution, and so
    costs time.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        base_features: Channels of the first convolution and the first stage.
        kernel_size: One number or one an axis. An axis of 1, such as the third of ``(3, 3, 1)``, is taken
            for one of thick slices: the first stage leaves it alone, the others convolve along it as along
            the other axes, spread by half as much.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout before the layer that classifies.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> import torch
        >>> network = HighResNet(2, in_channels=1, out_channels=3, base_features=2)
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Li, Wang, Fidon, Ourselin, Cardoso, Vercauteren, On the compactness, efficiency, and representation
        of 3D convolutional networks, IPMI 2017.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        base_features: int = 8,
        kernel_size: int | Sequence[int] = 3,
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, norm=norm)
        blocks: dict[str, Any] = {"norm": norm, "activation": activation}
        self.encoder = HighResEncoder(spatial_dims, self.in_channels, base_features, kernel_size, **blocks)
        self.dropout = nn.Dropout(probability(dropout, "dropout"))
        self.head = convolution(spatial_dims, self.encoder.features[-1], self.out_channels, 1)
        he_initialise(self)
        shrink_branches(self)

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        scores: Tensor = self.head(self.dropout(self.encoder(images)[-1]))
        return scores


class HighResEncoder(nn.Module):
    """Everything before the layer that classifies: one map at full resolution.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        base_features: As in :class:`HighResNet`.
        kernel_size: As in :class:`HighResNet`.
        **blocks: ``norm`` and ``activation``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        base_features: int,
        kernel_size: int | Sequence[int],
        **blocks: Any,
    ) -> None:
        super().__init__()
        base = positive(base_features, "base_features")
        kernel = per_axis(kernel_size, spatial_dims, "kernel_size")
        self.features = (LAST_WIDTH * base,)
        self.first = ConvBlock(spatial_dims, in_channels, base, kernel, **blocks)
        self.units = nn.Sequential()
        before = base
        for multiple, dilation in STAGES:
            full, spread = _looking_around(kernel, dilation)
            for _ in range(UNITS):
                after = multiple * base
                self.units.append(HighResUnit(spatial_dims, before, after, full, spread, **blocks))
                before = after
        self.last = ConvBlock(spatial_dims, before, self.features[0], 1, **blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One feature map (B, features[0], X, Y[, Z]) of images (B, C, X, Y[, Z])."""
        return [self.last(self.units(self.first(images)))]


def _looking_around(kernel: tuple[int, ...], dilation: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kernel and dilation of a stage by axis; thick slices (an axis of 1) come in with the second stage."""
    if dilation == 1:
        return kernel, (1,) * len(kernel)
    full = (max(kernel),) * len(kernel)
    return full, tuple(dilation if size > 1 else dilation // 2 for size in kernel)


class HighResUnit(nn.Module):
    """A sum of a map and two convolutions of it, each with norm and activation before it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out, as many or more.
        kernel_size: One number an axis.
        dilation: One number an axis.
        norm: One of :data:`medseg.networks.blocks.NORMS` or ``None``.
        activation: One of :data:`medseg.networks.blocks.ACTIVATIONS`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        *,
        norm: str | None,
        activation: str,
    ) -> None:
        super().__init__()
        self.is_normed = norm is not None
        added = out_channels - in_channels
        self.filling = [0, 0] * spatial_dims + [added // 2, added - added // 2]
        self.layers = nn.Sequential()
        for before in (in_channels, out_channels):
            normalise = norm_layer(norm, spatial_dims, before)
            if normalise is not None:
                self.layers.append(normalise)
            # Without a norm the activation reads the map that the sum needs as it is.
            self.layers.append(activation_layer(activation, inplace=self.is_normed))
            self.layers.append(
                convolution(
                    spatial_dims,
                    before,
                    out_channels,
                    kernel_size,
                    dilation=dilation,
                    bias=not self.is_normed,
                )
            )

    def forward(self, features: Tensor) -> Tensor:
        """Shape (B, out_channels, X, Y[, Z]) of shape (B, in_channels, X, Y[, Z])."""
        added: Tensor = self.layers(features)
        return functional.pad(features, self.filling) + added

    def branch_ends(self) -> list[nn.Module]:
        """The last convolution, if no norm before the first has set the branch's scale."""
        return [] if self.is_normed else [self.layers[-1]]
