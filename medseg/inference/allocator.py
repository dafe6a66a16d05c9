"""What the system's allocator holds back of memory that was freed."""

from __future__ import annotations

__all__ = ["ALLOCATOR_STAGE", "kept_by_the_allocator"]

ALLOCATOR_STAGE = "freed, kept by the allocator"
"""Its name among the stages of a plan."""

_MOST_KEPT_BYTES = 64 << 20


def kept_by_the_allocator(work_bytes: int) -> int:
    """Bytes that glibc keeps for use again: it gives back what is more than 64 MiB of them.

    Measured on four networks, streamed and whole, it was about twice what the layer at work takes, or the
    pass of a small network.

    Args:
        work_bytes: What comes and goes while slabs, windows or tiles are computed.

    Example:
        >>> kept_by_the_allocator(1000), kept_by_the_allocator(10**9)
        (2000, 67108864)
    """
    return min(2 * work_bytes, _MOST_KEPT_BYTES)
