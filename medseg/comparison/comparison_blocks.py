"""Tables of a comparison's report: failures, methods, costs, tests, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medseg.comparison import comparison_charts
from medseg.comparison.charts import palette
from medseg.comparison.evaluation_report import POOR_DICE, failure_rows
from medseg.comparison.page import (
    NOTHING,
    Block,
    Charts,
    Folded,
    Table,
    Text,
    fixed,
    p_value,
    with_interval,
)
from medseg.comparison.tables import Findings
from medseg.evaluation import Status

__all__ = ["cost_tables", "failure_blocks", "main_table", "paired_blocks", "rank_blocks"]

_MOST_ROWS = 20
_SIGNIFICANT = 0.05
_DIGITS = {"dice": 3, "nsd": 3}


def failure_blocks(findings: Findings) -> list[Block]:
    """What failed: fits, cases, structures."""
    blocks: list[Block] = []
    jobs = [job for method in findings.folder.methods for job in method.failures]
    if jobs:
        rows = [[str(job.key), str(job.failure)] for job in jobs]
        blocks.append(
            Text(f"{len(jobs)} fits failed. Their methods are in no test and in no ranking of all.", "bad")
        )
        blocks.append(Table(["fit", "why"], rows, text_columns=(0, 1)))
    cases = [entry for method in findings.folder.methods for entry in method.failed_cases()]
    if cases:
        rows = [[str(key), case, why] for key, case, why in cases]
        blocks.append(Text(f"{len(cases)} cases could not be predicted; their structures score 0.", "bad"))
        blocks.append(Table(["fit", "case", "why"], rows[:_MOST_ROWS], text_columns=(0, 1, 2)))
    structures: list[list[str]] = []
    for method in findings.main:
        scores = [score for table in method.by_seed.values() for score in table.scores]
        structures += [[method.recipe, *row] for row in failure_rows(scores)]
    columns = ["method", "case", "structure", "what", "reference (ml)", "prediction (ml)"]
    if structures:
        blocks.append(Text(f"{len(structures)} structures were missed or invented; each scores 0.", "bad"))
        table = Table(columns, structures[:_MOST_ROWS], text_columns=(0, 1, 2, 3))
        blocks.append(table)
        if len(structures) > _MOST_ROWS:
            rest = Table(columns, structures[_MOST_ROWS:], text_columns=(0, 1, 2, 3))
            blocks.append(Folded(f"{len(structures) - _MOST_ROWS} more", [rest]))
    for method in findings.main:
        scores = [score for table in method.by_seed.values() for score in table.scores]
        poor = sum(score.status is Status.OK and score.dice < POOR_DICE for score in scores)
        if poor:
            told = f"{poor} of {len(scores)} structures are found with a Dice below {POOR_DICE}."
            blocks.append(Text(f"{method.recipe}: {told}", "bad"))
    return blocks or [Text("No fit failed, no structure was missed, and none invented.", "good")]


def main_table(findings: Findings, summary: Mapping[str, Any]) -> Table:
    """One row for each method, the highest Dice first."""
    rows = _main_rows(findings, summary)
    distance = _distance(findings)
    labels = findings.folder.dataset.labels.foreground
    columns = [
        "method",
        "Dice, mean [95 %]",
        "NSD, mean [95 %]",
        f"{_told(distance)}, mean [95 %]",
        *([f"Dice {entry.name}" for entry in labels] if 1 < len(labels) <= 8 else []),
        "missed",
        "invented",
        "cases",
    ]
    table = []
    for row in rows:
        fields = [row["recipe"] + ("" if not row["failed_jobs"] else " (incomplete)")]
        fields += [
            with_interval(row[metric]["mean"], row[metric]["interval"], _DIGITS.get(metric, 2))
            for metric in ("dice", "nsd", distance)
        ]
        if 1 < len(labels) <= 8:
            fields += [fixed(entry["dice"]["mean"]) for entry in row["classes"]]
        missed = row["n_missed"] + row["n_no_prediction"]
        table.append([*fields, str(missed), str(row["n_spurious"]), str(row["n_cases"])])
    note = (
        "Means over cases of each case's mean over classes; intervals by bootstrap. Distances count a missed "
        "or invented structure as the image's diagonal."
    )
    if len(findings.folder.settings.seeds) > 1:
        note += " Scores of several seeds are averaged by case."
    return Table(columns, table, "Scores on held-out cases", note=note)


def cost_tables(findings: Findings, summary: Mapping[str, Any]) -> list[Block]:
    """Time, memory and size; and accuracy over time."""
    rows = _main_rows(findings, summary)
    columns = ["method", "fit (min)", "fit, CPU (min)", "a case (s)", "peak, fit (GB)", "peak, predict (GB)"]
    columns += ["parameters", "on disk (MB)"]
    table = [
        [
            row["recipe"],
            _scaled(row["fit_seconds"]["mean"], 60.0, 1),
            _scaled(row["fit_cpu_seconds"]["mean"], 60.0, 1),
            fixed(row["case_seconds"]["mean"], 2),
            _scaled(row["peak_fit_bytes"], 1e9, 2),
            _scaled(row["peak_predict_bytes"], 1e9, 2),
            NOTHING if row["parameters"] is None else f"{row['parameters']:,}",
            _scaled(row["model_bytes"], 1e6, 2),
        ]
        for row in rows
    ]
    note = (
        "Means over fits and over cases; memory is the largest of any fit, of the whole process with Python "
        "and its libraries. Each fit and each prediction is a process of its own; a case is timed from its "
        "file to its written label map."
    )
    blocks: list[Block] = [Table(columns, table, "What it takes", note=note)]
    colours = palette(findings.folder.settings.recipes)
    drawn = []
    for key, told in (("fit_seconds", "seconds to fit"), ("case_seconds", "seconds a case")):
        points = {
            row["recipe"]: (row[key]["mean"], row["dice"]["mean"])
            for row in rows
            if row[key]["mean"] is not None and row["dice"]["mean"] is not None and row[key]["mean"] > 0.0
        }
        if len(points) > 1:
            drawn.append(comparison_charts.trade_off(points, "mean Dice", told, colours))
    return [*blocks, Charts(drawn)] if drawn else blocks


def paired_blocks(findings: Findings) -> list[Block]:
    """Every method against the baseline."""
    baseline = findings.folder.settings.baseline
    if not findings.tested:
        return [Text("There is nothing to test: the baseline or the others have no scores.", "note")]
    rows, drawn = [], []
    for position in range(len(findings.tested[0].compared)):
        shown = []
        for entry in findings.tested:
            compared = entry.compared[position]
            name, test = entry.method.recipe, compared.test
            digits = _DIGITS.get(compared.metric, 2)
            bounded = not math.isnan(test.interval.low)
            interval = [test.interval.low, test.interval.high] if bounded else None
            favoured = compared.favours((name, baseline))
            rows.append(
                [
                    name,
                    _told(compared.metric),
                    with_interval(test.mean_difference, interval, digits + 1),
                    fixed(test.effect_size, 2),
                    p_value(test.p_value),
                    p_value(compared.p_holm),
                    favoured or "neither",
                    str(test.n),
                ]
            )
            if not math.isnan(test.mean_difference):
                low, high = interval or (test.mean_difference, test.mean_difference)
                significant = compared.p_holm < _SIGNIFICANT
                shown.append(comparison_charts.Difference(name, test.mean_difference, low, high, significant))
        if shown:
            metric = findings.tested[0].compared[position].metric
            drawn.append(comparison_charts.differences(shown, _told(metric), baseline))
    columns = ["method", "of", "mean difference [95 %]", "effect size", "p", "p, Holm", "better", "cases"]
    note = (
        f"Differences are the method minus {baseline}, of means over classes, on the cases that both were "
        "scored on. Wilcoxon's signed-rank test, two-sided; Holm's correction for all tests of the table; "
        "effect size: matched-pairs rank-biserial correlation. Which is better is told at a corrected level "
        "of 0.05. In the charts, filled points are significant."
    )
    return [Charts(drawn), Table(columns, rows, note=note, text_columns=(0, 1, 6))]


def rank_blocks(findings: Findings) -> list[Block]:
    """Would other cases have given another order."""
    if not findings.ranked:
        return [Text("There are fewer than two complete methods to rank.", "note")]
    rows = []
    for metric, found in findings.ranked.items():
        for name in sorted(found, key=lambda name: found[name].rank):
            rank = found[name]
            rows.append(
                [
                    _told(metric),
                    name,
                    f"{rank.rank:g}",
                    f"{rank.mean:.2f} [{rank.low:g}, {rank.high:g}]",
                    f"{100 * rank.probabilities[0]:.0f} %",
                ]
            )
    columns = ["by", "method", "place", "mean place [95 %]", "first in"]
    note = "Places by means over cases that were drawn 2000 times with replacement, the same for all methods."
    drawn = [comparison_charts.rank_map(found, _told(metric)) for metric, found in findings.ranked.items()]
    return [Charts(drawn), Table(columns, rows, note=note, text_columns=(0, 1))]


def _main_rows(findings: Findings, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    size = findings.main[0].size
    rows = [row for row in summary["methods"] if row["size"] == size]
    return sorted(rows, key=lambda row: -1.0 if row["dice"]["mean"] is None else -row["dice"]["mean"])


def _distance(findings: Findings) -> str:
    return findings.folder.options.column("hd95_bound_mm")


def _told(metric: str) -> str:
    """What a column is called for people.

    Example:
        >>> _told("hd95_bound_mm"), _told("nsd")
        ('HD95 (mm)', 'NSD')
    """
    return {"dice": "Dice", "nsd": "NSD"}.get(metric, f"{metric.split('_')[0].upper()} (mm)")


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return NOTHING if value is None else fixed(value / unit, digits)
