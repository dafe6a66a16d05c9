"""Atrous spatial pyramid pooling: one map seen by kernels of several dilations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks.layers import ConvBlock, convolution

__all__ = ["JoinedPyramid", "SummedPyramid"]

Axes = tuple[int, ...]


class SummedPyramid(nn.Module):
    """Version 2's pyramid: each rate has its own class scores, and they are summed.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Classes.
        kernel_size: Spelt out by axis.
        rates: One a branch, spelt out by axis.
        hidden: Channels of the two hidden layers of each branch; ``None`` for a branch that is but one
            dilated convolution to the scores.
        dropout: Probability of dropout behind each hidden layer, before the branches where there is none.
        **look: ``norm`` and ``activation`` of the hidden layers.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Axes,
        rates: Sequence[Axes],
        *,
        hidden: int | None = None,
        dropout: float = 0.0,
        **look: Any,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout if hidden is None else 0.0)
        self.branches = nn.ModuleList()
        for rate in rates:
            if hidden is None:
                score = convolution(spatial_dims, in_channels, out_channels, kernel_size, dilation=rate)
                self.branches.append(score)
                continue
            self.branches.append(
                nn.Sequential(
                    ConvBlock(spatial_dims, in_channels, hidden, kernel_size, dilation=rate, **look),
                    nn.Dropout(dropout),
                    ConvBlock(spatial_dims, hidden, hidden, 1, **look),
                    nn.Dropout(dropout),
                    convolution(spatial_dims, hidden, out_channels, 1),
                )
            )

    def forward(self, features: Tensor) -> Tensor:
        """Take (B, in_channels, X, Y[, Z]) to class scores (B, out_channels, X, Y[, Z])."""
        features = self.dropout(features)
        scores: list[Tensor] = []
        for branch in self.branches:
            scores.append(branch(features))
        return torch.stack(scores).sum(0)


class JoinedPyramid(nn.Module):
    """Version 3's pyramid: the features of all rates are joined, and scored together.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Classes.
        kernel_size: Spelt out by axis.
        rates: One a branch, spelt out by axis; besides them there is a 1x1(x1) branch.
        hidden: Channels of each branch, and of what is scored.
        image_feature: Whether the mean over the image is a branch too.
        dropout: Probability of dropout before the scores.
        **look: ``norm`` and ``activation`` of each branch.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Axes,
        rates: Sequence[Axes],
        *,
        hidden: int,
        image_feature: bool = False,
        dropout: float = 0.0,
        **look: Any,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvBlock(spatial_dims, in_channels, hidden, 1, **look)])
        for rate in rates:
            self.branches.append(
                ConvBlock(spatial_dims, in_channels, hidden, kernel_size, dilation=rate, **look)
            )
        if image_feature:
            self.branches.append(_ImageFeature(spatial_dims, in_channels, hidden, look["activation"]))
        self.join = ConvBlock(spatial_dims, len(self.branches) * hidden, hidden, 1, **look)
        self.dropout = nn.Dropout(dropout)
        self.score = convolution(spatial_dims, hidden, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Take (B, in_channels, X, Y[, Z]) to class scores (B, out_channels, X, Y[, Z])."""
        seen: list[Tensor] = []
        for branch in self.branches:
            seen.append(branch(features))
        scores: Tensor = self.score(self.dropout(self.join(torch.cat(seen, dim=1))))
        return scores


class _ImageFeature(nn.Module):
    """The mean over the image, convolved, and given to every voxel.

    Without a norm: over a batch of two, its two numbers a channel would always become 1 and -1.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, activation: str) -> None:
        super().__init__()
        self.axes = list(range(2, 2 + spatial_dims))
        self.block = ConvBlock(spatial_dims, in_channels, out_channels, 1, norm=None, activation=activation)

    def forward(self, features: Tensor) -> Tensor:
        mean = features.mean(dim=self.axes, keepdim=True)
        everywhere = torch.zeros_like(torch.narrow(features, 1, 0, 1))
        spread: Tensor = self.block(mean) + everywhere
        return spread
