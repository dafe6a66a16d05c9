"""Scores of label maps against references: case by case, class by class, and what is missing."""

from __future__ import annotations

from medseg.evaluation.case import CaseNotes
from medseg.evaluation.comparison import Compared, Comparison, Measure, compare_folders, compare_measures
from medseg.evaluation.folders import Evaluation, declared_labels, evaluate_folders
from medseg.evaluation.instances import (
    InstanceEvaluation,
    InstanceRow,
    InstanceTable,
    ThresholdScore,
    evaluate_instance_folders,
)
from medseg.evaluation.lesions import LesionRow
from medseg.evaluation.options import ScoringOptions
from medseg.evaluation.orientation import Flip, find_flip
from medseg.evaluation.overlays import Pictures
from medseg.evaluation.pairs import Pair, Pairing, find_pairs
from medseg.evaluation.score import METRICS, Score, Status
from medseg.evaluation.scoring import ScoreTable, evaluate
from medseg.evaluation.statistics import Interval, PairedComparison, bca_interval, compare_paired, holm
from medseg.evaluation.summary import summary_of
from medseg.evaluation.tables import write_metrics

__all__ = [
    "METRICS",
    "CaseNotes",
    "Compared",
    "Comparison",
    "Evaluation",
    "Flip",
    "InstanceEvaluation",
    "InstanceRow",
    "InstanceTable",
    "Interval",
    "LesionRow",
    "Measure",
    "Pair",
    "PairedComparison",
    "Pairing",
    "Pictures",
    "Score",
    "ScoreTable",
    "ScoringOptions",
    "Status",
    "ThresholdScore",
    "bca_interval",
    "compare_folders",
    "compare_measures",
    "compare_paired",
    "declared_labels",
    "evaluate",
    "evaluate_folders",
    "evaluate_instance_folders",
    "find_flip",
    "find_pairs",
    "holm",
    "summary_of",
    "write_metrics",
]
