"""Running networks over whole images, and bringing their scores back onto the native grid."""

from medseg.inference.compute import Compute, choose_compute
from medseg.inference.image import NetworkImage
from medseg.inference.labelling import LabelArray, best_of, label_map, write_labels
from medseg.inference.mirroring import Mirrored
from medseg.inference.overlap_tile import OverlapTileInferer
from medseg.inference.planning import plan_memory
from medseg.inference.restore import RestoredScores, best_class
from medseg.inference.slabs import MemoryPlan, Read, SlabInferer, Stage, Tile, slab_ranges
from medseg.inference.sliding_window import SlidingWindowInferer
from medseg.inference.statistics import image_statistics
from medseg.inference.streaming import StreamingInferer

__all__ = [
    "Compute",
    "LabelArray",
    "MemoryPlan",
    "Mirrored",
    "NetworkImage",
    "OverlapTileInferer",
    "Read",
    "RestoredScores",
    "SlabInferer",
    "SlidingWindowInferer",
    "Stage",
    "StreamingInferer",
    "Tile",
    "best_class",
    "best_of",
    "choose_compute",
    "image_statistics",
    "label_map",
    "plan_memory",
    "slab_ranges",
    "write_labels",
]
