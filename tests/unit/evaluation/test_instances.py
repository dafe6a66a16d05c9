"""Instance maps: whatever their numbers, single objects are matched and every empty case is stated."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.evaluation import Pair, Pictures, Status, evaluate_instance_folders
from medseg.evaluation.instances import THRESHOLDS, score_instances
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.volume import Volume


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    grid = Grid(array.shape, np.eye(4) if affine is None else affine)  # type: ignore[arg-type]
    write_volume(Volume(array[None], grid), path, labels=True)
    return path


def objects(*, shift: int = 0, first: int = 1, count: int = 3) -> np.ndarray:
    """Boxes of 4x4x4, one beside the other; ids need not be contiguous."""
    labels = np.zeros((24, 8, 8), np.int32)
    for number in range(count):
        start = 1 + 7 * number + shift
        labels[start : start + 4, 2:6, 2:6] = first + 1000 * number
    return labels


def test_a_hand_computed_case(tmp_path: Path) -> None:
    reference = objects()
    prediction = objects(first=70_000)
    prediction[15:19, 2:6, 2:4] = 0  # half of the third
    prediction[20:22, 0:2, 0:2] = 9  # invented
    row = score_instances(
        Pair("a", write(tmp_path / "p.nii", prediction), write(tmp_path / "r.nii", reference))
    )
    # Two are matched in full; the third has an IoU of one half, which is not above one half.
    assert (row.n_ref, row.n_pred, row.n_matched, row.status) == (3, 4, 2, Status.OK)
    assert (row.sq, row.rq) == (1.0, 2 / 3.5)
    assert row.pq == pytest.approx(2 / 3.5)
    assert row.aji == pytest.approx((64 + 64 + 32) / (64 * 3 + 8))
    assert row.dice == pytest.approx(2 * 160 / (192 + 168))
    assert [found.threshold for found in row.at] == list(THRESHOLDS)
    assert (row.numbers()["precision_0.5"], row.numbers()["recall_0.9"]) == (0.5, 2 / 3)


@pytest.mark.parametrize(
    ("n_pred", "n_ref", "status", "pq"),
    [
        (2, 0, Status.SPURIOUS, 0.0),
        (0, 2, Status.MISSED, 0.0),
        (0, 0, Status.ABSENT, math.nan),
        (None, 2, Status.NO_PREDICTION, 0.0),
        (None, 0, Status.ABSENT, math.nan),
    ],
)
def test_every_empty_case_is_stated(
    tmp_path: Path, n_pred: int | None, n_ref: int, status: Status, pq: float
) -> None:
    prediction = None if n_pred is None else write(tmp_path / "p.nii", objects(count=n_pred))
    row = score_instances(Pair("a", prediction, write(tmp_path / "r.nii", objects(count=n_ref))))
    assert row.status is status
    np.testing.assert_equal((row.pq, row.aji, row.dice, row.numbers()["f1_0.5"]), (pq, pq, pq, pq))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for case, shift, count in (("a", 0, 3), ("b", 1, 3), ("c", 0, 1), ("d", 3, 3)):
        write(tmp_path / "ref" / f"{case}.nii", objects())
        write(tmp_path / "pred" / f"{case}.nii", objects(shift=shift, count=count, first=5))
    write(tmp_path / "ref" / "e.nii", objects(count=2))
    return tmp_path / "pred", tmp_path / "ref"


def test_folders_are_scored_and_written(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = evaluate_instance_folders(*folders, tmp_path / "out")
    with (tmp_path / "out" / "instances.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["case"] for row in rows] == ["a", "b", "c", "d"]
    assert list(rows[0])[:9] == ["case", "n_ref", "n_pred", "n_matched", "pq", "sq", "rq", "aji", "dice"]
    assert list(rows[0])[-1] == "status"
    assert [float(row["pq"]) for row in rows] == pytest.approx([1.0, 0.6, 0.5, 0.0])
    assert [float(row["f1_0.6"]) for row in rows] == pytest.approx([1.0, 0.0, 0.5, 0.0])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == found.summary
    assert summary["instances"]["pq"]["mean"] == pytest.approx(2.1 / 4)
    assert summary["instances"]["pq"]["interval"][0] < 2.1 / 4
    assert [case["case"] for case in summary["cases"]] == ["d", "c", "b", "a"]
    assert (summary["n_ok"], summary["n_missed"]) == (4, 0)
    assert summary["without_prediction"] == ["e"]
    strict = evaluate_instance_folders(*folders, tmp_path / "strict", require_all=True)
    assert strict.summary["n_no_prediction"] == 1
    assert strict.summary["instances"]["pq"]["mean"] == pytest.approx(2.1 / 5)
    assert strict.table.worst_first()[0].case in {"d", "e"}


def test_flips_and_other_grids_are_named(tmp_path: Path) -> None:
    labels = objects(count=2)
    write(tmp_path / "ref" / "a.nii", labels)
    write(tmp_path / "pred" / "a.nii", labels[::-1])
    found = evaluate_instance_folders(tmp_path / "pred", tmp_path / "ref", tmp_path / "out")
    assert [entry["description"] for entry in found.summary["flipped"]] == [
        "flipped along axis 0 (left-right)"
    ]
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = 13.0
    write(tmp_path / "pred" / "a.nii", labels, mirrored)
    with pytest.raises(GeometryError, match="orientation LAS instead of RAS"):
        evaluate_instance_folders(tmp_path / "pred", tmp_path / "ref", tmp_path / "out")
    found = evaluate_instance_folders(
        tmp_path / "pred", tmp_path / "ref", tmp_path / "out", resample_prediction=True
    )
    difference = "orientation LAS instead of RAS; covers 58% of the reference"
    assert found.summary["resampled"] == [{"case": "a", "prediction": difference}]
    assert found.table.rows[0].n_pred == 2


def test_what_is_no_instance_map_is_refused(tmp_path: Path) -> None:
    labels = objects().astype(np.float32)
    grid = Grid(labels.shape, np.eye(4))
    write_volume(Volume(labels[None] + 0.5, grid), tmp_path / "p.nii")
    with pytest.raises(InputError, match=r"p\.nii: is no label map"):
        evaluate_instance_folders(tmp_path / "p.nii", write(tmp_path / "r.nii", objects()), tmp_path / "out")
    write_volume(Volume(-labels[None].astype(np.int32), grid), tmp_path / "p.nii", labels=True)
    with pytest.raises(InputError, match=r"p\.nii: is no label map"):
        evaluate_instance_folders(tmp_path / "p.nii", tmp_path / "r.nii", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_touching_objects_are_drawn_apart(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from medseg.evaluation.instances import _with_gaps

    touching = np.array([1, 1, 1, 2, 2, 2, 0, 3, 3]).reshape(9, 1, 1)
    shown = _with_gaps(Volume(touching[None], Grid((9, 1, 1), np.eye(4)))).array.ravel()
    assert shown.tolist() == [1, 1, 0, 1, 1, 1, 0, 1, 1]
    pytest.importorskip("matplotlib")
    found = evaluate_instance_folders(*folders, tmp_path / "out", pictures=Pictures())
    assert [(entry["rank"], entry["case"]) for entry in found.summary["overlays"]] == [
        ("worst", "d"),
        ("median", "b"),
        ("best", "a"),
    ]
    assert all(
        (tmp_path / "out" / entry["file"]).stat().st_size > 1000 for entry in found.summary["overlays"]
    )
