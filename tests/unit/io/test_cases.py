from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.io import Case, find_cases


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


def ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


def test_a_folder_is_searched_for_images_alone(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.nii.gz", "a.mha", "C.NRRD", "notes.txt", "dataset.json", ".hidden.nii.gz", "._b.nii.gz"
    )
    touch(tmp_path / "deeper", "d.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    cases = find_cases([tmp_path], 1)
    assert cases == [
        Case("C", (tmp_path / "C.NRRD",)),
        Case("a", (tmp_path / "a.mha",)),
        Case("b", (tmp_path / "b.nii.gz",)),
    ]


def test_files_and_folders_keep_their_order(tmp_path: Path) -> None:
    (single,) = touch(tmp_path / "one", "z.nii")
    touch(tmp_path / "many", "b.nii", "a.nii")
    assert ids(find_cases([single, tmp_path / "many", single], 1)) == ["z", "a", "b"]


def test_the_channel_suffix_is_taken_off_where_all_have_it(tmp_path: Path) -> None:
    touch(tmp_path, "case_001_0000.nii.gz", "case_002_0000.nii.gz")
    assert ids(find_cases([tmp_path], 1)) == ["case_001", "case_002"]


def test_numbered_patients_keep_their_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "patient_0000.nii.gz", "patient_0001.nii.gz", "patient_0002.nii.gz")
    assert ids(find_cases([tmp_path], 1)) == ["patient_0000", "patient_0001", "patient_0002"]


def test_channels_are_joined_in_order(tmp_path: Path) -> None:
    second, first = touch(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz")
    (whole,) = touch(tmp_path, "whole.nii.gz")
    assert find_cases([tmp_path], 2) == [Case("a", (first, second)), Case("whole", (whole,))]


@pytest.mark.parametrize(
    ("names", "channels", "said"),
    [
        (("a_0000.nii", "a_0002.nii"), 3, "'a' lacks channel _0001"),
        (("a_0003.nii",), 2, "'a' lacks channel _0000, _0001"),
        (("a_0000.nii", "a_0001.nii", "a_0002.nii"), 2, "'a' has channel _0002, but 2"),
        (("a.nii", "a.nii.gz"), 1, "same case name 'a'"),
        (("a_0000.nii", "a_0000.mha"), 1, "same case name 'a'"),
        (("a_0000.nii", "a_0001.nii", "a_0001.nii.gz"), 2, "same case name 'a'"),
        (("a.nii", "a_0000.nii", "a_0001.nii"), 2, "same case name 'a'"),
        (("a_0000.mha", "a_0001.mha", "a.nii"), 2, "same case name 'a'"),
    ],
)
def test_wrong_channels_and_doubles_are_refused(
    tmp_path: Path, names: tuple[str, ...], channels: int, said: str
) -> None:
    paths = touch(tmp_path, *names)
    for inputs in ([tmp_path], paths, paths[::-1]):
        with pytest.raises(InputError, match=said) as caught:
            find_cases(inputs, channels)
        assert caught.value.fix


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a.nii")
    touch(tmp_path / "two", "a.nii")
    with pytest.raises(InputError, match=r"two/a\.nii: has the same case name 'a' as .*one/a\.nii"):
        find_cases([tmp_path / "one", tmp_path / "two"], 1)


def test_inputs_without_images_are_refused(tmp_path: Path) -> None:
    (notes,) = touch(tmp_path, "notes.txt")
    for inputs, said in (
        ([], "no image is given"),
        ([tmp_path], "holds no image"),
        ([tmp_path / "missing.nii"], "does not exist"),
        ([notes], r"suffix '\.txt'"),
    ):
        with pytest.raises(InputError, match=said):
            find_cases(inputs, 1)


def test_links_are_followed(tmp_path: Path) -> None:
    (real,) = touch(tmp_path / "store", "x.nii")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "y.nii").symlink_to(real)
    assert ids(find_cases([tmp_path / "links"], 1)) == ["y"]


def test_volumes_of_a_dicom_folder_are_cases(make_ct_series: Callable[..., Path], tmp_path: Path) -> None:
    voxels = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    study = make_ct_series(tmp_path / "study" / "ct", voxels, (0, 2, 4)).parent
    make_ct_series(study / "deeper" / "gap", np.concatenate([voxels, voxels]), (0, 2, 4, 6, 8, 14), "1.2.4")
    shutil.copytree(study / "ct", study / "copy")
    (study / "report.txt").write_text("no image", encoding="utf-8")
    touch(tmp_path / "more", "z.nii")

    named, whole, gap = find_cases([study, tmp_path / "more"], 1)

    assert named == Case("z", (tmp_path / "more" / "z.nii",))
    assert (len(whole.images), len(gap.images)) == (3, 6)
    assert whole.dicom is not None
    assert gap.dicom is not None
    assert (whole.dicom.verdict.status, gap.dicom.verdict.status) == ("OK", "REFUSED")
    assert "Secret" not in whole.id + gap.id
    (single,) = find_cases([whole.images[1]], 1)
    assert single.images == (whole.images[1],)
    with pytest.raises(InputError, match="which of its DICOM volumes are the 2 channels"):
        find_cases([study], 2)


def test_a_folder_without_images_and_dicom_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(InputError, match=r"holds no image .* and no DICOM volume"):
        find_cases([tmp_path], 1)
    with pytest.raises(InputError, match=r"suffix '\.txt' is that of no known image format"):
        find_cases([tmp_path / "notes.txt"], 1)
