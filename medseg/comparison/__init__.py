"""Methods side by side on the same cases, and reports of scores as one HTML file."""

from __future__ import annotations

from medseg.comparison.report import write_report

__all__ = ["write_report"]
