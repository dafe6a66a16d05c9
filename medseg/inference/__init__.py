"""Running networks over whole images, and bringing their scores back onto the native grid."""

from medseg.inference.compute import Compute, choose_compute
from medseg.inference.restore import RestoredScores, best_class, label_map
from medseg.inference.slabs import MemoryPlan, Read, SlabInferer, Stage, slab_ranges
from medseg.inference.sliding_window import SlidingWindowInferer

__all__ = [
    "Compute",
    "RestoredScores",
    "SlidingWindowInferer",
    "Stage",
    "best_class",
    "choose_compute",
    "label_map",
    "slab_ranges",
]
