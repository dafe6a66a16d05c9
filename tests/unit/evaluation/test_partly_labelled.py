"""References that leave voxels unlabelled: what counts, what is not measured, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medseg.cli.main import main
from medseg.errors import InputError
from medseg.evaluation import Pair, Pictures, evaluate, evaluate_folders, find_pairs
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.labels import LabelScheme
from medseg.volume import Volume

GRID = Grid((4, 2, 1), np.diag([2.0, 5.0, 10.0, 1.0]))  # a voxel is 0.1 ml
LABELS = LabelScheme.from_names({1: "liver", 3: "spleen"}, ignore=9)


def _write(path: Path, values: npt.ArrayLike) -> Path:
    write_volume(Volume(np.asarray(values, np.uint8).reshape(1, *GRID.shape), GRID), path, labels=True)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Case ``a`` is partly labelled, case ``b`` throughout."""
    data = tmp_path / "data"
    _write(data / "pred" / "a.nii", [1, 1, 0, 0, 3, 3, 1, 0])
    _write(data / "labelsTr" / "a.nii", [1, 9, 1, 0, 3, 9, 9, 9])
    _write(data / "pred" / "b.nii", [1, 1, 0, 0, 3, 3, 0, 0])
    _write(data / "labelsTr" / "b.nii", [1, 0, 0, 0, 3, 3, 0, 0])
    labels = {"background": 0, "liver": 1, "spleen": 3, "ignore": 9}
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    return data / "pred", data / "labelsTr"


def test_voxels_that_nobody_has_labelled_do_not_count(folders: tuple[Path, Path]) -> None:
    table = evaluate(find_pairs(*folders).pairs, LABELS)
    liver, spleen = table.of_case("a")
    # Of the four labelled voxels the liver has two, one of which was found.
    assert (liver.dice, liver.iou, liver.sensitivity, liver.precision) == (2 / 3, 0.5, 0.5, 1.0)
    assert liver.specificity == 1.0
    assert (liver.volume_ref_ml, liver.volume_pred_ml) == pytest.approx((0.2, 0.1))
    assert (spleen.dice, spleen.status) == (1.0, "ok")
    assert (spleen.volume_ref_ml, spleen.volume_pred_ml) == pytest.approx((0.1, 0.1))
    assert [note.partly_labelled for note in table.notes] == [True, False]


def test_surfaces_are_measured_where_all_is_labelled_alone(folders: tuple[Path, Path]) -> None:
    table = evaluate(find_pairs(*folders).pairs, LABELS)
    for score in table.scores:
        distances = (score.hd_mm, score.hd95_mm, score.assd_mm, score.nsd, score.hd95_bound_mm)
        assert all(math.isnan(distance) for distance in distances) is (score.case == "a")


def test_a_missed_structure_has_no_bound_either(tmp_path: Path) -> None:
    pair = Pair(
        "a", _write(tmp_path / "p.nii", [0] * 8), _write(tmp_path / "r.nii", [1, 9, 0, 0, 0, 0, 0, 0])
    )
    liver, _ = evaluate([pair], LABELS).scores
    assert (liver.status, liver.dice) == ("missed", 0.0)
    assert math.isnan(liver.hd95_bound_mm)


def test_a_scheme_without_unlabelled_voxels_in_its_files_changes_nothing(folders: tuple[Path, Path]) -> None:
    pairs = [pair for pair in find_pairs(*folders).pairs if pair.case == "b"]
    assert evaluate(pairs, LABELS).scores == evaluate(pairs, LABELS.without_ignore).scores


def test_a_prediction_ignores_nothing(tmp_path: Path) -> None:
    pair = Pair("a", _write(tmp_path / "p.nii", [9] * 8), _write(tmp_path / "r.nii", [1] * 8))
    with pytest.raises(InputError, match=r"p.nii: label value 9 is not declared"):
        evaluate([pair], LABELS)


def test_lesions_of_partly_labelled_references_are_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"may leave voxels unlabelled \(9\), in which lesions may go on"):
        evaluate_folders(*folders, tmp_path / "out", lesions=["liver"])
    assert not (tmp_path / "out").exists()


def test_the_summary_and_the_command_say_so(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pred, ref = folders
    arguments = ["evaluate", "--pred", str(pred), "--ref", str(ref), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--no-pictures"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["partly_labelled"] == ["a"]
    assert "where the reference is not labelled nothing is scored" in capsys.readouterr().err
    liver = summary["classes"][0]
    assert liver["dice"]["n_valid"] == 2
    assert liver["hd95_mm"]["n_valid"] == 1


def test_pictures_show_what_is_not_labelled_as_background(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = evaluate_folders(*folders, tmp_path / "out", pictures=Pictures())
    assert all((tmp_path / "out" / entry["file"]).is_file() for entry in found.summary["overlays"])
    assert found.summary["overlays"]
