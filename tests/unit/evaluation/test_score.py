"""Scores of pairs of files: every status, volumes, and the refusal of other grids and values."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.evaluation import Pair, Score, ScoreTable, ScoringOptions, Status, evaluate
from medseg.evaluation.score import SURFACE_METRICS
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
    assert (liver.sensitivity, liver.precision, liver.specificity) == (2 / 3, 1.0, 1.0)
    assert (spleen.sensitivity, spleen.precision, spleen.specificity) == (1.0, 1 / 3, 5 / 7)
    assert (liver.volume_difference_ml, spleen.volume_difference_ml) == pytest.approx((-0.1, 0.2))


def test_surfaces_are_measured_in_millimetres(tmp_path: Path) -> None:
    grid = Grid((9, 1, 1), np.diag([2.0, 5.0, 10.0, 1.0]))
    reference = write(tmp_path / "r.nii", np.array([0, 0, 1, 0, 0, 0, 0, 0, 0], np.uint8), grid)
    prediction = write(tmp_path / "p.nii", np.array([0, 0, 0, 0, 0, 1, 0, 0, 0], np.uint8), grid)
    for surface in ("area", "voxels"):
        options = ScoringOptions(surface=surface, tolerance_mm=0.5)
        liver = evaluate([Pair("a", prediction, reference)], LABELS, options=options).scores[0]
        # Three voxels of 2 mm apart; between two boxes of one size, every surface point is that far at most.
        assert liver.hd_mm == pytest.approx(6.0)
        assert liver.hd95_bound_mm == liver.hd95_mm <= liver.hd_mm
        assert liver.assd_bound_mm == liver.assd_mm > 0.0
        assert liver.nsd == 0.0
    wide = ScoringOptions(tolerance_mm=6.5)
    assert evaluate([Pair("a", prediction, reference)], LABELS, options=wide).scores[0].nsd == 1.0


def test_surfaces_agree_with_monai(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    grid = Grid((20, 16, 12), np.diag([1.0, 1.5, 2.5, 1.0]))
    truth = np.zeros(grid.shape, np.uint8)
    truth[4:14, 3:11, 2:9] = 1
    guess = np.roll(truth, (2, 1, 1), axis=(0, 1, 2))
    guess[15:, 13:, 10:] = 1
    pair = Pair("a", write(tmp_path / "p.nii", guess, grid), write(tmp_path / "r.nii", truth, grid))
    score = evaluate([pair], LABELS, options=ScoringOptions(surface="voxels", percentile=90.0)).scores[0]
    masks = [torch.from_numpy(array)[None, None] for array in (guess, truth)]
    theirs = monai.compute_hausdorff_distance(*masks, True, percentile=90, spacing=grid.spacing_mm)
    assert score.hd95_mm == pytest.approx(float(theirs), abs=1e-6)
    theirs = monai.compute_average_surface_distance(*masks, True, symmetric=True, spacing=grid.spacing_mm)
    assert score.assd_mm == pytest.approx(float(theirs), abs=1e-6)


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
    one_sided = status in (Status.MISSED, Status.SPURIOUS, Status.NO_PREDICTION)
    if one_sided:
        diagonal_mm = math.sqrt(8.0**2 + 10.0**2 + 10.0**2)
        assert (liver.hd95_bound_mm, liver.assd_bound_mm) == pytest.approx((diagonal_mm, diagonal_mm))
        assert liver.nsd == 0.0
    if one_sided or status is Status.ABSENT:
        assert all(math.isnan(number) for number in (liver.hd_mm, liver.hd95_mm, liver.assd_mm))
    if status is Status.ABSENT:
        assert all(math.isnan(number) for number in (liver.nsd, liver.hd95_bound_mm, liver.assd_bound_mm))


def test_surfaces_can_be_left_out(tmp_path: Path) -> None:
    reference = write(tmp_path / "r.nii", np.array([1, 1, 3, 0, 0, 0, 0, 0], np.uint8))
    prediction = write(tmp_path / "p.nii", np.array([1, 0, 0, 0, 0, 0, 0, 0], np.uint8))
    options = ScoringOptions(surface=None)
    liver, spleen = evaluate([Pair("a", prediction, reference)], LABELS, options=options).scores
    assert (liver.dice, spleen.status) == (2 / 3, Status.MISSED)
    for score in (liver, spleen):
        assert all(math.isnan(getattr(score, metric)) for metric in SURFACE_METRICS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"surface": "mesh"}, "surface 'mesh' is unknown"),
        ({"percentile": 0.0}, "percentile 0 is not above 0"),
        ({"percentile": 101.0}, "percentile 101"),
        ({"percentile": math.nan}, "percentile nan"),
        ({"tolerance_mm": -1.0}, "tolerance -1 mm"),
        ({"tolerance_mm": math.inf}, "tolerance inf mm"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScoringOptions(**options)


def test_another_percentile_has_another_name() -> None:
    options = ScoringOptions(percentile=99.0)
    assert options.column("hd95_bound_mm") == "hd99_bound_mm"
    assert (options.column("hd_mm"), options.column("dice")) == ("hd_mm", "dice")
    assert ScoringOptions().column("hd95_mm") == "hd95_mm"


def test_without_a_declaration_each_value_of_any_case_is_a_class(tmp_path: Path) -> None:
    first = write(tmp_path / "a.nii", np.array([1, 1, 0, 0, 0, 0, 0, 0], np.uint8))
    second = write(tmp_path / "b.nii", np.array([0, 0, 7, 7, 0, 0, 0, 0], np.uint8))
    table = evaluate([Pair("a", first, first), Pair("b", second, second)])
    assert table.labels.names == ("background", "label 1", "label 7")
    found = [(score.case, score.label, score.status, score.specificity) for score in table.scores]
    assert found == [
        ("a", 1, "ok", 1.0),
        ("a", 7, "absent", 1.0),
        ("b", 1, "absent", 1.0),
        ("b", 7, "ok", 1.0),
    ]
    declared = evaluate([Pair("a", first, first), Pair("b", second, second)], table.labels)
    np.testing.assert_equal([asdict(a) for a in table.scores], [asdict(b) for b in declared.scores])


def test_floating_point_files_of_whole_numbers_are_label_maps(tmp_path: Path) -> None:
    whole = np.array([1, 1, 3, 3, 0, 0, 0, 0], np.uint8)
    pair = Pair("a", write(tmp_path / "p.nii", whole.astype(np.float32)), write(tmp_path / "r.nii", whole))
    assert [score.dice for score in evaluate([pair], LABELS).scores] == [1.0, 1.0]


def test_worst_cases_come_first(tmp_path: Path) -> None:
    labels = LabelScheme.from_names({1: "liver"})
    truth = write(tmp_path / "r.nii", np.array([1, 1, 1, 1, 0, 0, 0, 0], np.uint8))
    empty = write(tmp_path / "e.nii", np.zeros(8, np.uint8))
    near = write(tmp_path / "n.nii", np.array([0, 1, 1, 1, 1, 0, 0, 0], np.uint8))
    pairs = [
        Pair("good", truth, truth),
        Pair("nothing to see", empty, empty),
        Pair("near", near, truth),
        Pair("missed", empty, truth),
    ]
    table = evaluate(pairs, labels)
    assert table.worst_cases() == ("missed", "near", "good", "nothing to see")
    assert math.isnan(table.case_means("dice")["nothing to see"])
    assert [score.case for score in table.of_case("near")] == ["near"]


def test_sheared_grids_are_noted(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    path = write(tmp_path / "a.nii", np.ones(8, np.uint8), Grid((2, 2, 2), affine))
    straight = write(tmp_path / "b.nii", np.ones(8, np.uint8), Grid((2, 2, 2), np.eye(4)))
    table = evaluate([Pair("a", path, path), Pair("b", straight, straight)], LABELS)
    assert [note.sheared for note in table.notes] == [True, False]


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
    monkeypatch.setattr("medseg.evaluation.label_maps.read_volume", reads.append)
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
