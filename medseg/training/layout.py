"""How batches lie in memory while a network learns."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from medseg.networks.blocks import InstanceNorm2d, InstanceNorm3d

__all__ = ["memory_layout"]


def memory_layout(network: nn.Module) -> torch.memory_format:
    """Channels last, with which convolutions are fastest; first, where one of PyTorch's instance norms is.

    PyTorch computes an instance norm with channels first, whatever it is given. With channels last each is
    then a copy there and a copy back, forwards and backwards: an eighth of a training step of nnU-Net's
    U-Net on the CPU. The instance norms of medseg's networks do not.

    Args:
        network: In 3D.

    Example:
        >>> from medseg.networks.blocks import norm_layer
        >>> memory_layout(nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2)))
        torch.contiguous_format
        >>> memory_layout(nn.Sequential(nn.Conv3d(1, 2, 3), norm_layer("instance", 3, 2)))
        torch.channels_last_3d
    """
    first = any(
        isinstance(layer, _InstanceNorm) and not isinstance(layer, InstanceNorm2d | InstanceNorm3d)
        for layer in network.modules()
    )
    return torch.contiguous_format if first else torch.channels_last_3d
