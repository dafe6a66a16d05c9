"""How batches lie in memory while a network learns."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["memory_layout"]


def memory_layout(network: nn.Module) -> torch.memory_format:
    """Channels last, with which convolutions and batch norms are fastest; first, where an instance norm is.

    PyTorch computes an instance norm with channels first, whatever it is given. With channels last each is
    then a copy there and a copy back, forwards and backwards: an eighth of a training step of nnU-Net's
    U-Net on the CPU.

    Args:
        network: In 3D.

    Example:
        >>> memory_layout(nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2)))
        torch.contiguous_format
        >>> memory_layout(nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)))
        torch.channels_last_3d
    """
    normalised = any(isinstance(layer, _InstanceNorm) for layer in network.modules())
    return torch.contiguous_format if normalised else torch.channels_last_3d
