"""What inference will take of memory, before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from medseg.errors import ConfigError, did_you_mean
from medseg.inference.overlap_tile import OverlapTileInferer
from medseg.inference.slabs import MemoryPlan, SlabInferer
from medseg.inference.sliding_window import SlidingWindowInferer
from medseg.inference.streaming import StreamingInferer

__all__ = ["INFERERS", "MODES", "plan_memory"]

INFERERS: dict[str, Callable[..., SlabInferer]] = {
    "streaming": StreamingInferer,
    "sliding-window": SlidingWindowInferer,
    "overlap-tile": OverlapTileInferer,
}
"""What infers, by mode."""

MODES = tuple(INFERERS)
"""The ways to infer."""


def plan_memory(
    network: nn.Module,
    shape: Sequence[int],
    *,
    mode: str = "streaming",
    max_ram_bytes: int | None = None,
    **options: Any,
) -> MemoryPlan:
    """How an inferer would go through an image, and the memory that it takes beyond network and image.

    What is counted is a call of the inferer, its result included. No voxel is computed; the network may lie
    on the meta device.

    Args:
        network: From (B, C, X, Y[, Z]) to scores (B, K, X', Y'[, Z']).
        shape: Of the image, (B, C, X, Y[, Z]).
        mode: One of :data:`MODES`.
        max_ram_bytes: Limit to keep to.
        **options: Other arguments of the mode's inferer.

    Raises:
        ConfigError: There is no such mode, or the network does not fit it; the error says why.
        ResourceError: No way keeps to the limit; the error names the least that would do.

    Example:
        >>> network = nn.Conv3d(1, 2, 3, padding=1)
        >>> plan = plan_memory(network, (1, 1, 64, 64, 64), reduce="argmax", slab=4)
        >>> plan.axis, plan.slab, plan.peak_bytes < 64**3 * 2 * 4
        (0, 4, True)
    """
    if mode not in INFERERS:
        raise ConfigError(f"unknown mode '{mode}'", where="mode", fix=did_you_mean(mode, MODES))
    inferer = INFERERS[mode](max_ram_bytes=max_ram_bytes, **options)
    return inferer.plan(network, tuple(shape), result=True)
