"""How good a segmentation is, as plain numbers of plain arrays (NumPy only)."""

from __future__ import annotations

from medseg.metrics.aggregate import Summary, summarize
from medseg.metrics.overlap import Overlap, confusion, overlap_metrics, overlaps_of

__all__ = ["Overlap", "Summary", "confusion", "overlap_metrics", "overlaps_of", "summarize"]
