"""Scores on a terminal of a hundred columns: readable, and no number cut."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medseg.cli import console
from medseg.cli import evaluation_tables as tables
from medseg.evaluation import (
    Pair,
    Score,
    ScoreTable,
    ScoringOptions,
    Status,
    compare_folders,
    evaluate_folders,
    evaluate_instance_folders,
    summary_of,
)
from medseg.evaluation.instances import InstanceTable, _summary, score_instances
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.labels import LabelScheme
from medseg.volume import Volume

NAMES = ["liver", "inferior vena cava and its tributaries", "left adrenal gland", "never there"]
LABELS = LabelScheme.from_names(dict(enumerate(NAMES, start=1)))
STATUSES = [Status.OK, Status.OK, Status.MISSED, Status.SPURIOUS, Status.NO_PREDICTION]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard output as if it were a terminal of a hundred columns."""
    monkeypatch.setattr(console.settings, "quiet", False)
    written = io.StringIO()
    drawn = Console(file=written, force_terminal=True, width=100, _environ={}, color_system=None)
    monkeypatch.setattr(console, "output", drawn)
    return written


def table_of(options: ScoringOptions) -> ScoreTable:
    """Every status, long names, large numbers."""
    scores = []
    for number in range(30):
        for label in range(1, 5):
            status = Status.ABSENT if label == 4 else STATUSES[(number + label) % 5]
            found = status is Status.OK
            dice = (
                math.nan
                if status is Status.ABSENT
                else 0.6 + 0.3 * math.sin(7 * number + label)
                if found
                else 0.0
            )
            distance = 3.0 + number if found else math.nan
            scores.append(
                Score(
                    case=f"a_case_with_a_long_identifier_{number:04d}",
                    label=label,
                    name=NAMES[label - 1],
                    dice=dice,
                    iou=dice,
                    hd95_mm=distance,
                    assd_mm=distance,
                    hd95_bound_mm=math.nan if status is Status.ABSENT else distance if found else 12345.6,
                    assd_bound_mm=math.nan if status is Status.ABSENT else distance if found else 12345.6,
                    nsd=dice,
                    volume_ref_ml=123456.7,
                    volume_pred_ml=98765.4,
                    status=status,
                )
            )
    return ScoreTable(tuple(scores), LABELS, options)


@pytest.mark.parametrize("surface", ["area", None])
def test_scores_fit_a_hundred_columns(terminal: io.StringIO, surface: str | None) -> None:
    options = ScoringOptions(surface=surface)  # type: ignore[arg-type]
    summary = summary_of(table_of(options))
    tables.print_scores(summary, options)
    shown = terminal.getvalue()
    assert max(map(len, shown.splitlines())) <= 100
    for entry in summary["classes"][:3]:
        for key in ("mean", "median", "min"):
            assert f" {entry['dice'][key]:.3f} " in shown
        low, high = entry["dice"]["interval"]
        assert f"{low:.3f} … {high:.3f}" in shown
    assert re.search(r"6 missed, +6 ", shown)
    assert "not applicable" in shown
    assert "nan" not in shown.lower().replace("inferior vena", "")
    assert ("HD95" in shown) is (surface is not None)
    assert "123457" in shown
    assert shown.index("Scores of 30 cases") < shown.index("Worst cases first")
    worst = shown[shown.index("Worst cases first") :]
    assert re.search(r"│ liver 0\.000 +│ 1 missed, 1 spurious", worst)


def test_a_pipe_gets_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = ScoringOptions()
    tables.print_scores(summary_of(table_of(options)), options)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [
        line for line in lines if "missed" in line and "inferior vena cava and its tributaries" in line
    ][:1]
    assert "6 missed, 6 spurious, 6 no prediction" in row


