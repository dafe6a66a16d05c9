"""The folder that an evaluation wrote, read back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import InputError, MedsegError
from medseg.evaluation import Pair, ScoreTable, ScoringOptions, declared_labels, find_pairs, summary_of
from medseg.evaluation.pairs import find_images
from medseg.evaluation.tables import METRICS_CSV, SUMMARY_JSON, read_metrics
from medseg.files import read_json
from medseg.labels import LabelScheme

__all__ = ["EvaluationFolder"]

_TOLD = (
    "options",
    "flipped",
    "resampled",
    "sheared",
    "partly_labelled",
    "lesions",
    "without_prediction",
    "without_reference",
    "versions",
    "predictions",
    "references",
    "labels",
    "overlays",
)


@dataclass(frozen=True)
class EvaluationFolder:
    """What ``medseg evaluate`` wrote.

    Attributes:
        path: The folder.
        table: The scores.
        summary: What the scores say altogether, and what else ``summary.json`` tells.
    """

    path: Path
    table: ScoreTable
    summary: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> EvaluationFolder:
        """Read it.

        Raises:
            InputError: It is no such folder, or damaged.
        """
        folder = Path(path)
        told = read_json(folder / SUMMARY_JSON)
        try:
            stored = told["options"]
            options = ScoringOptions(
                surface=stored["surface"],
                percentile=stored["percentile"],
                tolerance_mm=stored["tolerance_mm"],
                lesions=tuple(stored["lesions"]),
            )
            declared = {int(entry["label"]): str(entry["name"]) for entry in told["classes"]}
            scores = read_metrics(folder / METRICS_CSV, options)
            labels = LabelScheme.from_names(declared)
            unknown = {score.label for score in scores} - declared.keys()
            if unknown or not scores or len(scores) != told["n_cases"] * len(declared):
                raise ValueError("it does not belong to metrics.csv")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"is not the summary of an evaluation ({error})",
                where=folder / SUMMARY_JSON,
                fix="evaluate again",
            ) from error
        table = ScoreTable(scores, labels, options)
        # What the scores tell is told anew; the rest, as which cases were flipped, is in the file alone.
        return cls(folder, table, {**summary_of(table), **{key: told[key] for key in _TOLD if key in told}})

    def pairs(self) -> dict[str, Pair]:
        """The files of each case, where they still are."""
        try:
            found = find_pairs(self.summary["predictions"], self.summary["references"])
        except (MedsegError, KeyError, TypeError):
            return {}
        return {pair.case: pair for pair in found.complete()}

    def images(self, images: str | os.PathLike[str] | None) -> dict[str, Path]:
        """Images by case: those given, or those that the evaluation drew on."""
        cases = list(self.table.cases())
        if images is not None:
            return find_images(images, cases)
        drawn = (entry.get("image") for entry in self.summary.get("overlays", ()))
        folder = next((Path(image).parent for image in drawn if image), None)
        try:
            return {} if folder is None else find_images(folder, cases)
        except MedsegError:
            return {}

    def models(self) -> list[Path]:
        """The runs that predicted, where the predictions' own summary tells."""
        try:
            told = read_json(Path(self.summary["predictions"]) / SUMMARY_JSON)["model"]
        except (MedsegError, KeyError, TypeError):
            return []
        return [Path(part) for part in str(told).split(", ")]

    def declared(self) -> LabelScheme | None:
        """The classes as the data set declares them, with the value of what nobody has labelled."""
        told = Path(str(self.summary.get("labels", "")))
        try:
            return declared_labels(self.summary["references"], told if told.is_file() else None)[0]
        except (MedsegError, KeyError):
            return None
