"""Volumes that are read a slab at a time, and inferers that compute them so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medseg.errors import ResourceError
from medseg.io.sizes import format_bytes

__all__ = [
    "WORK_STAGE",
    "Box",
    "MemoryPlan",
    "MemoryShortage",
    "Read",
    "SlabInferer",
    "Stage",
    "Tile",
    "slab_ranges",
]

WORK_STAGE = "at work"
"""Among the stages of a plan: what comes and goes while a slab is computed."""

Read = Callable[[int, int], Tensor]
"""Gives slices [start, stop) of a network's input along one axis, of shape (B, C, X, Y[, Z])."""


Box = tuple[tuple[int, int], ...]
"""Voxels [start, stop) along each spatial axis."""


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

    @property
    def box(self) -> Sequence[tuple[int, int]]:
        """The voxels [start, stop) along each axis that it gives: all, or a tile's; along its axis all."""
        ...

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Slices [start, stop), of shape (C, X, Y, Z) where the axis has stop - start slices."""
        ...


@dataclass(frozen=True)
class Tile:
    """A part of the plane that is gone through by itself; along the plan's axis it is whole.

    Attributes:
        reads: Of the image: what the network is given.
        scores: Of the whole's scores: what comes out, as it would of the whole image. It is ``own`` and,
            where another tile follows, one slice more, so that all between two scores lies within one tile.
        own: Of the whole's scores: what this tile alone answers for. All tiles' make up the whole.
    """

    reads: Box
    scores: Box
    own: Box


@dataclass(frozen=True)
class MemoryPlan:
    """How an inferer goes through an image, and what memory that takes.

    Attributes:
        mode: ``"streaming"``, ``"sliding-window"`` or ``"overlap-tile"``.
        axis: The image's axis along which it goes, from 0.
        slab: Slices of the output that it gives at a time, at most.
        by_stage: Bytes that each part holds at the fullest moment.
        details: What else was chosen and why: precision, window, what memory limit.
        slab_bytes: Bytes of the largest slab of scores that it gives.
        tiles: Where the plane is too large to be gone through at once, its parts, one after the other.
        tile: Of a plan for one of these parts: which.

    Example:
        >>> print(MemoryPlan("streaming", axis=2, slab=8, by_stage={"tails": 3_000_000, "work": 500_000}))
        streaming along axis 2, 8 slices at a time: 3.5 MB
          tails: 3.0 MB
          work: 500.0 kB
    """

    mode: str
    axis: int
    slab: int
    by_stage: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)
    slab_bytes: int = 0
    tiles: tuple[Tile, ...] = ()
    tile: Tile | None = None

    @property
    def peak_bytes(self) -> int:
        """Bytes in all, beyond the process itself, the network's weights and the image that is given."""
        return sum(self.by_stage.values())

    @property
    def parts(self) -> tuple[MemoryPlan, ...]:
        """What ``slabs`` is called with, one after the other: this plan, or one for each tile."""
        if not self.tiles:
            return (self,)
        return tuple(replace(self, tiles=(), tile=tile) for tile in self.tiles)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest, in JSON's types."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}

    def __str__(self) -> str:
        way = f"{self.mode} along axis {self.axis}, {self.slab} slices at a time"
        lines = [f"{way}: {format_bytes(self.peak_bytes)}"]
        lines += [f"  {name}: {format_bytes(count)}" for name, count in self.by_stage.items()]
        if self.tiles:
            lines.append(f"  plane in {len(self.tiles)} tiles, one after the other")
        lines += [f"  {name.replace('_', ' ')}: {value}" for name, value in self.details.items()]
        return "\n".join(lines)


class MemoryShortage(ResourceError):
    """No way through an image keeps to the memory limit.

    Args:
        what: As ``MedsegError``.
        where: As ``MedsegError``.
        fix: As ``MedsegError``.
        least_bytes: What the inferer would take at least; 0 if that is not known.
    """

    def __init__(
        self, what: str, *, where: str | None = None, fix: str | None = None, least_bytes: int = 0
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.least_bytes = least_bytes


class SlabInferer(Protocol):
    """An inferer that asks for its input slab by slab, and gives scores so."""

    def plan(self, network: nn.Module, shape: tuple[int, ...], *, result: bool = False) -> MemoryPlan:
        """How it would go through an image, and what memory that takes.

        Args:
            network: From (B, C, X, Y[, Z]) to scores (B, K, X', Y'[, Z']).
            shape: Of the image, (B, C, X, Y[, Z]).
            result: Count what calling the inferer takes, with the whole result in single precision or as
                labels, instead of what ``slabs`` takes.

        Raises:
            ConfigError: The network does not fit this way of inference; the error says why.
            MemoryShortage: No way keeps to the memory limit; the error names the least that would do.
        """
        ...

    def slabs(
        self, read: Read, network: nn.Module, shape: tuple[int, ...], plan: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Compute, from the first slice along ``plan.axis`` to the last.

        Args:
            read: Gives the input's slices along that axis; asked in order, with overlaps where windows do.
            network: From (B, C, X, Y[, Z]) to scores (B, K, X', Y'[, Z']).
            shape: Of the whole input.
            plan: As ``plan`` gave it, or where that has tiles one of its ``parts``.

        Yields:
            The first slice and the slab of scores, (B, K, X', Y'[, Z']) with as many slices as are done. Of
            a tile those of its ``scores``: each tile is gone through from the first slice to the last, and
            asks ``read`` for whole planes anew.
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
