"""How good a segmentation is, as plain numbers of plain arrays (NumPy and SciPy alone)."""

from __future__ import annotations

from medseg.metrics.aggregate import Summary, summarize
from medseg.metrics.boxes import box_iou, boxes_of_instances, generalised_box_iou, non_maximum_suppression
from medseg.metrics.contingency import Contingency, contingency
from medseg.metrics.detection import (
    Detections,
    MeanAveragePrecision,
    References,
    average_precision,
    match_detections,
    mean_average_precision,
)
from medseg.metrics.instances import (
    IOU_THRESHOLDS,
    InstanceMatches,
    InstancePair,
    PanopticQuality,
    aggregated_jaccard,
    match_instances,
    match_instances_at,
    panoptic_quality,
)
from medseg.metrics.lesions import DistanceCriterion, Lesion, LesionScore, OverlapCriterion, lesion_metrics
from medseg.metrics.overlap import (
    Overlap,
    confusion,
    frequency_weighted_iou,
    mean_iou,
    overlap_metrics,
    overlaps_of,
    pixel_accuracy,
)
from medseg.metrics.surface import (
    DirectedDistances,
    SurfaceDistances,
    SurfaceScore,
    surface_distances,
    surface_metrics,
    surface_metrics_of_labels,
)

__all__ = [
    "IOU_THRESHOLDS",
    "Contingency",
    "Detections",
    "DirectedDistances",
    "DistanceCriterion",
    "InstanceMatches",
    "InstancePair",
    "Lesion",
    "LesionScore",
    "MeanAveragePrecision",
    "Overlap",
    "OverlapCriterion",
    "PanopticQuality",
    "References",
    "Summary",
    "SurfaceDistances",
    "SurfaceScore",
    "aggregated_jaccard",
    "average_precision",
    "box_iou",
    "boxes_of_instances",
    "confusion",
    "contingency",
    "frequency_weighted_iou",
    "generalised_box_iou",
    "lesion_metrics",
    "match_detections",
    "match_instances",
    "match_instances_at",
    "mean_average_precision",
    "mean_iou",
    "non_maximum_suppression",
    "overlap_metrics",
    "overlaps_of",
    "panoptic_quality",
    "pixel_accuracy",
    "summarize",
    "surface_distances",
    "surface_metrics",
    "surface_metrics_of_labels",
]
