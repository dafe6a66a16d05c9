"""Evaluate a folder of predictions: find, check, score, write."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.data.layouts import DATASET_JSON
from medseg.data.listings import Document
from medseg.evaluation.case import read_pair
from medseg.evaluation.grids import check_pairs
from medseg.evaluation.lesions import lesion_classes
from medseg.evaluation.options import ScoringOptions
from medseg.evaluation.overlays import Pictures, draw_overlays, rank_cases
from medseg.evaluation.pairs import Pair, Pairing, find_pairs
from medseg.evaluation.scoring import ScoreTable, score_checked
from medseg.evaluation.summary import summary_of
from medseg.evaluation.tables import remove_former, require_own_folder, write_metrics
from medseg.files import output_folder
from medseg.labels import LabelScheme
from medseg.progress import Progress
from medseg.runs.bundle import BundleFolder, is_bundle
from medseg.volume import Volume

__all__ = ["Evaluation", "declared_labels", "evaluate_folders"]


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_folders`` found.

    Attributes:
        table: The scores.
        pairing: Which files belong together, and which stand alone.
        labels_source: Where the classes' names come from, for people.
        summary: What ``summary.json`` holds.
    """

    table: ScoreTable
    pairing: Pairing
    labels_source: str
    summary: dict[str, Any]


def evaluate_folders(
    pred: str | os.PathLike[str],
    ref: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    require_all: bool = False,
    options: ScoringOptions | None = None,
    lesions: Sequence[str] = (),
    pictures: Pictures | None = None,
    jobs: int | None = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a folder of predictions against a folder of references and write the tables to ``out``.

    Args:
        pred: Folder of label maps, or one file.
        ref: Folder of label maps of the same names, or one file.
        out: Folder for ``metrics.csv``, ``summary.json`` and the like; if scoring fails, it is not made.
        labels: ``dataset.json`` that declares the classes; see ``declared_labels`` for the default. Without
            any, the values that the files hold are the classes, named "label 1" and so on.
        require_all: Score each reference that has no prediction as a failure, instead of naming it in the
            summary.
        options: What is measured.
        lesions: Names or values of classes whose lesions are counted, for ``lesions.csv``.
        pictures: Draw the worst, the median and the best case into ``overlays/``.
        jobs: Cases at a time; as for ``evaluate``.
        progress: Shows how far it is.

    Raises:
        InputError: Files are missing, damaged or hold undeclared values.
        GeometryError: The grids of a pair differ.
        ResourceError: ``out`` cannot be written.
        ConfigError: Pictures cannot be drawn.
    """
    require_own_folder(out, pred, ref)
    pairing = find_pairs(pred, ref)
    pairs = pairing.complete() if require_all else pairing.pairs
    options = options or ScoringOptions()
    voxels = check_pairs(pairs, resample_prediction=options.resample_prediction)
    images = {} if pictures is None else pictures.find(pairs)
    scheme, source = declared_labels(ref, labels)
    options = replace(options, lesions=options.lesions + lesion_classes(lesions, scheme))
    with output_folder(out) as folder:
        table = score_checked(pairs, voxels, scheme, options=options, jobs=jobs, progress=progress)
        summary = summary_of(
            table,
            without_prediction=() if require_all else [pair.case for pair in pairing.without_prediction],
            without_reference=[path.name for path in pairing.without_reference],
        )
        summary |= {"predictions": str(pred), "references": str(ref), "labels": source}
        summary["overlays"] = drawn = []
        if pictures is not None:
            means = table.case_means("dice")
            worst_first = {case: means[case] for case in table.worst_cases() if not math.isnan(means[case])}
            ranked = rank_cases(worst_first, pairs, "mean Dice")
            drawn += draw_overlays(ranked, table.labels, _label_maps, images, folder)
        written = write_metrics(table, folder, summary)
        remove_former(folder, {*written, *(entry["file"] for entry in drawn)})
    return Evaluation(table, pairing, source, summary)


def declared_labels(
    ref: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None
) -> tuple[LabelScheme | None, str]:
    """The classes that a ``dataset.json`` declares.

    Args:
        ref: The references' folder. Without ``labels``, a ``dataset.json`` in it or beside it counts.
        labels: A ``dataset.json``, a folder that holds one (such as a model of nnU-Net's), or the folder of a
            MONAI bundle.

    Returns:
        The classes, ``None`` if none are declared; and where they come from, for people.

    Raises:
        InputError: The file declares no labels.
    """
    if labels is not None:
        declared = Path(labels)
        if declared.is_dir() and is_bundle(declared):
            return BundleFolder.open(declared).labels(), str(declared)
        path = declared / DATASET_JSON if declared.is_dir() else declared
        return Document(path).labels(), str(path)
    folder = Path(ref) if Path(ref).is_dir() else Path(ref).parent
    for path in (folder / DATASET_JSON, folder.absolute().parent / DATASET_JSON):
        if path.is_file():
            return Document(path).labels(), str(path)
    return None, "the values found"


def _label_maps(pair: Pair) -> tuple[Volume, Volume]:
    reference, prediction, _ = read_pair(pair)
    return reference, prediction
