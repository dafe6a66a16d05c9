"""What is written: tables in full precision, and nothing left of a former evaluation."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.evaluation import Score, ScoreTable, ScoringOptions, Status, summary_of, write_metrics
from medseg.evaluation.tables import read_metrics, remove_former
from medseg.labels import LabelScheme

LABELS = LabelScheme.from_names({1: "liver", 2: "spleen", 3: "nothing"})


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
        "hd95_mm",
        "assd_mm",
        "nsd",
        "volume_ref_ml",
        "volume_pred_ml",
        "status",
        "hd_mm",
        "hd95_bound_mm",
        "assd_bound_mm",
        "sensitivity",
        "precision",
        "specificity",
        "volume_difference_ml",
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
    score = replace(row("a,b", 1, 1.0, Status.OK), name=labels.names[1])
    write_metrics(ScoreTable((score,), labels), tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        (read,) = csv.DictReader(handle)
    assert (read["case"], read["name"]) == ("a,b", 'kidney, "left"')


def test_numbers_of_numpy_are_written_as_plain_numbers(tmp_path: Path) -> None:
    odd = replace(
        row("a", 1, 0.5, Status.OK), dice=np.float64(0.1) + np.float64(0.2), hd95_mm=np.float32(0.5)
    )
    write_metrics(ScoreTable((odd,), LABELS), tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        (read,) = csv.DictReader(handle)
    assert (read["dice"], read["hd95_mm"]) == ("0.30000000000000004", "0.5")


def test_another_percentile_is_not_called_95(tmp_path: Path) -> None:
    options = ScoringOptions(percentile=99.5)
    write_metrics(ScoreTable(TABLE.scores, LABELS, options), tmp_path)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[5] == "hd99.5_mm"
    assert "hd99.5_bound_mm" in header
    assert not any("95_" in column.replace("99.5_", "") for column in header)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "hd99.5_bound_mm" in summary["classes"][0]
    assert summary["options"]["percentile"] == 99.5


def test_what_a_former_evaluation_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        "metrics.csv",
        "lesions.csv",
        "overlays/best.png",
        "overlays/worst.png",
        "overlays/mine.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_former(tmp_path, {"metrics.csv", "overlays/worst.png"})
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["metrics.csv", "overlays/mine.png", "overlays/worst.png"]


def test_scores_are_read_back_to_the_last_digit(tmp_path: Path) -> None:
    for percentile in (95.0, 99.5):
        options = ScoringOptions(percentile=percentile)
        write_metrics(replace(TABLE, options=options), tmp_path)
        back = read_metrics(tmp_path / "metrics.csv", options)
        assert [repr(score) for score in back] == [repr(score) for score in TABLE.scores]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("dice", "dise", "line 1: has no column 'dice'"),
        (",1.0,", ",one,", "line 2: could not convert string to float: 'one'"),
        ("spurious", "\0", "line 3: "),
        ("b,1,liver", "b", "line 5: "),
    ],
)
def test_another_table_is_refused_with_its_line(tmp_path: Path, before: str, after: str, told: str) -> None:
    write_metrics(TABLE, tmp_path)
    path = tmp_path / "metrics.csv"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(InputError, match=rf"is not the metrics\.csv of an evaluation \({told}"):
        read_metrics(path)
