"""What inference will take of memory, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from medseg.errors import ConfigError
from medseg.inference.slabs import MemoryPlan
from medseg.registry import did_you_mean

__all__ = ["MODES", "plan_memory"]

MODES = ("streaming", "sliding-window", "overlap-tile")
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

    No voxel is computed; the network may lie on the meta device. For streaming the result is counted, as
    when the inferer is called; the other ways count what their ``plan`` says.

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
    if mode == "streaming":
        from medseg.inference.streaming import StreamingInferer

        return StreamingInferer(max_ram_bytes=max_ram_bytes, **options).plan_call(network, shape)
    if mode == "overlap-tile":
        from medseg.inference.overlap_tile import OverlapTileInferer

        return OverlapTileInferer(max_ram_bytes=max_ram_bytes, **options).plan(network, tuple(shape))
    if mode == "sliding-window":
        from medseg.inference.sliding_window import SlidingWindowInferer

        if max_ram_bytes is not None:
            raise ConfigError(
                "sliding windows have the size that was trained with, which no limit changes",
                where="max_ram_bytes",
                fix="leave it out and look at the plan's peak_bytes, or use mode='streaming'",
            )
        return SlidingWindowInferer(**options).plan(network, tuple(shape))
    raise ConfigError(f"unknown mode '{mode}'", where="mode", fix=did_you_mean(mode, MODES))
