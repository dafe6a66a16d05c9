"""A layer as the kernel that computes it sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.inference.streaming.chunks import Chunks, Scratch, gather
from medseg.network_graph import Node
from medseg.ranges import AxisRange

__all__ = ["Kernel", "Layer", "refuse"]

Kernel = Callable[[Sequence[Chunks], int, int], Any]
"""From what a layer reads to its own slices [start, stop); of a pooling with indices, to both."""


@dataclass(frozen=True)
class Layer:
    """One layer: spatial axes in the stream's order, the streamed one first; weights at hand.

    Attributes:
        node: The layer.
        sources: What it reads.
        order: The volume's spatial axes in the order of the stream's tensors.
        weights: Parameters and buffers by argument, in the order of the stream's axes.
        dtype: What it computes in, if it is of floating point.
        device: Where it computes.
        scratch: Where it may bring together what it reads, if it keeps nothing of that.
    """

    node: Node
    sources: tuple[Node, ...]
    order: tuple[int, ...]
    weights: Mapping[str, Tensor]
    dtype: torch.dtype
    device: torch.device
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def ranges(self) -> tuple[AxisRange, ...]:
        """One for each spatial axis of the stream's tensors."""
        return tuple(self.node.ranges[axis] for axis in self.order)

    @property
    def computed(self) -> torch.dtype:
        """The type of its result."""
        return self.dtype if self.node.dtype.is_floating_point else self.node.dtype

    def gather(self, sources: Sequence[Chunks], start: int, stop: int, border: float = 0.0) -> Tensor:
        """Slices of what it reads, see :func:`~medseg.inference.streaming.chunks.gather`, in its own type."""
        dtype = self.dtype if sources[0].like.is_floating_point() else None
        return gather(sources, start, stop, border=border, dtype=dtype)

    def gather_for_now(self, sources: Sequence[Chunks], start: int, stop: int, border: float = 0.0) -> Tensor:
        """As :meth:`gather`, in memory that the next layer will overwrite."""
        dtype = self.dtype if sources[0].like.is_floating_point() else None
        return gather(sources, start, stop, border=border, dtype=dtype, scratch=self.scratch)

    def length(self, source: int = 0) -> int:
        """Slices of what it reads."""
        return self.sources[source].size[self.order[0]]

    def plane(self, source: int | None = None) -> tuple[int, ...]:
        """Voxels of a slice: of its own, or of what it reads."""
        node = self.node if source is None else self.sources[source]
        return tuple(node.size[axis] for axis in self.order[1:])


def refuse(node: Node, why: str) -> NoReturn:
    """Say which layer cannot be streamed.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(
        f"layer '{node.title}' ({node.kind}) {why}",
        fix="replace the layer, or run the network on sliding windows",
    )
