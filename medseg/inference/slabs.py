"""Volumes that are read a slab at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

__all__ = ["Stage", "slab_ranges"]


class Stage(Protocol):
    """Something that lies between stored voxels and written labels, and is asked for slices as needed."""

    @property
    def length(self) -> int:
        """Number of slices along the last axis."""
        ...

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Slices [start, stop), of shape (C, X, Y, stop - start)."""
        ...


def slab_ranges(length: int, thickness: int) -> Iterator[tuple[int, int]]:
    """Cut ``length`` slices into slabs of ``thickness``; the last one may be thinner.

    Example:
        >>> list(slab_ranges(5, 2))
        [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, length, thickness):
        yield start, min(start + thickness, length)
