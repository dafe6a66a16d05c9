"""What a training step takes of memory, known before it is made."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.runs import NetworkPlan
from medseg.training.architecture import Triple, round_up

__all__ = ["StepMemory", "step_memory"]

_SIZE = (32, 32, 32)
_BATCH = 2

# Weights, gradients, AdamW's two moments and a moving average of the weights, in single precision.
_BYTES_PER_PARAMETER = 5 * 4
# Beside what is kept for the backward pass: at its fullest moment either the gradients of the largest feature
# map and of the next, or what a loss makes of the scores (their softmax, the targets by class, products).
_MAPS_AT_ONCE = 2
_SCORES_AT_ONCE = 4


@dataclass(frozen=True)
class StepMemory:
    """Memory of a training step in single precision; bfloat16 takes little more than half.

    Attributes:
        fixed_bytes: Of weights and optimiser, whatever the patch.
        bytes_per_voxel: Of each voxel of each patch.
    """

    fixed_bytes: int
    bytes_per_voxel: float

    def bytes_of(self, patch_size: Sequence[int], batch_size: int) -> float:
        """Bytes of a step.

        Args:
            patch_size: Voxels per axis.
            batch_size: Patches.

        Example:
            >>> StepMemory(1000, 2.0).bytes_of((10, 10, 10), 2)
            5000.0
        """
        return self.fixed_bytes + self.bytes_per_voxel * math.prod(patch_size) * batch_size


def step_memory(network: NetworkPlan, divisor: Triple = (1, 1, 1)) -> StepMemory:
    """Count what training a network takes, without computing anything.

    The network is run once on torch's ``meta`` device, and what autograd keeps is added up: that grows with
    the number of voxels.

    Args:
        network: As planned.
        divisor: What the sizes of a patch must be divisible by.

    Raises:
        ConfigError: The network cannot be built, or takes no patch.

    Example:
        >>> narrow, wide = (
        ...     step_memory(NetworkPlan(name="unet", options={"features": features}))
        ...     for features in ([4, 8], [8, 16])
        ... )
        >>> 1.8 < wide.bytes_per_voxel / narrow.bytes_per_voxel < 2.0
        True
    """
    return _measured(network.name, json.dumps(network.options, sort_keys=True), divisor)


@lru_cache(maxsize=512)
def _measured(name: str, options: str, divisor: Triple) -> StepMemory:
    chosen = json.loads(options)
    shape = (_BATCH, chosen.get("in_channels", 1), *round_up(_SIZE, divisor))
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage._cdata] = storage
        return tensor

    with torch.device("meta"):
        try:
            network = build_network(name, **chosen)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                scores = getattr(network, "forward_deep", network)(torch.empty(shape))
        except (RuntimeError, TypeError, ValueError) as error:
            what, _, cure = str(error).partition("; ")
            fix = cure or "correct network.options in the recipe"
            raise ConfigError(what, where=f"network '{name}'", fix=fix) from error
    parameters = list(network.parameters())
    own = {parameter.untyped_storage()._cdata for parameter in parameters}
    maps = [storage.nbytes() for key, storage in held.items() if key not in own]
    levels = [scores] if isinstance(scores, Tensor) else list(scores)
    score_bytes = sum(level.numel() * level.itemsize for level in levels)
    at_once = max(_MAPS_AT_ONCE * max(maps, default=0), _SCORES_AT_ONCE * score_bytes)
    return StepMemory(
        fixed_bytes=_BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in parameters),
        bytes_per_voxel=(sum(maps) + at_once) / (_BATCH * math.prod(shape[2:])),
    )
