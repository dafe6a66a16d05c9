"""Methods of segmentation behind one interface."""

from medseg.segmenters.cases import Segmented, instances_path, open_image, segment_case, segment_to_file
from medseg.segmenters.ensemble import EnsembleSegmenter
from medseg.segmenters.loading import load_segmenter
from medseg.segmenters.network import NetworkSegmenter
from medseg.segmenters.passage import MODES
from medseg.segmenters.predict import CaseOutcome, exit_code, predict_cases, predict_jobs, write_summary
from medseg.segmenters.protocol import CaseLike, Segmenter
from medseg.segmenters.refined import RefinedSegmenter
from medseg.segmenters.segmentation_plan import NetworkPassage, SegmentationPlan
from medseg.segmenters.validation import validation_cases
from medseg.segmenters.weights import read_checkpoint, read_weights

__all__ = [
    "MODES",
    "CaseLike",
    "CaseOutcome",
    "EnsembleSegmenter",
    "NetworkPassage",
    "NetworkSegmenter",
    "RefinedSegmenter",
    "SegmentationPlan",
    "Segmented",
    "Segmenter",
    "exit_code",
    "instances_path",
    "load_segmenter",
    "open_image",
    "predict_cases",
    "predict_jobs",
    "read_checkpoint",
    "read_weights",
    "segment_case",
    "segment_to_file",
    "validation_cases",
    "write_summary",
]
