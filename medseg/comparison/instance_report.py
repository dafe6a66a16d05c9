"""The report of an evaluation of objects: which were found, and how well."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.comparison import charts
from medseg.comparison.evaluation_report import notes, stored_pictures
from medseg.comparison.page import (
    Block,
    Fact,
    Folded,
    Page,
    Section,
    Table,
    Text,
    fixed,
    with_interval,
)
from medseg.comparison.provenance import folder_name, hash_table, version_table
from medseg.errors import InputError, explain_os_errors
from medseg.evaluation.tables import INSTANCES_CSV, SUMMARY_JSON
from medseg.files import read_json

__all__ = ["InstanceFolder", "instance_page"]

_DRAWN = {
    "pq": "panoptic quality",
    "sq": "segmentation quality",
    "rq": "recognition quality",
    "aji": "aggregated Jaccard",
    "dice": "Dice of foreground",
}
_WORST_SHOWN = 10


@dataclass(frozen=True)
class InstanceFolder:
    """What ``medseg evaluate --instances`` wrote.

    Attributes:
        path: The folder.
        rows: Of ``instances.csv``.
        summary: Of ``summary.json``.
    """

    path: Path
    rows: list[dict[str, str]]
    summary: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> InstanceFolder:
        """Read it.

        Raises:
            InputError: It is no such folder, or damaged.
        """
        folder = Path(path)
        summary = read_json(folder / SUMMARY_JSON)
        file = folder / INSTANCES_CSV
        with explain_os_errors(file), file.open(newline="", encoding="utf-8") as handle:
            try:
                rows = list(csv.DictReader(handle, strict=True))
                for row in rows:
                    counts = [int(row[name]) for name in ("n_ref", "n_pred", "n_matched")]
                    numbers = [float(row[name] or "nan") for name in _DRAWN]
                    if not (row["case"] and counts and numbers):
                        raise ValueError("a row without a case")
                if not rows or not isinstance(summary["instances"], dict):
                    raise ValueError("no objects were scored")
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise InputError(
                    f"is not the table of an evaluation of objects ({error})",
                    where=file,
                    fix="evaluate again",
                ) from error
        return cls(folder, rows, summary)


def instance_page(folder: InstanceFolder, title: str | None = None) -> Page:
    """The report of an evaluation of objects.

    Args:
        folder: What was evaluated.
        title: Above everything; by default the folder's name.
    """
    summary = folder.summary
    missed, invented = _lost(folder)
    quality = summary["instances"]["pq"]
    return Page(
        title=title or f"Evaluation of objects {folder.path.resolve().name}",
        lead=f"{folder_name(summary, 'predictions')} against {folder_name(summary, 'references')}",
        facts=[
            Fact("cases", str(len(folder.rows))),
            Fact("objects in references", str(sum(int(row["n_ref"]) for row in folder.rows))),
            Fact("mean panoptic quality", fixed(quality["mean"])),
            Fact("objects missed", str(missed), tone="bad" if missed else "good"),
            Fact("objects invented", str(invented), tone="bad" if invented else "good"),
        ],
        sections=[
            Section("Failures", _failures(folder)),
            Section("Scores", [_score_table(summary)]),
            Section("Distributions", _distributions(folder)),
            Section("Worst, median and best case", _pictures(folder)),
            Section("All cases", _cases(folder)),
            Section("What was run", _what_was_run(folder)),
        ],
    )


def _lost(folder: InstanceFolder) -> tuple[int, int]:
    missed = sum(int(row["n_ref"]) - int(row["n_matched"]) for row in folder.rows)
    return missed, sum(int(row["n_pred"]) - int(row["n_matched"]) for row in folder.rows)


def _failures(folder: InstanceFolder) -> list[Block]:
    blocks: list[Block] = []
    failed = [row for row in folder.rows if row["status"] not in ("ok", "absent")]
    if failed:
        rows = [[row["case"], row["status"].replace("_", " "), row["n_ref"], row["n_pred"]] for row in failed]
        blocks.append(Text(f"In {len(failed)} cases no object was found, or there is none.", "bad"))
        blocks.append(Table(["case", "what", "reference", "prediction"], rows, text_columns=(0, 1)))
    missed, invented = _lost(folder)
    if missed or invented:
        blocks.append(
            Text(f"{missed} objects were missed and {invented} invented, at the first threshold.", "bad")
        )
    blocks += notes(folder.summary)
    return blocks or [Text("No object was missed, and none invented.", "good")]


def _score_table(summary: Mapping[str, Any]) -> Table:
    rows = [
        [
            _DRAWN.get(name, name.replace("_", " at ")),
            with_interval(told["mean"], told["interval"]),
            fixed(told["median"]),
            fixed(told["min"]),
            fixed(told["max"]),
            str(told["n_valid"]),
        ]
        for name, told in summary["instances"].items()
    ]
    columns = ["measure", "mean [95 %]", "median", "lowest", "highest", "cases"]
    return Table(columns, rows, "Means over cases", note='Behind "at": the least intersection over union.')


def _distributions(folder: InstanceFolder) -> list[Block]:
    numbers = {told: [float(row[name] or "nan") for row in folder.rows] for name, told in _DRAWN.items()}
    caption = (
        "A point is a case; the box holds the middle half, the line is the median, the diamond the mean."
    )
    return [charts.distribution(numbers, "by case", bounds=(0.0, 1.0), caption=caption)]


def _pictures(folder: InstanceFolder) -> list[Block]:
    drawn = stored_pictures(folder.path, folder.summary)
    return drawn or [Text("The evaluation drew no pictures.", "note")]


def _cases(folder: InstanceFolder) -> list[Block]:
    columns = ["case", "PQ", "Dice", "in reference", "in prediction", "matched", "status"]
    worst = sorted(folder.rows, key=lambda row: (not row["pq"], float(row["pq"] or 0.0), row["case"]))
    rows = [
        [
            row["case"],
            fixed(float(row["pq"] or "nan")),
            fixed(float(row["dice"] or "nan")),
            row["n_ref"],
            row["n_pred"],
            row["n_matched"],
            row["status"].replace("_", " "),
        ]
        for row in worst
    ]
    blocks: list[Block] = [Table(columns, rows[:_WORST_SHOWN], "Worst first", text_columns=(0, 6))]
    if len(rows) > _WORST_SHOWN:
        rest = Table(columns, rows[_WORST_SHOWN:], text_columns=(0, 6))
        blocks.append(Folded(f"{len(rows) - _WORST_SHOWN} more cases", [rest]))
    return blocks


def _what_was_run(folder: InstanceFolder) -> list[Block]:
    summary = folder.summary
    rows = [[name, str(summary[name])] for name in ("predictions", "references") if name in summary]
    thresholds = ", ".join(map(str, summary.get("iou_thresholds", ())))
    rows.append(["thresholds of intersection over union", thresholds])
    blocks: list[Block] = [Table(["what", "value"], rows, text_columns=(0, 1))]
    if isinstance(summary.get("versions"), Mapping):
        blocks.append(version_table(summary["versions"]))
    return [*blocks, hash_table([folder.path / INSTANCES_CSV, folder.path / SUMMARY_JSON], folder.path)]
