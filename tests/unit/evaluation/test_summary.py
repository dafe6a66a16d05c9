"""The summary hides no failure: what is missing is counted, bounded, and never a number of its own."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from medseg.evaluation import Score, ScoreTable, ScoringOptions, Status, summary_of
from medseg.evaluation.statistics import bca_interval
from medseg.evaluation.summary import describe
from medseg.labels import LabelScheme

LABELS = LabelScheme.from_names({1: "liver", 2: "spleen", 3: "nothing"})
DIAGONAL_MM = 300.0


def row(case: str, label: int, dice: float, status: Status, ref: float = 1.0, pred: float = 1.0) -> Score:
    return Score(
        case=case,
        label=label,
        name=LABELS.names[label],
        dice=dice,
        iou=dice / (2 - dice),
        volume_ref_ml=ref,
        volume_pred_ml=pred,
        status=status,
    )


TABLE = ScoreTable(
    (
        row("a", 1, 1.0, Status.OK, 2.0, 2.0),
        row("a", 2, 0.0, Status.SPURIOUS, 0.0, 5.0),
        row("a", 3, math.nan, Status.ABSENT, 0.0, 0.0),
        row("b", 1, 0.1 + 0.2, Status.OK, 4.0, 1.0),
        row("b", 2, math.nan, Status.ABSENT, 0.0, 0.0),
        row("b", 3, math.nan, Status.ABSENT, 0.0, 0.0),
        row("c", 1, 0.0, Status.MISSED, 3.0, 0.0),
        row("c", 2, 0.0, Status.NO_PREDICTION, 3.0, 0.0),
        row("c", 3, math.nan, Status.ABSENT, 0.0, 0.0),
    ),
    LABELS,
)


def test_the_summary_counts_what_has_no_score_and_averages_what_has() -> None:
    summary = summary_of(TABLE, without_prediction=["x"], without_reference=["y.nii"])
    liver, spleen, nothing = summary["classes"]
    assert liver["dice"]["mean"] == pytest.approx(1.3 / 3)
    assert (liver["dice"]["median"], liver["dice"]["min"], liver["dice"]["max"]) == (0.1 + 0.2, 0.0, 1.0)
    assert liver["dice"]["std"] == pytest.approx(0.5131601439446884)
    assert (liver["n_valid"], liver["n_ok"], liver["n_missed"], liver["n_absent"]) == (3, 2, 1, 0)
    assert (liver["volume_ref_ml"]["mean"], liver["volume_pred_ml"]["mean"]) == (3.0, 1.0)
    assert (spleen["dice"]["mean"], spleen["n_valid"]) == (0.0, 2)
    assert (spleen["n_spurious"], spleen["n_absent"], spleen["n_no_prediction"]) == (1, 1, 1)
    assert (nothing["n_valid"], nothing["n_absent"]) == (0, 3)
    assert summary["mean"]["dice"] == pytest.approx((1.3 / 3 + 0.0) / 2)
    assert summary["over_classes"]["dice"]["mean"] == pytest.approx((0.5 + 0.3 + 0.0) / 3)
    assert summary["n_cases"] == 3
    assert (summary["without_prediction"], summary["without_reference"]) == (["x"], ["y.nii"])
    assert set(summary["versions"]) == {"medseg", "numpy", "python", "scipy"}
    assert [case["case"] for case in summary["cases"]] == ["c", "b", "a"]
    assert summary["cases"][0] == {
        "case": "c",
        "dice": 0.0,
        "hd95_bound_mm": None,
        "nsd": None,
        "lowest": {"class": "liver", "dice": 0.0},
        "n_missed": 1,
        "n_spurious": 0,
        "n_no_prediction": 1,
    }


def test_a_class_that_is_empty_in_every_case_is_not_applicable() -> None:
    summary = summary_of(TABLE)
    liver, spleen, nothing = summary["classes"]
    assert [entry["status"] for entry in (liver, spleen, nothing)] == ["scored", "scored", "not applicable"]
    for metric in ("dice", "iou", "hd95_mm", "hd95_bound_mm", "nsd", "specificity", "volume_difference_ml"):
        assert nothing[metric] == {
            "mean": None,
            "median": None,
            "std": None,
            "min": None,
            "max": None,
            "interval": None,
            "n_valid": 0,
        }
    assert summary["mean"]["dice"] == summary_of(without(TABLE, 3))["mean"]["dice"]


def without(table: ScoreTable, label: int) -> ScoreTable:
    names = {entry.value: entry.name for entry in table.labels.foreground if entry.value != label}
    scores = tuple(score for score in table.scores if score.label != label)
    return ScoreTable(scores, LabelScheme.from_names(names))


def ten_cases(n_missed: int) -> dict[str, Any]:
    """Ten cases of one class, whose first ones are missed; the others are found 2 mm off."""
    missed = {"dice": 0.0, "nsd": 0.0, "hd95_bound_mm": DIAGONAL_MM, "assd_bound_mm": DIAGONAL_MM}
    found = {"dice": 0.9, "nsd": 0.8, "hd95_mm": 2.0, "assd_mm": 0.5, "hd_mm": 3.0}
    found |= {"hd95_bound_mm": 2.0, "assd_bound_mm": 0.5}
    scores = tuple(
        Score(
            case=f"case {number}",
            label=1,
            name="liver",
            iou=0.0,
            volume_ref_ml=1.0,
            volume_pred_ml=float(number >= n_missed),
            status=Status.MISSED if number < n_missed else Status.OK,
            **(missed if number < n_missed else found),
        )
        for number in range(10)
    )
    return summary_of(ScoreTable(scores, LabelScheme.from_names({1: "liver"})))


def test_nine_of_ten_missed_do_not_look_as_good_as_none_missed() -> None:
    none, nine = ten_cases(0), ten_cases(9)
    (good,), (bad,) = none["classes"], nine["classes"]
    # The mean of what was found is the same: that is the trap, and why it says of how many it is.
    assert good["hd95_mm"]["mean"] == bad["hd95_mm"]["mean"] == 2.0
    assert (good["hd95_mm"]["n_valid"], bad["hd95_mm"]["n_valid"]) == (10, 1)
    assert (good["n_missed"], bad["n_missed"]) == (0, 9)
    assert bad["hd95_bound_mm"]["mean"] == pytest.approx((9 * DIAGONAL_MM + 2.0) / 10)
    assert bad["hd95_bound_mm"]["n_valid"] == 10
    for summary, better in ((none, True), (nine, False)):
        assert (summary["mean"]["hd95_bound_mm"] == 2.0) is better
        assert (summary["over_classes"]["hd95_bound_mm"]["mean"] == 2.0) is better
        assert (summary["over_classes"]["nsd"]["mean"] > 0.5) is better
    assert nine["cases"][0]["hd95_bound_mm"] == DIAGONAL_MM


@pytest.mark.parametrize("metric", ["dice", "nsd", "hd95_bound_mm", "assd_bound_mm"])
def test_each_miss_makes_each_headline_number_worse(metric: str) -> None:
    means = [ten_cases(count)["mean"][metric] for count in range(11)]
    steps = np.diff(means)
    assert (steps > 0.0).all() if metric.endswith("_mm") else (steps < 0.0).all()


def test_intervals_are_those_of_the_bootstrap() -> None:
    numbers = [0.71, 0.83, 0.86, 0.9, 0.92, 0.95]
    expected = bca_interval(numbers)
    assert describe([*numbers, math.nan])["interval"] == [expected.low, expected.high]
    assert describe(numbers[:2])["interval"] is None
    assert describe([0.5] * 4)["interval"] == [0.5, 0.5]
    assert describe([math.nan])["mean"] is None


def test_surfaces_that_were_left_out_are_not_in_the_summary() -> None:
    table = ScoreTable(TABLE.scores, LABELS, ScoringOptions(surface=None))
    summary = summary_of(table)
    assert "hd95_mm" not in summary["classes"][0]
    assert "nsd" not in summary["mean"]
    assert "nsd" not in summary["cases"][0]
    json.dumps(summary, allow_nan=False)
