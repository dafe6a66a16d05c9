"""Methods that learn nothing: what a network has to beat, and what can clean its class scores."""

from __future__ import annotations

from medseg.classical.dense_crf import dense_crf, dense_crf_bytes
from medseg.classical.graph_cut import cut_energy, graph_cut, graph_cut_bytes
from medseg.classical.otsu import multi_otsu, otsu_baseline, otsu_thresholds

__all__ = [
    "cut_energy",
    "dense_crf",
    "dense_crf_bytes",
    "graph_cut",
    "graph_cut_bytes",
    "multi_otsu",
    "otsu_baseline",
    "otsu_thresholds",
]
