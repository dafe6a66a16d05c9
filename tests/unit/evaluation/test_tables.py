"""What is written: metrics.csv in full precision, and a summary that hides no failure."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from medseg.evaluation import Score, ScoreTable, Status, summary_of, write_metrics
from medseg.labels import LabelScheme

LABELS = LabelScheme.from_names({1: "liver", 2: "spleen", 3: "nothing"})


def row(case: str, label: int, dice: float, status: Status, ref: float = 1.0, pred: float = 1.0) -> Score:
    return Score(case, label, LABELS.names[label], dice, dice / (2 - dice), ref, pred, status)


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
    assert (liver["dice"]["median"], liver["dice"]["min"]) == (0.1 + 0.2, 0.0)
    assert liver["dice"]["std"] == pytest.approx(0.5131601439446884)
    assert (liver["n_valid"], liver["n_ok"], liver["n_missed"], liver["n_absent"]) == (3, 2, 1, 0)
    assert (liver["volume_ref_ml"]["mean"], liver["volume_pred_ml"]["mean"]) == (3.0, 1.0)
    assert (spleen["dice"]["mean"], spleen["n_valid"]) == (0.0, 2)
    assert (spleen["n_spurious"], spleen["n_absent"], spleen["n_no_prediction"]) == (1, 1, 1)
    assert nothing["dice"] == {"mean": None, "median": None, "std": None, "min": None}
    assert (nothing["n_valid"], nothing["n_absent"]) == (0, 3)
    assert summary["mean"]["dice"] == pytest.approx((1.3 / 3 + 0.0) / 2)
    assert summary["n_cases"] == 3
    assert (summary["without_prediction"], summary["without_reference"]) == (["x"], ["y.nii"])
    assert set(summary["versions"]) == {"medseg", "numpy", "python"}


def test_the_csv_holds_every_digit_and_leaves_undefined_fields_empty(tmp_path: Path) -> None:
    write_metrics(TABLE, tmp_path / "new" / "out")
    with (tmp_path / "new" / "out" / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == [
        "case",
        "label",
        "name",
        "dice",
        "iou",
        "volume_ref_ml",
        "volume_pred_ml",
        "status",
    ]
    assert len(rows) == 9
    assert float(rows[3]["dice"]) == 0.1 + 0.2
    assert (rows[2]["dice"], rows[2]["iou"], rows[2]["volume_ref_ml"]) == ("", "", "0.0")
    assert [entry["status"] for entry in rows[6:]] == ["missed", "no_prediction", "absent"]
    assert (rows[1]["case"], rows[1]["label"], rows[1]["name"]) == ("a", "2", "spleen")
    written = json.loads((tmp_path / "new" / "out" / "summary.json").read_text())
    assert written == summary_of(TABLE)
    assert "NaN" not in (tmp_path / "new" / "out" / "summary.json").read_text()


def test_names_with_commas_survive(tmp_path: Path) -> None:
    labels = LabelScheme.from_names({1: 'kidney, "left"'})
    score = Score("a,b", 1, labels.names[1], 1.0, 1.0, 1.0, 1.0, Status.OK)
    write_metrics(ScoreTable((score,), labels), tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        (read,) = csv.DictReader(handle)
    assert (read["case"], read["name"]) == ("a,b", 'kidney, "left"')
