"""What becomes of one image, and the memory that this takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medseg.geometry import Grid
from medseg.inference import MemoryPlan, SlabInferer
from medseg.inference.margins import Margins
from medseg.io.sizes import format_bytes
from medseg.postprocessing import PostprocessMemory

__all__ = ["STREAMED_LABELS", "SegmentationPlan"]

STREAMED_LABELS = PostprocessMemory(labels=0, work=0)
"""Labels that go to their file as they come."""


@dataclass(frozen=True)
class SegmentationPlan:
    """What becomes of an image on its way to labels, and the memory that this takes.

    Attributes:
        inferer: Goes through the network grid.
        margins: Zeros around images that are smaller than the training's patch.
        network_grid: Where the network sees the image.
        inference: How the inferer goes through the image on the network grid.
        why: Why in this mode.
        by_part: Bytes that each part holds at the fullest moment of the inference.
        others: Of an ensemble, the plans of the other members.
        postprocessing: What the whole label map takes while it is postprocessed, when all else is gone.
    """

    inferer: SlabInferer
    margins: Margins
    network_grid: Grid
    inference: MemoryPlan
    why: str
    by_part: Mapping[str, int]
    others: tuple[SegmentationPlan, ...] = ()
    postprocessing: PostprocessMemory = STREAMED_LABELS

    @property
    def peak_bytes(self) -> int:
        """Bytes in all, the process included: in the inference, or in the postprocessing after it."""
        after = self.by_part["process"] + self.postprocessing.labels + self.postprocessing.work
        return max(sum(self.by_part.values()), after)

    @property
    def times_computed(self) -> float:
        """How many times each voxel of the network grid is computed, on average; of streams and windows."""
        details = self.inference.details
        if self.inference.mode == "sliding-window":
            seen = details["windows"] * math.prod(details["window"])
            return float(seen / self.network_grid.voxel_count)
        return float(details.get("computed", 1.0))

    def as_dict(self) -> dict[str, Any]:
        """For a manifest, in JSON's types."""
        return {
            "why": self.why,
            "network_size": list(self.network_grid.shape),
            "peak_bytes": self.peak_bytes,
            "by_part": dict(self.by_part),
            "postprocessing_bytes": self.postprocessing.work,
            "inference": self.inference.as_dict(),
            "others": [other.as_dict() for other in self.others],
        }

    def __str__(self) -> str:
        size = " x ".join(map(str, self.network_grid.shape))
        lines = [f"{size} voxels on the network grid, {format_bytes(self.peak_bytes)} in all ({self.why})"]
        lines += [f"  {name}: {format_bytes(count)}" for name, count in self.by_part.items()]
        return "\n".join([*lines, str(self.inference)])
