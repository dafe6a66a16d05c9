"""Evaluate a folder of predictions: find, check, score, write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.layouts import DATASET_JSON
from medseg.data.listings import Document
from medseg.errors import InputError
from medseg.evaluation.pairs import Pair, Pairing, find_pairs
from medseg.evaluation.score import ScoreTable, check_pairs, evaluate
from medseg.evaluation.tables import summary_of, write_metrics
from medseg.files import output_folder
from medseg.io import read_volume
from medseg.labels import LabelScheme
from medseg.progress import Progress

__all__ = ["Evaluation", "evaluate_folders", "labels_for"]


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
    progress: Progress | None = None,
) -> Evaluation:
    """Score a folder of predictions against a folder of references and write the tables to ``out``.

    Args:
        pred: Folder of label maps, or one file.
        ref: Folder of label maps of the same names, or one file.
        out: Folder for ``metrics.csv`` and ``summary.json``; if scoring fails, it is not made.
        labels: ``dataset.json`` that declares the classes; see ``labels_for`` for the default.
        require_all: Score each reference that has no prediction as a failure, instead of naming it in the
            summary.
        progress: Shows how far it is.

    Raises:
        InputError: Files are missing, damaged or hold undeclared values.
        GeometryError: The grids of a pair differ.
        ResourceError: ``out`` cannot be written.
    """
    pairing = find_pairs(pred, ref)
    pairs = pairing.complete() if require_all else pairing.pairs
    check_pairs(pairs)
    with output_folder(out):
        scheme, source = labels_for(ref, pairs, labels)
        table = evaluate(pairs, scheme, progress=progress)
        summary = summary_of(
            table,
            without_prediction=() if require_all else [pair.case for pair in pairing.without_prediction],
            without_reference=[path.name for path in pairing.without_reference],
        )
        summary |= {"predictions": str(pred), "references": str(ref), "labels": source}
        write_metrics(table, out, summary)
    return Evaluation(table, pairing, source, summary)


def labels_for(
    ref: str | os.PathLike[str], pairs: Sequence[Pair], labels: str | os.PathLike[str] | None = None
) -> tuple[LabelScheme, str]:
    """The classes to score: as declared, or else as found.

    Args:
        ref: The references' folder. Without ``labels``, a ``dataset.json`` in it or beside it counts.
        pairs: What is to be compared. Without any ``dataset.json``, the values that their files hold are
            the classes, named "label 1" and so on.
        labels: A ``dataset.json``, or a folder that holds one.

    Returns:
        The classes, and where they come from.

    Raises:
        InputError: The file declares no labels, or a label map holds a value that is not a whole number.
    """
    if labels is not None:
        declared = Path(labels)
        path = declared / DATASET_JSON if declared.is_dir() else declared
        return Document(path).labels(), str(path)
    folder = Path(ref) if Path(ref).is_dir() else Path(ref).parent
    for path in (folder / DATASET_JSON, folder.absolute().parent / DATASET_JSON):
        if path.is_file():
            return Document(path).labels(), str(path)
    files = [path for pair in pairs for path in (pair.prediction, pair.reference) if path is not None]
    values = set().union(*(_values_in(path) for path in files)) - {0}
    if not values:
        raise InputError("no label map holds any class", where=ref, fix="check the files, or give --labels")
    return LabelScheme.from_names({value: f"label {value}" for value in values}), "the values found"


def _values_in(path: Path) -> set[int]:
    present = np.unique(read_volume(path).array)
    if not np.isfinite(present).all() or (present != np.round(present)).any() or present[0] < 0:
        raise InputError(
            "is no label map: it holds values that are not 0, 1, 2, …", where=path, fix="check the path"
        )
    return {int(value) for value in present}
