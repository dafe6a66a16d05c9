"""Pairing of predictions and references by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import InputError
from medseg.evaluation import Pair, find_pairs


def folder_with(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


def test_names_pair_whatever_the_format(tmp_path: Path) -> None:
    pred = folder_with(tmp_path / "pred", "b.nrrd", "a.1.nii.gz", "summary.json", ".a.nii.gz", "a.png")
    ref = folder_with(tmp_path / "ref", "a.1.nii", "b.nii.gz", "c.mha")
    (ref / "folder.nii").mkdir()
    found = find_pairs(pred, ref)
    assert found.pairs == (
        Pair("a.1", pred / "a.1.nii.gz", ref / "a.1.nii"),
        Pair("b", pred / "b.nrrd", ref / "b.nii.gz"),
    )
    assert found.without_prediction == (Pair("c", None, ref / "c.mha"),)
    assert found.without_reference == ()
    assert [pair.case for pair in found.complete()] == ["a.1", "b", "c"]


def test_a_first_channels_name_pairs_with_its_case(tmp_path: Path) -> None:
    pred = folder_with(tmp_path / "pred", "a_0000.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz")
    ref = folder_with(tmp_path / "ref", "a.nii.gz", "b_0000.nii.gz", "c.nii.gz")
    found = find_pairs(pred, ref)
    assert [(pair.case, pair.prediction.name) for pair in found.pairs if pair.prediction] == [
        ("a", "a_0000.nii.gz"),
        ("b_0000", "b_0000.nii.gz"),
    ]
    assert found.without_reference == (pred / "c_0001.nii.gz",)


def test_a_case_is_paired_once_and_by_its_own_name(tmp_path: Path) -> None:
    pred = folder_with(tmp_path / "pred", "a.nii.gz", "a_0000.nii.gz")
    found = find_pairs(pred, folder_with(tmp_path / "ref", "a.nii.gz"))
    assert [pair.prediction for pair in found.pairs] == [pred / "a.nii.gz"]
    assert found.without_reference == (pred / "a_0000.nii.gz",)


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    pred, ref = tmp_path / "out.nii.gz", tmp_path / "truth.nii"
    pred.touch()
    ref.touch()
    assert find_pairs(pred, ref).pairs == (Pair("truth", pred, ref),)


@pytest.mark.parametrize(
    ("pred_names", "ref_names", "message"),
    [
        pytest.param(
            ("a.nii",), ("b.nii",), r"no prediction is named.*a\.nii and b\.nii", id="nothing pairs"
        ),
        pytest.param((), ("b.nii",), "pred: holds no label map", id="no prediction"),
        pytest.param(("a.nii",), ("b.txt",), "ref: holds no label map", id="no reference"),
        pytest.param(("a.nii", "a.nii.gz"), ("a.nii",), "same case name as a.nii", id="two of a name"),
    ],
)
def test_folders_that_cannot_be_paired_are_refused(
    tmp_path: Path, pred_names: tuple[str, ...], ref_names: tuple[str, ...], message: str
) -> None:
    pred, ref = folder_with(tmp_path / "pred", *pred_names), folder_with(tmp_path / "ref", *ref_names)
    with pytest.raises(InputError, match=message):
        find_pairs(pred, ref)


def test_missing_folders_and_strange_files_are_refused(tmp_path: Path) -> None:
    ref = folder_with(tmp_path / "ref", "a.nii", "notes.txt")
    with pytest.raises(InputError, match="nowhere: does not exist"):
        find_pairs(tmp_path / "nowhere", ref)
    with pytest.raises(InputError, match="no known image format"):
        find_pairs(ref / "notes.txt", ref / "a.nii")
