"""Methods that learn nothing: what a network has to beat."""

from __future__ import annotations

from medseg.classical.otsu import multi_otsu, otsu_baseline, otsu_thresholds

__all__ = ["multi_otsu", "otsu_baseline", "otsu_thresholds"]
