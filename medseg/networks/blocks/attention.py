"""Attention gates on skips: where to look, as the coarser levels tell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.networks.blocks.layers import convolution, norm_layer
from medseg.networks.blocks.upsampling import CropConcat

__all__ = ["AttentionGate", "GatedConcat", "open_gates"]

_OPEN = 2.0


class AttentionGate(nn.Module):
    """Weigh every voxel of a skip by a number between 0 and 1 that it and a gating signal agree on.

    Additive attention: ``skip * sigmoid(psi(relu(W_x(skip) + W_g(gate))))``, all three being 1x1(x1)
    convolutions. Without ``norm`` the biases are the paper's (its b_g and b_psi; W_x has none); with it
    each convolution is normalised instead, as most published gates are.

    The paper forms the coefficients on the coarser grid of its gating signal and interpolates them; here,
    as in MONAI, the signal is the upsampled map that the skip is joined to, so that both are on one grid
    and any stride and size will do.

    Args:
        spatial_dims: 2 or 3.
        skip_channels: Channels of the skip.
        gate_channels: Channels of the gating signal.
        hidden_channels: Channels in which the two are added.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.

    Example:
        >>> gate = AttentionGate(2, skip_channels=4, gate_channels=8, hidden_channels=2)
        >>> gate(torch.zeros(1, 4, 5, 6), torch.zeros(1, 8, 5, 6)).shape
        torch.Size([1, 4, 5, 6])

    References:
        Oktay et al., Attention U-Net: learning where to look for the pancreas, MIDL 2018.
    """

    def __init__(
        self,
        spatial_dims: int,
        skip_channels: int,
        gate_channels: int,
        hidden_channels: int,
        norm: str | None = "batch",
    ) -> None:
        super().__init__()

        def project(before: int, after: int, bias: bool) -> nn.Sequential:
            layers = nn.Sequential()
            layers.add_module("conv", convolution(spatial_dims, before, after, 1, bias=bias))
            normalise = norm_layer(norm, spatial_dims, after)
            if normalise is not None:
                layers.add_module("norm", normalise)
            return layers

        self.skip = project(skip_channels, hidden_channels, bias=False)
        self.gate = project(gate_channels, hidden_channels, bias=norm is None)
        self.psi = project(hidden_channels, 1, bias=norm is None)

    def coefficients(self, skip: Tensor, gate: Tensor) -> Tensor:
        """How much of each voxel passes: (B, 1, X, …), from skip and signal of the same size."""
        weights: Tensor = torch.sigmoid(self.psi(torch.relu(self.skip(skip) + self.gate(gate))))
        return weights

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """The skip (B, C, X, …), weighed by the signal (B, G, X, …)."""
        return skip * self.coefficients(skip, gate)


def open_gates(module: nn.Module) -> None:
    """Let the gates of a network without norms pass most of their skips at first, sigmoid(2) = 0.88.

    With half of each skip, and no norm to make up for it, what is joined would fade level by level. To be
    called after ``he_initialise``, which makes biases zero.

    Args:
        module: Changed in place: each :class:`AttentionGate` in it whose psi has a bias.
    """
    for gate in module.modules():
        if isinstance(gate, AttentionGate):
            for name, parameter in gate.psi.named_parameters():
                if name == "conv.bias":
                    nn.init.constant_(parameter, _OPEN)


class GatedConcat(CropConcat):
    """:class:`CropConcat` whose skip passes an :class:`AttentionGate`, which the upsampled map steers.

    Args:
        spatial_dims: 2 or 3.
        channels: Of the skip and of the upsampled map; the gate works in half as many.
        padding: ``"same"`` or ``"valid"``.
        norm: Of the gate.
    """

    def __init__(
        self, spatial_dims: int, channels: tuple[int, int], padding: str = "same", norm: str | None = "batch"
    ) -> None:
        super().__init__(spatial_dims, padding)
        skip_channels, up_channels = channels
        self.attention = AttentionGate(
            spatial_dims, skip_channels, up_channels, max(1, skip_channels // 2), norm
        )

    def forward(self, skip: Tensor, upsampled: Tensor) -> Tensor:
        """Join the gated skip and the upsampled map, as :class:`CropConcat` does."""
        skip, upsampled = self.crop(skip, upsampled)
        return torch.cat([self.attention(skip, upsampled), upsampled], dim=1)
