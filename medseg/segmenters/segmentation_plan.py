"""What becomes of one image, and the memory that this takes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medseg.geometry import Grid, slab_maps
from medseg.inference import MemoryPlan, SlabInferer
from medseg.inference.margins import Margins
from medseg.io.sizes import format_bytes
from medseg.postprocessing import PostprocessMemory

__all__ = ["STREAMED_LABELS", "NetworkPassage", "SegmentationPlan"]

STREAMED_LABELS = PostprocessMemory(labels=0, work=0)
"""Labels that go to their file as they come."""


@dataclass(frozen=True, kw_only=True)
class SegmentationPlan(ABC):
    """What becomes of an image on its way to labels, and the memory that this takes.

    Attributes:
        why: Why in this way.
        by_part: Bytes that each part holds at the fullest moment of the inference.
        others: Of an ensemble, the plans of the other members.
        postprocessing: What the whole label map takes while it is postprocessed, when all else is gone.
    """

    why: str
    by_part: Mapping[str, int]
    others: tuple[SegmentationPlan, ...] = ()
    postprocessing: PostprocessMemory = STREAMED_LABELS

    @property
    def peak_bytes(self) -> int:
        """Bytes in all, the process included: in the inference, or in the postprocessing after it."""
        after = self.by_part["process"] + self.postprocessing.labels + self.postprocessing.work
        return max(sum(self.by_part.values()), after)

    @abstractmethod
    def native_axis(self, grid: Grid) -> int:
        """The axis of the image's own ``grid`` along which scores are read."""

    def as_dict(self) -> dict[str, Any]:
        """For a manifest, in JSON's types."""
        return {
            "why": self.why,
            "peak_bytes": self.peak_bytes,
            "by_part": dict(self.by_part),
            "postprocessing_bytes": self.postprocessing.work,
            "others": [other.as_dict() for other in self.others],
        }

    def told(self, what: str) -> str:
        """What is gone through, in how much memory, part by part."""
        lines = [f"{what}, {format_bytes(self.peak_bytes)} in all ({self.why})"]
        return "\n".join([*lines, *(f"  {name}: {format_bytes(n)}" for name, n in self.by_part.items())])


@dataclass(frozen=True, kw_only=True)
class NetworkPassage(SegmentationPlan):
    """An image's way through a network, slab by slab.

    Attributes:
        inferer: Goes through the network grid.
        margins: Zeros around images that are smaller than the training's patch.
        network_grid: Where the network sees the image.
        inference: How the inferer goes through the image on the network grid.
    """

    inferer: SlabInferer
    margins: Margins
    network_grid: Grid
    inference: MemoryPlan

    @property
    def times_computed(self) -> float:
        """How many times each voxel of the network grid is computed, on average; of streams and windows."""
        details = self.inference.details
        if self.inference.mode == "sliding-window":
            seen = details["windows"] * math.prod(details["window"])
            return float(seen / self.network_grid.voxel_count)
        return float(details.get("computed", 1.0))

    def native_axis(self, grid: Grid) -> int:
        """The axis of the image's own ``grid`` along which scores are read."""
        maps = slab_maps(self.network_grid, grid)
        return [axis_map.source_axis for axis_map in maps].index(self.inference.axis)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest, in JSON's types."""
        size = list(self.network_grid.shape)
        return {**super().as_dict(), "network_size": size, "inference": self.inference.as_dict()}

    def __str__(self) -> str:
        size = " x ".join(map(str, self.network_grid.shape))
        return "\n".join([self.told(f"{size} voxels on the network grid"), str(self.inference)])
