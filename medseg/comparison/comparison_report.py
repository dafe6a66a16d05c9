"""The report of a comparison: from its results to a page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.comparison import charts, comparison_charts
from medseg.comparison.case_pictures import case_picture
from medseg.comparison.comparison_blocks import (
    cost_tables,
    failure_blocks,
    main_table,
    paired_blocks,
    rank_blocks,
)
from medseg.comparison.evaluation_report import volume_charts
from medseg.comparison.folder import COMPARISON_CSV, SCORES_CSV, ComparisonFolder
from medseg.comparison.page import Block, Charts, Fact, Folded, Page, Section, Table, Text, fixed, write_page
from medseg.comparison.provenance import hash_table, run_blocks, version_table
from medseg.comparison.results import MethodResult
from medseg.comparison.tables import Findings
from medseg.evaluation import Score
from medseg.evaluation.pairs import find_images

__all__ = ["LEARNING_CURVE_PNG", "comparison_page", "curve_points", "write_comparison_report"]

LEARNING_CURVE_PNG = "learning_curve.png"

_PICTURES_OF = 6
_MOST_VOLUME_CHARTS = 12


def write_comparison_report(
    folder: ComparisonFolder,
    path: Path,
    images: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> None:
    """Write the page, and where there are several training sizes, ``learning_curve.png`` beside it.

    Args:
        folder: What was compared.
        path: The page.
        images: As of ``comparison_page``.
        title: As of ``comparison_page``.
    """
    write_page(comparison_page(folder, images, title), path)
    curves = curve_points(Findings(folder)) if len(folder.settings.sizes) > 1 else {}
    if curves:
        file = path.with_name(LEARNING_CURVE_PNG)
        comparison_charts.save_learning_curve(
            file, curves, "mean Dice", charts.palette(folder.settings.recipes)
        )


def comparison_page(
    folder: ComparisonFolder, images: str | os.PathLike[str] | None = None, title: str | None = None
) -> Page:
    """The report of a comparison.

    Args:
        folder: What was compared.
        images: Folder of the cases' images; the data set's own, if left out.
        title: Above everything; by default the data set's name.

    Raises:
        InputError: The data set is not where it was, or ``images`` holds no image of any case.
    """
    findings = Findings(folder)
    summary = findings.summary()
    colours = charts.palette(folder.settings.recipes)
    sections = [
        Section("Failures", failure_blocks(findings)),
        Section("Methods", [main_table(findings, summary), *cost_tables(findings, summary)]),
        Section(f"Against {folder.settings.baseline}", paired_blocks(findings)),
        Section("Ranks", rank_blocks(findings)),
        Section("Distributions by class", _distributions(findings, colours)),
        Section("Volumes", _volumes(findings, colours)),
        Section("Worst, median and best case", _pictures(findings, images)),
        Section("What was run", _what_was_run(folder, summary)),
    ]
    if len(folder.settings.sizes) > 1:
        sections.insert(2, Section("Learning curve", _learning_curve(findings, colours)))
    return Page(
        title=title or f"Comparison on {folder.settings.dataset}",
        lead=f"{', '.join(folder.settings.recipes)}: the same cases, held out in the same folds.",
        facts=_facts(findings, summary),
        sections=sections,
    )


def _facts(findings: Findings, summary: Mapping[str, Any]) -> list[Fact]:
    settings = findings.folder.settings
    failed = sum(len(method.failures) for method in findings.folder.methods)
    rows = [row for row in summary["methods"] if row["dice"]["mean"] is not None]
    main = {method.recipe for method in findings.main}
    size = findings.main[0].size
    rows = [row for row in rows if row["recipe"] in main and row["size"] == size]
    best = max(rows, key=lambda row: row["dice"]["mean"], default=None)
    facts = [
        Fact("methods", str(len(settings.recipes))),
        Fact("cases held out", str(summary["n_cases"]), f"in {len(settings.folds)} folds"),
        Fact("seeds", str(len(settings.seeds))),
    ]
    if best is not None:
        facts.append(Fact("highest mean Dice", fixed(best["dice"]["mean"]), best["recipe"]))
    facts.append(Fact("fits failed", str(failed), tone="bad" if failed else "good"))
    return facts


def _learning_curve(findings: Findings, colours: Mapping[str, str]) -> list[Block]:
    curves = curve_points(findings)
    if not curves:
        return [Text("No size has scores.", "note")]
    counts = sorted({point.cases for points in curves.values() for point in points})
    rows = []
    for count in counts:
        means = {
            name: point.mean for name, points in curves.items() for point in points if point.cases == count
        }
        best = max(means, key=lambda name: means[name])
        rows.append([f"{count:g}", *(fixed(means.get(name)) for name in curves), best])
    columns = ["training cases", *curves, "highest"]
    told = (
        "The cases that train are nested: those of a smaller size are among those of a larger one. The cases "
        "that are held out are always the same."
    )
    return [
        comparison_charts.learning_curve(curves, "mean Dice", colours),
        Table(columns, rows, "Mean Dice", text_columns=(len(columns) - 1,)),
        Text(told, "note"),
    ]


def curve_points(findings: Findings) -> dict[str, list[comparison_charts.CurvePoint]]:
    """The learning curves by recipe, each with the intervals of its means over cases."""
    described = {
        (row["recipe"], row["size"]): row["dice"] for row in map(findings.row, findings.folder.methods)
    }
    curves = {}
    for recipe, found in findings.learning_curve().items():
        points = []
        for cases, method in found:
            dice = described[recipe, method.size]
            low, high = dice["interval"] or (dice["mean"], dice["mean"])
            points.append(comparison_charts.CurvePoint(cases, dice["mean"], low, high))
        curves[recipe] = points
    return curves


def _distributions(findings: Findings, colours: Mapping[str, str]) -> list[Block]:
    found = []
    scored = [method for method in findings.main if method.by_seed]
    for entry in findings.folder.dataset.labels.foreground:
        numbers = {method.recipe: list(method.of_class("dice", entry.value).values()) for method in scored}
        found.append(charts.distribution(numbers, f"Dice, {entry.name}", colours, bounds=(0.0, 1.0)))
    caption = (
        "A point is a case; the box holds the middle half, the line is the median, the diamond the mean."
    )
    return [Charts(found), Text(caption, "note")]


def _volumes(findings: Findings, colours: Mapping[str, str]) -> list[Block]:
    names = {entry.value: entry.name for entry in findings.folder.dataset.labels.foreground}
    by_method: dict[str, dict[str, list[Score]]] = {}
    for method in findings.main:
        found = by_method.setdefault(method.recipe, {})
        for score in (score for table in method.by_seed.values() for score in table.scores):
            found.setdefault(f"{method.recipe}: {names[score.label]}", []).append(score)
    few = sum(map(len, by_method.values())) <= _MOST_VOLUME_CHARTS
    if few:
        together = {name: scores for found in by_method.values() for name, scores in found.items()}
        shade = {name: colours[recipe] for recipe, found in by_method.items() for name in found}
        return volume_charts(together, shade)
    return [
        Folded(recipe, volume_charts(found, dict.fromkeys(found, colours[recipe])))
        for recipe, found in by_method.items()
    ]


def _pictures(findings: Findings, images: str | os.PathLike[str] | None) -> list[Block]:
    scored = [method for method in findings.main if method.by_seed]
    means = _mean_over_methods(scored)
    if not means:
        return [Text("No case has anything to draw.", "note")]
    dataset = findings.folder.dataset
    cases = {case.id: case for case in dataset.cases}
    given = None if images is None else find_images(images, list(means))
    ranked = sorted(means, key=lambda case: (means[case], case))
    places = dict.fromkeys([0, len(ranked) // 2, len(ranked) - 1])
    blocks: list[Block] = []
    shown = sorted(scored, key=lambda method: -_overall(method))[:_PICTURES_OF]
    for place, rank in zip(places, ("worst", "median", "best"), strict=False):
        name = ranked[place]
        case = cases[name]
        image = (case.images[0] if given is None else given.get(name)) if case.images else None
        caption = f"{name}, {rank} of {len(ranked)}: Dice over all methods {means[name]:.3f}"
        predictions: dict[str, Path | None] = {
            f"{method.recipe} {method.over_classes('dice').get(name, math.nan):.3f}": method.predictions_of(
                name
            )
            for method in shown
        }
        if case.label is not None:
            blocks.append(case_picture(name, case.label, predictions, dataset.labels, image, caption))
    if len(scored) > len(shown):
        blocks.append(
            Text(f"Of {len(scored)} methods, the {len(shown)} with the highest Dice are drawn.", "note")
        )
    return blocks


def _overall(method: MethodResult) -> float:
    values = [value for value in method.over_classes("dice").values() if not math.isnan(value)]
    return sum(values) / len(values) if values else 0.0


def _mean_over_methods(methods: list[MethodResult]) -> dict[str, float]:
    """Mean Dice of the cases that every method was scored on."""
    tables = [method.over_classes("dice") for method in methods]
    if not tables:
        return {}
    found = {}
    for case in tables[0]:
        values = [table.get(case, math.nan) for table in tables]
        if not any(math.isnan(value) for value in values):
            found[case] = sum(values) / len(values)
    return found


def _what_was_run(folder: ComparisonFolder, summary: Mapping[str, Any]) -> list[Block]:
    settings = folder.settings
    rows = [
        ["data", settings.data],
        ["recipes", ", ".join(settings.recipes)],
        ["folds held out", f"{', '.join(map(str, settings.folds))} of {len(folder.split.folds)}"],
        ["seeds", ", ".join(map(str, settings.seeds))],
        ["training cases", ", ".join("all" if size is None else str(size) for size in settings.sizes)],
        ["each network's training", _budget(settings)],
        ["device", settings.device],
        ["threads of a process", str(settings.threads)],
        ["tolerance of NSD", f"{settings.tolerance_mm:g} mm"],
        ["machine", _told_machine(summary["machine"])],
    ]
    blocks: list[Block] = [Table(["what", "value"], rows, "Comparison", text_columns=(0, 1))]
    for method in folder.methods:
        runs = dict.fromkeys(folder.run_of(job.key) for job in method.jobs)
        for run in runs:
            told = run_blocks(run, run.relative_to(folder.path / "runs").as_posix())
            blocks.append(Folded(f"run {run.relative_to(folder.path).as_posix()}", told))
    names = ("settings.json", "split.json", COMPARISON_CSV, SCORES_CSV)
    present = [folder.path / name for name in names if (folder.path / name).is_file()]
    return [*blocks, version_table(summary["versions"]), hash_table(present, folder.path)]


def _told_machine(machine: Mapping[str, Any]) -> str:
    memory = f"{machine['memory_bytes'] / 1e9:.0f} GB of memory"
    return f"{machine['processor']}, {machine['cores']} cores, {memory}"


def _budget(settings: Any) -> str:
    told = [
        f"{value:g} {unit}"
        for value, unit in (
            (settings.max_minutes, "minutes"),
            (settings.max_cpu_minutes, "minutes of processors"),
            (settings.max_steps, "steps"),
        )
        if value is not None
    ]
    return " or ".join(told) or "as each recipe says"
