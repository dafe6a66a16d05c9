"""Scores of label maps against references: case by case, class by class, and what is missing."""

from __future__ import annotations

from medseg.evaluation.folders import Evaluation, evaluate_folders, labels_for
from medseg.evaluation.pairs import Pair, Pairing, find_pairs
from medseg.evaluation.score import METRICS, Score, ScoreTable, Status, evaluate
from medseg.evaluation.statistics import Interval, PairedComparison, bca_interval, compare_paired, holm
from medseg.evaluation.tables import summary_of, write_metrics

__all__ = [
    "METRICS",
    "Evaluation",
    "Interval",
    "Pair",
    "PairedComparison",
    "Pairing",
    "Score",
    "ScoreTable",
    "Status",
    "bca_interval",
    "compare_paired",
    "evaluate",
    "evaluate_folders",
    "find_pairs",
    "holm",
    "labels_for",
    "summary_of",
    "write_metrics",
]
