"""Scores of pairs of files: every status, volumes, and the refusal of other grids and values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medseg.errors import GeometryError, InputError
from medseg.evaluation import Pair, Score, ScoreTable, Status, evaluate
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.labels import LabelScheme
from medseg.volume import Volume

LABELS = LabelScheme.from_names({1: "liver", 3: "spleen"})
GRID = Grid((4, 2, 1), np.diag([2.0, 5.0, 10.0, 1.0]))  # a voxel is 0.1 ml


def write(path: Path, rows: npt.ArrayLike, grid: Grid = GRID) -> Path:
    array = np.asarray(rows).reshape(1, *grid.shape)
    write_volume(Volume(array, grid), path)
    return path


def score_one(tmp_path: Path, pred: npt.ArrayLike | None, ref: npt.ArrayLike) -> tuple[Score, ...]:
    prediction = None if pred is None else write(tmp_path / "pred.nii.gz", np.asarray(pred, np.uint8))
    reference = write(tmp_path / "ref.nii.gz", np.asarray(ref, np.int16))
    return evaluate([Pair("case", prediction, reference)], LABELS).scores


def test_a_hand_computed_case(tmp_path: Path) -> None:
    liver, spleen = score_one(tmp_path, [1, 1, 0, 0, 3, 3, 3, 0], [1, 1, 1, 0, 3, 0, 0, 0])
    assert (liver.case, liver.label, liver.name, liver.status) == ("case", 1, "liver", "ok")
    assert (liver.dice, liver.iou) == (0.8, 2 / 3)
    assert (liver.volume_pred_ml, liver.volume_ref_ml) == pytest.approx((0.2, 0.3))
    assert (spleen.label, spleen.dice, spleen.iou) == (3, 0.5, 1 / 3)


@pytest.mark.parametrize(
    ("pred", "ref", "status", "dice"),
    [
        pytest.param([1] * 8, [1] * 8, Status.OK, 1.0, id="perfect"),
        pytest.param([1] + [0] * 7, [0] * 7 + [1], Status.OK, 0.0, id="beside each other"),
        pytest.param([0] * 8, [1] * 8, Status.MISSED, 0.0, id="missed"),
        pytest.param([1] * 8, [0] * 8, Status.SPURIOUS, 0.0, id="spurious"),
        pytest.param([0] * 8, [0] * 8, Status.ABSENT, math.nan, id="absent"),
        pytest.param(None, [1] * 8, Status.NO_PREDICTION, 0.0, id="no prediction"),
        pytest.param(None, [0] * 8, Status.ABSENT, math.nan, id="no prediction, absent"),
    ],
)
def test_every_status_is_pinned(
    tmp_path: Path, pred: list[int] | None, ref: list[int], status: Status, dice: float
) -> None:
    liver = score_one(tmp_path, pred, ref)[0]
    assert liver.status is status
    np.testing.assert_equal((liver.dice, liver.iou), (dice, dice))
    assert liver.volume_ref_ml == pytest.approx(0.1 * sum(ref))
    assert liver.volume_pred_ml == pytest.approx(0.1 * sum(pred or []))


def test_a_table_knows_its_worst_scores(tmp_path: Path) -> None:
    write(tmp_path / "full.nii", np.ones(8, np.uint8))
    write(tmp_path / "half.nii", np.repeat([0, 1], 4).astype(np.uint8))
    pairs = [
        Pair("b", tmp_path / "full.nii", tmp_path / "full.nii"),
        Pair("a", tmp_path / "half.nii", tmp_path / "full.nii"),
    ]
    table = evaluate(pairs, LABELS)
    assert table.cases() == ("b", "a")
    assert [(score.case, score.label) for score in table.worst(9)] == [("a", 1), ("b", 1)]
    assert [score.case for score in table.of_label(3)] == ["b", "a"]
    assert isinstance(table, ScoreTable)


@pytest.mark.parametrize(
    ("grid", "difference"),
    [
        pytest.param(Grid((2, 4, 1), GRID.affine), "shape 2x4x1 instead of 4x2x1", id="shape"),
        pytest.param(Grid(GRID.shape, np.diag([2.0, 5.0, 9.0, 1.0])), "spacing 2x5x9 mm", id="spacing"),
        pytest.param(Grid(GRID.shape, np.diag([-2.0, 5.0, 10.0, 1.0])), "orientation LAS", id="orientation"),
        pytest.param(
            Grid(GRID.shape, GRID.affine + np.outer([1, 0, 0, 0], [0, 0, 0, 1])),
            "displaced by 1 mm",
            id="place",
        ),
    ],
)
def test_another_grid_is_an_error_that_names_both_files(tmp_path: Path, grid: Grid, difference: str) -> None:
    reference = write(tmp_path / "ref.nii.gz", np.zeros(8, np.uint8))
    prediction = write(tmp_path / "pred.nii.gz", np.zeros(8, np.uint8), grid)
    with pytest.raises(GeometryError, match=difference) as caught:
        evaluate([Pair("case", prediction, reference)], LABELS)
    assert str(prediction) in str(caught.value)
    assert str(reference) in str(caught.value)


def test_grids_are_compared_before_any_voxel_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path / "good.nii", np.zeros(8, np.uint8))
    bad = write(tmp_path / "bad.nii", np.zeros(8, np.uint8), Grid((8, 1, 1), np.eye(4)))
    reads: list[object] = []
    monkeypatch.setattr("medseg.evaluation.score.read_volume", reads.append)
    with pytest.raises(GeometryError):
        evaluate([Pair("a", good, good), Pair("b", bad, good)], LABELS)
    assert not reads


def test_undeclared_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pred\.nii\.gz: label value 2 is not declared"):
        score_one(tmp_path, [2] + [0] * 7, [1] * 8)


def test_several_channels_are_no_label_map(tmp_path: Path) -> None:
    write_volume(Volume(np.zeros((2, *GRID.shape), np.uint8), GRID), tmp_path / "two.nii")
    with pytest.raises(InputError, match=r"two\.nii: has 2 channels"):
        evaluate([Pair("a", tmp_path / "two.nii", tmp_path / "two.nii")], LABELS)
