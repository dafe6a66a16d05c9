"""Volumes that are read a slab at a time, and inferers that compute them so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["MemoryPlan", "Read", "SlabInferer", "Stage", "slab_ranges"]

Read = Callable[[int, int], Tensor]
"""Gives slices [start, stop) of a network's input along one axis, of shape (B, C, X, Y[, Z])."""


class Stage(Protocol):
    """Something that lies between stored voxels and written labels, and is asked for slices as needed.

    It computes as it is read, and forgets what it was asked for: slices are read in order, each once, from
    the first to the last where it is ascending, else from the last to the first.
    """

    @property
    def axis(self) -> int:
        """The spatial axis along which it is read, from 0."""
        ...

    @property
    def ascending(self) -> bool:
        """Whether slices are read from the first to the last."""
        ...

    @property
    def length(self) -> int:
        """Number of slices along the axis."""
        ...

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Slices [start, stop), of shape (C, X, Y, Z) where the axis has stop - start slices."""
        ...


@dataclass(frozen=True)
class MemoryPlan:
    """How an inferer goes through an image, and what memory that takes.

    Attributes:
        mode: ``"streaming"``, ``"sliding-window"`` or ``"overlap-tile"``.
        axis: The image's axis along which it goes, from 0.
        slab: Slices of the output that it gives at a time, at most.
        by_stage: Bytes that each part holds at the fullest moment.
        details: What else was chosen: tiles, precision, window.
    """

    mode: str
    axis: int
    slab: int
    by_stage: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> int:
        """Bytes in all, beyond the process itself, the network's weights and the image that is given."""
        return sum(self.by_stage.values())

    def as_dict(self) -> dict[str, Any]:
        """For a manifest, in JSON's types."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}


class SlabInferer(Protocol):
    """An inferer that asks for its input slab by slab, and gives scores so."""

    def plan(self, network: nn.Module, shape: tuple[int, ...]) -> MemoryPlan:
        """How it would go through an image of ``shape``, (B, C, X, Y[, Z]).

        Raises:
            ConfigError: The network does not fit this way of inference; the error says why.
            ResourceError: No way keeps to the memory limit; the error names the least that would do.
        """
        ...

    def slabs(
        self, read: Read, network: nn.Module, shape: tuple[int, ...], plan: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Compute, from the first slice along ``plan.axis`` to the last.

        Args:
            read: Gives the input's slices along that axis; asked in order, with overlaps where windows overlap.
            network: From (B, C, X, Y[, Z]) to scores (B, K, X', Y'[, Z']).
            shape: Of the whole input.
            plan: As ``plan`` gave it.

        Yields:
            The first slice and the slab of scores, (B, K, X', Y'[, Z']) with as many slices as are done.
        """
        ...


def slab_ranges(length: int, thickness: int, first: int | None = None) -> Iterator[tuple[int, int]]:
    """Cut ``length`` slices into slabs of ``thickness``; the last one may be thinner.

    Args:
        length: Slices in all.
        thickness: Slices of a slab.
        first: Slices of the first slab, if it is to be thinner than the others.

    Example:
        >>> list(slab_ranges(5, 2))
        [(0, 2), (2, 4), (4, 5)]
        >>> list(slab_ranges(5, 2, first=1))
        [(0, 1), (1, 3), (3, 5)]
    """
    begun = min(thickness if first is None else first, length)
    if begun:
        yield 0, begun
    for start in range(begun, length, thickness):
        yield start, min(start + thickness, length)
