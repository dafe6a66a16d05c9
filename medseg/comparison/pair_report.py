"""The report of two predictions of the same references, as ``medseg evaluate`` compares them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.comparison import charts
from medseg.comparison.case_pictures import case_picture
from medseg.comparison.evaluation_folder import EvaluationFolder
from medseg.comparison.evaluation_report import class_table, failure_rows, volume_charts, what_was_run
from medseg.comparison.page import (
    Block,
    Charts,
    Fact,
    Folded,
    Page,
    Section,
    Table,
    Text,
    fixed,
    p_value,
    with_interval,
)
from medseg.comparison.provenance import folder_name
from medseg.errors import InputError
from medseg.evaluation import Score
from medseg.evaluation.comparison import COMPARISON_JSON
from medseg.files import read_json

__all__ = ["PairFolder", "pair_page"]

_MOST_ROWS = 20


@dataclass(frozen=True)
class PairFolder:
    """What ``medseg evaluate`` wrote of two predictions.

    Attributes:
        path: The folder.
        sides: Both evaluations, by name.
        compared: Of ``comparison.json``: a row for each class and metric.
        told: What else ``comparison.json`` says.
    """

    path: Path
    sides: Mapping[str, EvaluationFolder]
    compared: list[dict[str, Any]]
    told: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PairFolder:
        """Read it.

        Raises:
            InputError: It is no such folder, or damaged.
        """
        file = Path(path) / COMPARISON_JSON
        told = read_json(file)
        try:
            names = [Path(str(name)).name for name in told["names"]]
            compared = [
                {**row, "mean": {name: row["mean"][name] for name in names}} for row in told["compared"]
            ]
            for row in compared:
                for key in (
                    "of",
                    "metric",
                    "n",
                    "mean_difference",
                    "interval",
                    "p_value",
                    "p_holm",
                    "favours",
                ):
                    row[key]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"is not the comparison of two evaluations ({error} is missing)",
                where=file,
                fix="evaluate again",
            ) from error
        sides = {name: EvaluationFolder.open(Path(path) / name) for name in names}
        return cls(Path(path), sides, compared, told)


def pair_page(
    folder: PairFolder, images: str | os.PathLike[str] | None = None, title: str | None = None
) -> Page:
    """The report of two predictions.

    Args:
        folder: What was compared.
        images: Folder of the cases' images; those that the evaluations drew on, if left out.
        title: Above everything; by default the names of both.

    Raises:
        InputError: ``images`` holds no image of any case.
    """
    first, second = folder.sides
    colours = charts.palette(list(folder.sides))
    return Page(
        title=title or f"{first} and {second}",
        lead=f"against {folder_name(folder.told, 'references')}",
        facts=_facts(folder),
        sections=[
            Section("Failures", _failures(folder)),
            Section("Which is better", [_compared(folder)]),
            Section("Scores", [_scores_of(name, side) for name, side in folder.sides.items()]),
            Section("Distributions by class", _distributions(folder, colours)),
            Section("Volumes", _volumes(folder, colours)),
            Section("Worst, median and best case", _pictures(folder, images)),
            Section(
                "What was run", [Folded(name, what_was_run(side)) for name, side in folder.sides.items()]
            ),
        ],
    )


def _facts(folder: PairFolder) -> list[Fact]:
    facts = [Fact("cases in common", str(folder.told.get("n_cases")))]
    for name, side in folder.sides.items():
        facts.append(Fact(f"mean Dice, {name}", fixed(side.summary["over_classes"]["dice"]["mean"])))
    failed = sum(len(failure_rows(side.table.scores)) for side in folder.sides.values())
    return [*facts, Fact("structures failed", str(failed), tone="bad" if failed else "good")]


def _failures(folder: PairFolder) -> list[Block]:
    rows = [[name, *row] for name, side in folder.sides.items() for row in failure_rows(side.table.scores)]
    blocks: list[Block] = [
        Text(f"{told} {', '.join(map(str, cases[:_MOST_ROWS]))}", "bad")
        for told, cases in folder.told.get("left_out", {}).items()
        if cases
    ]
    columns = ["prediction", "case", "structure", "what", "reference (ml)", "prediction (ml)"]
    if rows:
        blocks.append(Text(f"{len(rows)} structures were missed or invented; each scores 0.", "bad"))
        blocks.append(Table(columns, rows[:_MOST_ROWS], text_columns=(0, 1, 2, 3)))
    if len(rows) > _MOST_ROWS:
        rest = Table(columns, rows[_MOST_ROWS:], text_columns=(0, 1, 2, 3))
        blocks.append(Folded(f"{len(rows) - _MOST_ROWS} more", [rest]))
    return blocks or [Text("No structure was missed, and none invented.", "good")]


def _compared(folder: PairFolder) -> Table:
    first, second = folder.sides
    columns = ["of", "metric", first, second, "mean difference [95 %]", "p", "p, Holm", "better", "cases"]
    rows = [
        [
            str(row["of"]),
            str(row["metric"]),
            fixed(row["mean"][first]),
            fixed(row["mean"][second]),
            with_interval(row["mean_difference"], row["interval"], 4),
            p_value(row["p_value"]),
            p_value(row["p_holm"]),
            str(row["favours"] or "neither"),
            str(row["n"]),
        ]
        for row in folder.compared
    ]
    note = f"Differences are {first} minus {second}. {folder.told.get('test', '')}."
    return Table(columns, rows, note=note, text_columns=(0, 1, 7))


def _scores_of(name: str, side: EvaluationFolder) -> Table:
    table = class_table(side.summary, side.table.options)
    return Table(table.columns, table.rows, name, table.text_columns, table.marked, table.note)


def _distributions(folder: PairFolder, colours: Mapping[str, str]) -> list[Block]:
    first = next(iter(folder.sides.values()))
    found = []
    for entry in first.table.labels.foreground:
        numbers = {
            name: [score.dice for score in side.table.of_label(entry.value)]
            for name, side in folder.sides.items()
        }
        found.append(charts.distribution(numbers, f"Dice, {entry.name}", colours, bounds=(0.0, 1.0)))
    caption = (
        "A point is a case; the box holds the middle half, the line is the median, the diamond the mean."
    )
    return [Charts(found), Text(caption, "note")]


def _volumes(folder: PairFolder, colours: Mapping[str, str]) -> list[Block]:
    scores: dict[str, list[Score]] = {}
    shade = {}
    for name, side in folder.sides.items():
        for entry in side.table.labels.foreground:
            scores[f"{name}: {entry.name}"] = list(side.table.of_label(entry.value))
            shade[f"{name}: {entry.name}"] = colours[name]
    return volume_charts(scores, shade)


def _pictures(folder: PairFolder, images: str | os.PathLike[str] | None) -> list[Block]:
    first = next(iter(folder.sides.values()))
    pairs = {name: side.pairs() for name, side in folder.sides.items()}
    tables = {name: side.table.case_means("dice") for name, side in folder.sides.items()}
    found = first.images(images)
    means = {
        case: sum(table[case] for table in tables.values()) / len(tables)
        for case in first.table.cases()
        if all(case in side for side in pairs.values())
        and not any(math.isnan(table.get(case, math.nan)) for table in tables.values())
    }
    if not means:
        return [Text("The label maps are not where they were, so no error maps can be drawn.", "note")]
    labels = first.declared() or first.table.labels
    ranked = sorted(means, key=lambda case: (means[case], case))
    blocks: list[Block] = []
    places = dict.fromkeys([0, len(ranked) // 2, len(ranked) - 1])
    for place, rank in zip(places, ("worst", "median", "best"), strict=False):
        case = ranked[place]
        predictions = {
            f"{name} {tables[name][case]:.3f}": side[case].prediction for name, side in pairs.items()
        }
        reference = next(iter(pairs.values()))[case].reference
        caption = f"{case}, {rank} of {len(ranked)}: Dice of both {means[case]:.3f}"
        blocks.append(case_picture(case, reference, predictions, labels, found.get(case), caption))
    return blocks
