"""How good a segmentation is, as plain numbers of plain arrays (NumPy only)."""

from __future__ import annotations

from medseg.metrics.aggregate import Summary, summarize
from medseg.metrics.overlap import (
    Overlap,
    confusion,
    frequency_weighted_iou,
    mean_iou,
    overlap_metrics,
    overlaps_of,
    pixel_accuracy,
)

__all__ = [
    "Overlap",
    "Summary",
    "confusion",
    "frequency_weighted_iou",
    "mean_iou",
    "overlap_metrics",
    "overlaps_of",
    "pixel_accuracy",
    "summarize",
]
