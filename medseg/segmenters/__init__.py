"""Methods of segmentation behind one interface."""

from medseg.segmenters.cases import read_image, segment_case
from medseg.segmenters.ensemble import EnsembleSegmenter
from medseg.segmenters.loading import load_segmenter, read_weights
from medseg.segmenters.network import NetworkSegmenter
from medseg.segmenters.predict import CaseOutcome, exit_code, predict_cases, predict_jobs, write_summary
from medseg.segmenters.protocol import CaseLike, Segmenter
from medseg.segmenters.validation import validation_cases

__all__ = [
    "CaseLike",
    "CaseOutcome",
    "EnsembleSegmenter",
    "NetworkSegmenter",
    "Segmenter",
    "exit_code",
    "load_segmenter",
    "predict_cases",
    "predict_jobs",
    "read_image",
    "read_weights",
    "segment_case",
    "validation_cases",
    "write_summary",
]
