"""How many processes scoring is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.errors import ConfigError
from medseg.io.sizes import available_memory_bytes
from medseg.workers import available_cores

__all__ = ["workers_for"]

_VOXELS_WORTH_A_PROCESS = 50_000_000
"""Cases of so many voxels take longer than a process takes to start, half a second and more."""

_BYTES_PER_VOXEL = 48
"""What scoring takes at its peak: two label maps of up to eight bytes, masks, surfaces."""


def workers_for(voxels: Sequence[int], jobs: int | None) -> int:
    """How many processes to take.

    Args:
        voxels: The size of each case.
        jobs: What the user wants; ``None`` for as many as there are cores, as far as the work is worth their
            start and the memory lasts.

    Raises:
        ConfigError: ``jobs`` is below 1.

    Example:
        >>> workers_for([1000, 2000], None), workers_for([1000, 2000], 8)
        (1, 2)
    """
    if jobs is not None:
        if jobs < 1:
            raise ConfigError(f"{jobs} jobs cannot work", where="jobs", fix="give 1 or more")
        return max(min(jobs, len(voxels)), 1)
    worth = math.ceil(sum(voxels) / _VOXELS_WORTH_A_PROCESS)
    affordable = available_memory_bytes() // (_BYTES_PER_VOXEL * max(voxels, default=1))
    return max(min(available_cores(), len(voxels), worth, affordable), 1)
