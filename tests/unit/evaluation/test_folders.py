"""Evaluation of folders: where the classes come from, what is left behind when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError, MedsegError, ResourceError
from medseg.evaluation import evaluate_folders, find_pairs, labels_for
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.volume import Volume

GRID = Grid((4, 3, 2), np.eye(4))


def write(path: Path, *values: float) -> Path:
    array = np.resize(np.array(values), (1, *GRID.shape))
    write_volume(Volume(array.astype(np.float32 if array.dtype == float else np.int16), GRID), path)
    return path


def declare(path: Path, **labels: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"labels": {"background": 0, **labels}}))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write(tmp_path / "d" / "pred" / "a.nii", 0, 1, 4)
    write(tmp_path / "d" / "ref" / "a.nii", 0, 1, 1)
    write(tmp_path / "d" / "ref" / "b.nii", 0, 1, 1)
    return tmp_path / "d" / "pred", tmp_path / "d" / "ref"


def test_without_a_declaration_the_values_found_are_the_classes(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    evaluation = evaluate_folders(*folders, tmp_path / "out")
    assert evaluation.table.labels.names == ("background", "label 1", "label 4")
    assert evaluation.labels_source == "the values found"
    assert evaluation.summary["without_prediction"] == ["b"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == evaluation.summary


def test_a_declaration_is_found_in_or_beside_the_references(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    pairs = find_pairs(pred, ref).pairs
    beside = declare(ref.parent / "dataset.json", liver=1, spleen=4)
    assert labels_for(ref, pairs) == (labels_for(ref, pairs, beside)[0], str(beside))
    within = declare(ref / "dataset.json", kidney=1, spleen=4)
    scheme, source = labels_for(ref, pairs)
    assert (scheme.names, source) == (("background", "kidney", "spleen"), str(within))
    assert labels_for(ref, pairs, ref.parent)[0].names[1] == "liver"
    assert labels_for(ref / "a.nii", pairs)[0].names[1] == "kidney"


def test_require_all_scores_what_is_missing_as_a_failure(folders: tuple[Path, Path], tmp_path: Path) -> None:
    lenient = evaluate_folders(*folders, tmp_path / "lenient").summary
    strict = evaluate_folders(*folders, tmp_path / "strict", require_all=True).summary
    assert (lenient["n_cases"], strict["n_cases"]) == (1, 2)
    assert strict["classes"][0]["n_no_prediction"] == 1
    assert strict["without_prediction"] == []
    assert strict["mean"]["dice"] < lenient["mean"]["dice"]


def test_nothing_is_left_behind_when_it_fails(folders: tuple[Path, Path], tmp_path: Path) -> None:
    labels = declare(tmp_path / "dataset.json", liver=1)
    with pytest.raises(MedsegError, match="label value 4 is not declared"):
        evaluate_folders(*folders, tmp_path / "new" / "out", labels=labels)
    assert not (tmp_path / "new").exists()
    (tmp_path / "kept").mkdir()
    with pytest.raises(MedsegError, match="not declared"):
        evaluate_folders(*folders, tmp_path / "kept", labels=labels)
    assert list((tmp_path / "kept").iterdir()) == []


def test_an_output_that_is_a_file_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ResourceError, match="is a file"):
        evaluate_folders(*folders, tmp_path / "out")


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), float("inf")])
def test_images_are_no_label_maps(tmp_path: Path, value: float) -> None:
    write(tmp_path / "pred" / "a.nii", 0.0, value)
    write(tmp_path / "ref" / "a.nii", 0.0, 1.0)
    with pytest.raises(InputError, match=r"pred/a\.nii: is no label map"):
        evaluate_folders(tmp_path / "pred", tmp_path / "ref", tmp_path / "out")


def test_empty_label_maps_declare_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", 0)
    with pytest.raises(InputError, match="no label map holds any class"):
        evaluate_folders(tmp_path / "a.nii", tmp_path / "a.nii", tmp_path / "out")
