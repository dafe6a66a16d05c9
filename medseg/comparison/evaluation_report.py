"""The report of an evaluation: from its tables to a page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.comparison import charts
from medseg.comparison.case_pictures import case_picture, png_picture
from medseg.comparison.evaluation_folder import EvaluationFolder
from medseg.comparison.page import (
    NOTHING,
    Block,
    Charts,
    Fact,
    Folded,
    Page,
    Section,
    Table,
    Text,
    fixed,
    with_interval,
)
from medseg.comparison.provenance import folder_name, hash_table, run_blocks, version_table
from medseg.evaluation import Score, ScoreTable, ScoringOptions, Status
from medseg.evaluation.overlays import OVERLAYS, rank_cases
from medseg.evaluation.tables import METRICS_CSV, SUMMARY_JSON
from medseg.labels import LabelScheme

__all__ = [
    "POOR_DICE",
    "class_table",
    "evaluation_page",
    "failure_rows",
    "notes",
    "stored_pictures",
    "volume_charts",
    "what_was_run",
]

_FAILURES = {
    Status.MISSED: "missed",
    Status.SPURIOUS: "invented",
    Status.NO_PREDICTION: "no prediction",
}
POOR_DICE = 0.5
"""What is found less well is named among the failures."""

_MOST_VOLUME_CHARTS = 12
_MOST_ROWS = 30
_WORST_SHOWN = 10


def evaluation_page(
    folder: EvaluationFolder, images: str | os.PathLike[str] | None = None, title: str | None = None
) -> Page:
    """The report of an evaluation.

    Args:
        folder: What was evaluated.
        images: Folder of the cases' images; those that the evaluation drew on, if left out.
        title: Above everything; by default the folder's name.

    Raises:
        InputError: ``images`` holds no image of any case.
    """
    found = folder.images(images)
    summary, table = folder.summary, folder.table
    return Page(
        title=title or f"Evaluation {folder.path.resolve().name}",
        lead=f"{folder_name(summary, 'predictions')} against {folder_name(summary, 'references')}",
        facts=_facts(folder),
        sections=[
            Section("Failures", _failures(table, summary)),
            Section("Scores", [class_table(summary, table.options), *_lesions(summary)]),
            Section("Distributions by class", _distributions(table)),
            Section("Volumes", volume_charts(_volumes_by_class(table), _colours(table.labels))),
            Section("Worst, median and best case", _pictures(folder, found)),
            Section("All cases", _cases(table, summary)),
            Section("What was run", what_was_run(folder)),
        ],
    )


def _facts(folder: EvaluationFolder) -> list[Fact]:
    summary, table = folder.summary, folder.table
    failed = sum(score.status in _FAILURES for score in table.scores)
    over = summary["over_classes"]
    facts = [
        Fact("cases", str(summary["n_cases"])),
        Fact("classes", str(len(table.labels.foreground))),
        Fact("mean Dice", fixed(over["dice"]["mean"]), _interval_note(over["dice"])),
    ]
    if table.options.surface is not None:
        bound = table.options.column("hd95_bound_mm")
        nsd = f"at {table.options.tolerance_mm:g} mm"
        facts += [
            Fact("mean surface Dice", fixed(over["nsd"]["mean"]), nsd),
            Fact(
                f"mean {_distance_name(table.options)}",
                f"{fixed(over[bound]['mean'], 1)} mm",
                "a missed structure counts as the image's diagonal",
            ),
        ]
    facts.append(Fact("structures failed", str(failed), tone="bad" if failed else "good"))
    return facts


def _interval_note(described: Mapping[str, Any]) -> str:
    interval = described["interval"]
    return "" if interval is None else f"95 %: {fixed(interval[0])} to {fixed(interval[1])}"


def _distance_name(options: ScoringOptions) -> str:
    return f"HD{options.percentile:g}"


def failure_rows(scores: Sequence[Score]) -> list[list[str]]:
    """What is missing or invented: case, structure, what, both volumes; the largest first."""
    failed = [score for score in scores if score.status in _FAILURES]
    failed.sort(key=lambda score: (-max(score.volume_ref_ml, score.volume_pred_ml), score.case, score.label))
    return [
        [
            score.case,
            score.name,
            _FAILURES[score.status],
            fixed(score.volume_ref_ml, 2),
            fixed(score.volume_pred_ml, 2),
        ]
        for score in failed
    ]


def _failures(table: ScoreTable, summary: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    rows = failure_rows(table.scores)
    columns = ["case", "structure", "what", "reference (ml)", "prediction (ml)"]
    if rows:
        blocks.append(Text(f"{len(rows)} structures were missed or invented; each scores 0.", "bad"))
        blocks.append(Table(columns, rows[:_MOST_ROWS], text_columns=(0, 1, 2)))
        if len(rows) > _MOST_ROWS:
            rest = Table(columns, rows[_MOST_ROWS:], text_columns=(0, 1, 2))
            blocks.append(Folded(f"{len(rows) - _MOST_ROWS} more, smaller ones", [rest]))
    else:
        blocks.append(Text("No structure was missed, and none invented.", "good"))
    poor = [s for s in table.worst(len(table.scores)) if s.status is Status.OK and s.dice < POOR_DICE]
    if poor:
        poor_rows = [
            [score.case, score.name, fixed(score.dice), _distance(score)] for score in poor[:_WORST_SHOWN]
        ]
        caption = f"{len(poor)} structures found with a Dice below {POOR_DICE:g}"
        if len(poor) > _WORST_SHOWN:
            caption += f"; the worst {_WORST_SHOWN}"
        head = ["case", "structure", "Dice", f"{_distance_name(table.options)} (mm)"]
        blocks.append(Table(head, poor_rows, caption, text_columns=(0, 1)))
    return [*blocks, *notes(summary)]


def _distance(score: Score) -> str:
    return fixed(score.hd95_mm, 1)


def notes(summary: Mapping[str, Any]) -> list[Block]:
    """What else has to be said before anyone reads a mean."""
    blocks: list[Block] = [
        Text(
            f"{entry['case']} seems to be {entry['description']}: undone, its Dice would be about "
            f"{entry['dice_unflipped']:.2f} instead of {entry['dice']:.2f}.",
            "bad",
        )
        for entry in summary.get("flipped", ())
    ]
    for key, told in (
        ("without_prediction", "references have no prediction, and were not scored"),
        ("without_reference", "predictions have no reference, and were not scored"),
        ("sheared", "cases lie on sheared grids: their distances are approximate"),
        ("partly_labelled", "cases are labelled in part: their surfaces are not measured"),
    ):
        cases = summary.get(key, ())
        if cases:
            blocks.append(Text(f"{len(cases)} {told}: {', '.join(map(str, cases[:20]))}", "bad"))
    resampled = [[str(entry["case"]), str(entry["prediction"])] for entry in summary.get("resampled", ())]
    if resampled:
        caption = "Predictions that lay on another grid, and were resampled"
        blocks.append(Table(["case", "how it differed"], resampled, caption, text_columns=(0, 1)))
    return blocks


def class_table(summary: Mapping[str, Any], options: ScoringOptions) -> Table:
    """Means of each class, as a ``summary.json`` holds them."""
    surface = options.surface is not None
    bound, assd = options.column("hd95_bound_mm"), "assd_bound_mm"
    columns = ["structure", "Dice, mean [95 %]", "median", "lowest"]
    if surface:
        columns += [f"NSD at {options.tolerance_mm:g} mm", f"{_distance_name(options)} (mm)", "ASSD (mm)"]
    columns += ["missed", "invented", "sensitivity", "precision", "cases"]
    rows = []
    for entry in summary["classes"]:
        dice = entry["dice"]
        row = [
            str(entry["name"]),
            with_interval(dice["mean"], dice["interval"]),
            fixed(dice["median"]),
            fixed(dice["min"]),
        ]
        if surface:
            row += [
                fixed(entry["nsd"]["mean"]),
                fixed(entry[bound]["mean"], 2),
                fixed(entry[assd]["mean"], 2),
            ]
        row += [str(entry["n_missed"] + entry["n_no_prediction"]), str(entry["n_spurious"])]
        row += [fixed(entry["sensitivity"]["mean"]), fixed(entry["precision"]["mean"])]
        rows.append([*row, str(entry["n_valid"])])
    note = "Where there is no number, the class is in no reference and in no prediction."
    if surface:
        note = "Distances count a missed or invented structure as the image's diagonal. " + note
    return Table(columns, rows, "Means over cases", note=note)


def _lesions(summary: Mapping[str, Any]) -> list[Block]:
    rows = [
        [str(entry["name"]), *(str(entry[key]) for key in ("n_ref", "n_found", "n_invented") if key in entry)]
        for entry in summary.get("lesions", ())
    ]
    if not rows:
        return []
    columns = ["class", "lesions in references", "found", "invented"][: len(rows[0])]
    return [Table(columns, rows, "Lesions")]


def _colours(labels: LabelScheme) -> dict[str, str]:
    return {entry.name: "#{:02x}{:02x}{:02x}".format(*entry.color) for entry in labels.foreground}


def _distributions(table: ScoreTable) -> list[Block]:
    colours = _colours(table.labels)
    drawn = [("dice", "Dice", (0.0, 1.0))]
    if table.options.surface is not None:
        drawn.append(("nsd", f"surface Dice at {table.options.tolerance_mm:g} mm", (0.0, 1.0)))
        drawn.append(
            ("hd95_mm", f"{_distance_name(table.options)} in mm, where both have it", (0.0, math.inf))
        )
    found = []
    for metric, name, bounds in drawn:
        numbers = {
            entry.name: [getattr(score, metric) for score in table.of_label(entry.value)]
            for entry in table.labels.foreground
        }
        found.append(charts.distribution(numbers, name, colours, bounds=bounds))
    caption = (
        "A point is a case; the box holds the middle half, the line is the median, the diamond the mean."
    )
    return [Charts(found), Text(caption, "note")]


def _volumes_by_class(table: ScoreTable) -> dict[str, list[Score]]:
    return {entry.name: list(table.of_label(entry.value)) for entry in table.labels.foreground}


def volume_charts(scores: Mapping[str, Sequence[Score]], colours: Mapping[str, str]) -> list[Block]:
    """Bland-Altman plots of volumes, by name; of many, those that agree least.

    Args:
        scores: What to plot, by name; classes that are absent are left out.
        colours: By name.
    """
    there = {
        name: [score for score in found if score.status is not Status.ABSENT]
        for name, found in scores.items()
    }
    there = {name: found for name, found in there.items() if found}
    if not there:
        return [Text("There is no volume to compare.", "note")]
    worst = sorted(there, key=lambda name: -_disagreement(there[name]))[:_MOST_VOLUME_CHARTS]
    drawn = [
        charts.bland_altman(
            [score.volume_ref_ml for score in there[name]],
            [score.volume_pred_ml for score in there[name]],
            name,
            colours[name],
        )
        for name in there
        if name in worst
    ]
    told = "The solid line is the mean difference, the dashed ones are ± 1.96 standard deviations."
    if len(there) > len(worst):
        told += f" Of {len(there)}, those {len(worst)} are drawn that agree least."
    return [Charts(drawn), Text(told, "note")]


def _disagreement(scores: Sequence[Score]) -> float:
    differences = [abs(score.volume_pred_ml - score.volume_ref_ml) for score in scores]
    size = float(np.mean([score.volume_ref_ml + score.volume_pred_ml for score in scores]))
    return float(np.mean(differences)) / size if size > 0.0 else 0.0


def _pictures(folder: EvaluationFolder, images: Mapping[str, Path]) -> list[Block]:
    table, pairs = folder.table, folder.pairs()
    means = table.case_means("dice")
    ranked = {
        case: means[case]
        for case in table.worst_cases()
        if not math.isnan(means[case]) and (case in pairs or not pairs)
    }
    if not pairs:
        gone = Text("The label maps are not where they were, so no error maps can be drawn.", "note")
        return [gone, *stored_pictures(folder.path, folder.summary)]
    labels = folder.declared() or table.labels
    blocks: list[Block] = []
    for entry in rank_cases(ranked, [pairs[case] for case in ranked], "mean Dice"):
        pair = entry.pair
        image = images.get(pair.case)
        predictions = {"prediction": pair.prediction}
        blocks.append(case_picture(pair.case, pair.reference, predictions, labels, image, entry.title))
    return blocks or [Text("No case has anything to draw.", "note")]


def stored_pictures(path: Path, summary: Mapping[str, Any]) -> list[Block]:
    """Those that an evaluation drew itself.

    Args:
        path: The evaluation's folder.
        summary: What its ``summary.json`` holds.
    """
    blocks: list[Block] = []
    for entry in summary.get("overlays", ()):
        file = path / OVERLAYS / Path(str(entry.get("file"))).name
        if file.is_file():
            caption = f"{entry['case']}, {entry['rank']}"
            blocks.append(png_picture(file, f"Overlay of case {entry['case']}", caption))
    return blocks


def _cases(table: ScoreTable, summary: Mapping[str, Any]) -> list[Block]:
    bound = table.options.column("hd95_bound_mm")
    columns = ["case", "mean Dice"]
    if table.options.surface is not None:
        columns += ["mean NSD", f"mean {_distance_name(table.options)} (mm)"]
    columns += ["lowest Dice", "of", "missed", "invented"]
    rows = []
    for entry in summary["cases"]:
        row = [str(entry["case"]), fixed(entry["dice"])]
        if table.options.surface is not None:
            row += [fixed(entry.get("nsd")), fixed(entry.get(bound), 1)]
        lowest = entry["lowest"] or {"dice": None, "class": NOTHING}
        missed = entry["n_missed"] + entry["n_no_prediction"]
        rows.append(
            [*row, fixed(lowest["dice"]), str(lowest["class"]), str(missed), str(entry["n_spurious"])]
        )
    text = (0, len(columns) - 3)
    first = Table(columns, rows[:_WORST_SHOWN], "Worst first", text_columns=text)
    if len(rows) <= _WORST_SHOWN:
        return [first]
    rest = Table(columns, rows[_WORST_SHOWN:], text_columns=text)
    return [first, Folded(f"{len(rows) - _WORST_SHOWN} more cases", [rest])]


def what_was_run(folder: EvaluationFolder) -> list[Block]:
    """Options, versions, hashes, and the run that predicted."""
    summary = folder.summary
    rows = [
        [name, str(summary[key])]
        for name, key in (("predictions", "predictions"), ("references", "references"), ("classes", "labels"))
        if key in summary
    ]
    options = summary["options"]
    rows += [[name, str(value)] for name, value in options.items() if _is_telling(name, value, options)]
    blocks: list[Block] = [Table(["what", "value"], rows, "Evaluation", text_columns=(0, 1))]
    models = folder.models()
    for model in models:
        blocks.append(Text(f"Predicted by the run {model}."))
        blocks += run_blocks(model, model.name if len(models) > 1 else "")
    if not models:
        blocks.append(Text("Which run predicted is not told beside the predictions.", "note"))
    if isinstance(summary.get("versions"), Mapping):
        blocks.append(version_table(summary["versions"]))
    tables = [folder.path / name for name in (METRICS_CSV, SUMMARY_JSON)]
    return [*blocks, hash_table(tables, folder.path)]


def _is_telling(name: str, value: object, options: Mapping[str, Any]) -> bool:
    """Whether an option had a say: how lesions are counted has none where none are."""
    return value not in (None, [], {}) and (bool(options["lesions"]) or "lesion" not in name)
