"""Evaluation of folders: where the classes come from, what is left behind when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError, MedsegError, ResourceError
from medseg.evaluation import Pictures, ScoringOptions, declared_labels, evaluate_folders
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
    _, ref = folders
    assert declared_labels(ref) == (None, "the values found")
    beside = declare(ref.parent / "dataset.json", liver=1, spleen=4)
    assert declared_labels(ref) == (declared_labels(ref, beside)[0], str(beside))
    within = declare(ref / "dataset.json", kidney=1, spleen=4)
    scheme, source = declared_labels(ref)
    assert scheme is not None
    assert (scheme.names, source) == (("background", "kidney", "spleen"), str(within))
    for where, name in ((ref.parent, "liver"), (ref, "kidney")):
        found = declared_labels(ref / "a.nii", where)[0]
        assert found is not None
        assert found.names[1] == name


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


def test_more_values_than_classes_can_be_are_refused(tmp_path: Path) -> None:
    many = np.arange(20 * 10 * 10).reshape(1, 20, 10, 10).astype(np.int16)
    write_volume(Volume(many, Grid((20, 10, 10), np.eye(4))), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: holds 2000 different values.*--instances"):
        evaluate_folders(tmp_path / "a.nii", tmp_path / "a.nii", tmp_path / "out")


def test_lesions_of_named_classes_are_counted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, ref = folders
    declare(ref / "dataset.json", liver=1, spleen=4)
    evaluation = evaluate_folders(pred, ref, tmp_path / "out", lesions=["spleen"])
    (row,) = evaluation.table.lesions
    assert (row.case, row.label, row.name, row.status) == ("a", 4, "spleen", "spurious")
    assert (row.n_ref, row.n_invented, row.precision) == (0, row.n_pred, 0.0)
    (entry,) = evaluation.summary["lesions"]
    assert (entry["n_invented"], entry["sensitivity"]["mean"]) == (row.n_pred, None)
    written = (tmp_path / "out" / "lesions.csv").read_text().splitlines()
    assert written[0].startswith("case,label,name,n_ref,n_pred,n_found,n_missed,n_invented,sensitivity,")
    assert len(written) == 2
    with pytest.raises(InputError, match="'splen' is no class; did you mean 'spleen'"):
        evaluate_folders(pred, ref, tmp_path / "out2", lesions=["splen"])
    assert not (tmp_path / "out2").exists()


def test_lesions_of_undeclared_classes_are_named_by_value(folders: tuple[Path, Path], tmp_path: Path) -> None:
    evaluation = evaluate_folders(*folders, tmp_path / "out", lesions=["4", "9"], require_all=True)
    found = [(row.case, row.label, row.status) for row in evaluation.table.lesions]
    assert found == [("a", 4, "spurious"), ("a", 9, "absent"), ("b", 4, "absent"), ("b", 9, "absent")]
    with pytest.raises(InputError, match="'spleen' is no class; give its value"):
        evaluate_folders(*folders, tmp_path / "out", lesions=["spleen"])


def test_a_new_evaluation_leaves_nothing_of_the_former(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    evaluate_folders(*folders, out, lesions=["1"], pictures=Pictures())
    assert {path.name for path in out.iterdir()} == {"lesions.csv", "metrics.csv", "overlays", "summary.json"}
    evaluate_folders(*folders, out, options=ScoringOptions(surface=None))
    assert not (out / "lesions.csv").exists()
    assert list((out / "overlays").iterdir()) == []


def test_an_interrupted_evaluation_leaves_the_former_alone(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    evaluate_folders(*folders, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.evaluation.scoring.score_case", interrupt)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            evaluate_folders(*folders, folder)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_folders_of_inputs_are_not_written_to(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    (pred / "summary.json").write_text("of another")
    for out in (pred, ref, pred / ".." / "pred"):
        with pytest.raises(InputError, match="is the folder of what is to be scored, too"):
            evaluate_folders(pred, ref, out)
    assert (pred / "summary.json").read_text() == "of another"
