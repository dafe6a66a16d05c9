"""What a stream holds of a network's weights, beside the network's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from medseg.inference.streaming.simplify import Simplified

__all__ = ["WeightMemory", "weight_memory"]


@dataclass(frozen=True)
class WeightMemory:
    """Copies of weights.

    Attributes:
        held_bytes: In the order of axes and the precision that layers compute with, until the stream ends.
        building_bytes: At most, while they are made: batch norms are folded in double precision.
    """

    held_bytes: int
    building_bytes: int


def weight_memory(simplified: Simplified, network: nn.Module, dtype: torch.dtype) -> WeightMemory:
    """Count them.

    Args:
        simplified: The network made ready for streaming; its weights may lie on the meta device.
        network: As it was.
        dtype: What layers compute in.
    """
    dims = simplified.graph.spatial_dims
    own = {
        name
        for name, _ in (
            *network.named_parameters(remove_duplicate=False),
            *network.named_buffers(remove_duplicate=False),
        )
    }
    held = folded = largest = 0
    for node in simplified.graph.nodes.values():
        for name, *_ in node.weights.values():
            weight = simplified.tensors[name]
            if name not in own:
                folded += weight.numel() * weight.dtype.itemsize
                largest = max(largest, weight.numel())
            over_space = weight.ndim == dims + 2 and math.prod(weight.shape[2:]) > 1
            if over_space or weight.dtype != dtype or name not in own:
                held += weight.numel() * dtype.itemsize
    return WeightMemory(held, held + folded + 2 * largest * torch.float64.itemsize)
