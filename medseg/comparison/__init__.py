"""Methods side by side on the same cases, and reports of scores as one HTML file."""

from __future__ import annotations

from medseg.comparison.compare import CompareOptions, compare
from medseg.comparison.folder import ComparisonFolder
from medseg.comparison.ranks import MethodRank, rank_methods
from medseg.comparison.report import write_report

__all__ = ["CompareOptions", "ComparisonFolder", "MethodRank", "compare", "rank_methods", "write_report"]
