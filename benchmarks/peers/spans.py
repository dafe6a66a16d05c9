"""Spans of time, for scripts under any Python."""

from __future__ import annotations


def covered(spans: list[tuple[float, float]]) -> float:
    """The length that spans cover together, where they overlap counted once.

    Example:
        >>> covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
        4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
