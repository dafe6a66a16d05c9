"""What an evaluation leaves behind: tables in CSV with every digit, and ``summary.json``."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from medseg.errors import InputError, explain_os_errors
from medseg.evaluation.lesions import LesionRow
from medseg.evaluation.options import ScoringOptions
from medseg.evaluation.overlays import OVERLAYS, RANKS
from medseg.evaluation.score import Score, Status
from medseg.evaluation.scoring import ScoreTable
from medseg.evaluation.summary import summary_of
from medseg.files import atomic_path, write_json

__all__ = [
    "INSTANCES_CSV",
    "LESIONS_CSV",
    "METRICS_CSV",
    "SUMMARY_JSON",
    "read_metrics",
    "remove_former",
    "require_own_folder",
    "write_csv",
    "write_metrics",
]

METRICS_CSV = "metrics.csv"
LESIONS_CSV = "lesions.csv"
INSTANCES_CSV = "instances.csv"
SUMMARY_JSON = "summary.json"


def write_metrics(
    table: ScoreTable, out: str | os.PathLike[str], summary: dict[str, Any] | None = None
) -> tuple[str, ...]:
    """Write ``metrics.csv`` and ``summary.json``, and ``lesions.csv`` if lesions were counted.

    Args:
        table: The scores. An undefined one is an empty field.
        out: The folder; made if need be. Each file is written whole or not at all.
        summary: What ``summary_of`` gave, perhaps with more; by default the summary of ``table``.

    Returns:
        The names of the files.

    Raises:
        ResourceError: The folder cannot be written.
    """
    folder = Path(out)
    names = [field.name for field in fields(Score)]
    columns = [table.options.column(name) for name in names]
    rows = ([getattr(score, name) for name in names] for score in table.scores)
    write_csv(folder / METRICS_CSV, columns, rows)
    written = [METRICS_CSV, SUMMARY_JSON]
    if table.options.lesions:
        written.append(LESIONS_CSV)
        names = [field.name for field in fields(LesionRow)]
        write_csv(
            folder / LESIONS_CSV, names, ([getattr(row, name) for name in names] for row in table.lesions)
        )
    write_json(summary_of(table) if summary is None else summary, folder / SUMMARY_JSON)
    return tuple(written)


def read_metrics(path: str | os.PathLike[str], options: ScoringOptions | None = None) -> tuple[Score, ...]:
    """Read a ``metrics.csv``.

    Args:
        path: The file.
        options: What was measured, which names a column.

    Returns:
        The scores that ``write_metrics`` wrote, in their order.

    Raises:
        InputError: The file does not exist, or is no such table.
    """
    columns = {field.name: (options or ScoringOptions()).column(field.name) for field in fields(Score)}
    with explain_os_errors(path), Path(path).open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle, strict=True)
        try:
            missing = [column for column in columns.values() if column not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"has no column '{missing[0]}'")
            return tuple(_score({name: row[column] for name, column in columns.items()}) for row in reader)
        except (ValueError, TypeError, csv.Error) as error:  # also: text that is not UTF-8
            raise InputError(
                f"is not the metrics.csv of an evaluation (line {reader.line_num}: {error})",
                where=path,
                fix="evaluate again",
            ) from error


def _score(row: dict[str, str]) -> Score:
    if None in row.values():
        raise ValueError("the row is cut off")
    numbers: dict[str, Any] = {
        name: float(text or "nan") for name, text in row.items() if name not in _NO_NUMBERS
    }
    label, status = int(row["label"]), Status(row["status"])
    return Score(case=row["case"], label=label, name=row["name"], status=status, **numbers)


_NO_NUMBERS = ("case", "label", "name", "status")


def require_own_folder(out: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Refuse to write into a folder of inputs, whose ``summary.json`` may be another's.

    Raises:
        InputError: ``out`` is one of ``inputs``.
    """
    for path in inputs:
        if Path(out).resolve() == Path(path).resolve():
            raise InputError(
                "is the folder of what is to be scored, too", where=out, fix="choose another --out"
            )


def remove_former(folder: Path, written: Collection[str]) -> None:
    """Remove tables and pictures of a former evaluation, which would pass for the new one's.

    Args:
        folder: Of the evaluation.
        written: What the new one has written, within ``folder``.
    """
    pictures = [f"{OVERLAYS}/{rank}.png" for rank in RANKS]
    for name in (METRICS_CSV, LESIONS_CSV, INSTANCES_CSV, SUMMARY_JSON, *pictures):
        if name not in written:
            (folder / name).unlink(missing_ok=True)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whole or not at all: full precision, NaN as an empty field."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_field(value) for value in row] for row in rows)


def _field(value: object) -> str:
    if isinstance(value, float):
        # repr of numpy's numbers names their type.
        return "" if math.isnan(value) else repr(float(value))
    return str(value)