def test_the_distance_of_what_was_found_stands_beside_that_of_all(terminal: io.StringIO) -> None:
    options = ScoringOptions(percentile=99.0)
    tables.print_scores(summary_of(table_of(options)), options)
    shown = terminal.getvalue()
    assert "HD99" in shown
    assert "HD95" not in shown
    (row,) = re.findall(r"1 liver +│ +(\S+) │ +(\S+) │ +\S+ │ +\S+ │ +\S+ │ +123457 │", shown)
    assert float(row[0]) > 1000.0 > float(row[1])


def write(path: Path, shift: int) -> Path:
    labels = np.zeros((1, 20, 9, 8), np.uint8)
    for number in range(3):
        labels[0, 1 + 6 * number + shift : 5 + 6 * number + shift, 2:7, 1:6] = number + 1
    write_volume(Volume(labels, Grid((20, 9, 8), np.eye(4))), path, labels=True)
    return path


def test_comparisons_fit_a_hundred_columns(terminal: io.StringIO, tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "ref" / f"{number}.nii", 0)
        write(tmp_path / "a" / f"{number}.nii", 0)
        write(tmp_path / "b" / f"{number}.nii", 1)
    found = compare_folders(
        [tmp_path / "a", tmp_path / "b"], tmp_path / "ref", tmp_path / "out", evaluate_one=evaluate_folders
    )
    tables.print_comparison(found.summary())
    shown = terminal.getvalue()
    assert max(map(len, shown.splitlines())) <= 100
    assert "A: a, B: b, on the 6 cases that both have" in shown
    assert re.search(r"label 1 +│ dice +│ 1\.000 │ 0\.750 │ \+0\.250 │ 0\.250 … 0\.250 │", shown)
    assert "+1.00" in shown
    found = compare_folders(
        [tmp_path / "a", tmp_path / "b"],
        tmp_path / "ref",
        tmp_path / "out",
        evaluate_one=evaluate_instance_folders,
    )
    tables.print_comparison(found.summary())
    assert "objects" in terminal.getvalue()


def test_instances_and_lesions_fit_a_hundred_columns(terminal: io.StringIO, tmp_path: Path) -> None:
    reference = write(tmp_path / "r.nii", 0)
    pairs = [
        Pair("a_case_with_a_long_identifier", write(tmp_path / "p.nii", 1), reference),
        Pair("b", None, reference),
    ]
    tables.print_instances(_summary(InstanceTable(tuple(score_instances(pair) for pair in pairs))))
    found = evaluate_folders(tmp_path / "p.nii", reference, tmp_path / "out", lesions=["1", "2"])
    tables.print_lesions(found.summary)
    shown = terminal.getvalue()
    assert max(map(len, shown.splitlines())) <= 100
    assert "Instances of 2 cases" in shown
    assert "precision_0.9" in shown
    assert shown.index("no prediction") < shown.index("a_case_with_a")
    assert re.search(r"1 label 1 +│ +1 │ +1 │ +0 │ +0 │ +1\.000 │ +1\.000 │ 1\.000 │ 0\.750", shown)


def test_notes_are_warnings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.settings, "quiet", False)
    flip = {
        "case": "a",
        "description": "flipped along axis 0 (left-right)",
        "dice": 0.01,
        "dice_unflipped": 0.9,
    }
    tables.say_notes(
        {
            "flipped": [flip],
            "resampled": [{"case": f"c{n}", "prediction": "spacing"} for n in range(7)],
            "sheared": ["s"],
            "partly_labelled": [],
            "overlays": [{"file": "overlays/best.png", "note": "no image"}, {"file": "x", "note": None}],
        }
    )
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "warning: a: the prediction looks flipped along axis 0 (left-right): its mean Dice is about 0.01, "
        "and would be 0.90",
        "warning: 7 predictions resampled onto the reference's grid by nearest neighbour: c0 (spacing), "
        "c1 (spacing), c2 (spacing), c3 (spacing), c4 (spacing), …",
        "warning: distances are approximate where a grid's axes are not at right angles: s",
        "warning: overlays/best.png shows label maps alone: no image",
    ]
