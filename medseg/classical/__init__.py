"""Methods that learn nothing: what a network has to beat, and what can clean its class scores."""

from __future__ import annotations

from medseg.classical.blobs import Blob, find_blobs, laplacian_of_gaussian
from medseg.classical.dense_crf import dense_crf, dense_crf_bytes
from medseg.classical.expected_dice import best_dice_labels, best_dice_labels_bytes, expected_dice
from medseg.classical.graph_cut import cut_energy, graph_cut, graph_cut_bytes
from medseg.classical.otsu import multi_otsu, otsu_baseline, otsu_thresholds
from medseg.classical.region_growing import confidence_region, grow_region
from medseg.classical.stable_regions import StableRegion, find_stable_regions

__all__ = [
    "Blob",
    "StableRegion",
    "best_dice_labels",
    "best_dice_labels_bytes",
    "confidence_region",
    "cut_energy",
    "dense_crf",
    "dense_crf_bytes",
    "expected_dice",
    "find_blobs",
    "find_stable_regions",
    "graph_cut",
    "graph_cut_bytes",
    "grow_region",
    "laplacian_of_gaussian",
    "multi_otsu",
    "otsu_baseline",
    "otsu_thresholds",
]
