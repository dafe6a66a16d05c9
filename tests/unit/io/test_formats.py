from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid
from medseg.io import SUFFIXES, read_header, read_volume, split_suffix, write_volume
from medseg.volume import Volume

MakeNifti = Callable[..., Path]
GRID = Grid((3, 4, 5), np.diag([-2.0, 2.0, 3.0, 1.0]))
RAMP = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", ("a", ".nii")),
        ("a.nii.gz", ("a", ".nii.gz")),
        ("x/y.z/case.001.nii.gz", ("case.001", ".nii.gz")),
        ("A.NII.GZ", ("A", ".nii.gz")),
        ("a.nrrd", ("a", ".nrrd")),
        ("a.mha", ("a", ".mha")),
    ],
)
def test_names_are_split(name: str, expected: tuple[str, str]) -> None:
    assert split_suffix(name) == expected
    assert expected[1] in SUFFIXES


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.nni", "did you mean '.nii'?"),
        ("a.gz", "suffix '.gz'"),
        ("a.dcm", "choose one of .mha"),
        ("a", "has no suffix"),
        (".nii", "has no suffix"),
        ("a.nii.bz2", "suffix '.nii.bz2'"),
    ],
)
def test_unknown_suffixes_are_refused(name: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        split_suffix(name)
    assert said in str(caught.value)
    assert str(caught.value).startswith(name)


def test_a_folder_or_missing_file_is_said_so(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "a.nii.gz", "does not exist"),
        (tmp_path / "a.mha", "does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            read_volume(path)


def test_several_files_are_channels(make_nifti: MakeNifti) -> None:
    first = make_nifti(RAMP[0], name="a.nii")
    second = make_nifti(np.stack([RAMP[0] + 100.5] * 2, axis=3).astype(np.float32), name="b.nii.gz")
    volume = read_volume([first, second])
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, np.concatenate([RAMP, RAMP + 100.5, RAMP + 100.5]))
    assert volume.grid == read_header(first).grid
    np.testing.assert_array_equal(read_volume((first,)).array, RAMP)


def test_channels_on_different_grids_are_refused(make_nifti: MakeNifti) -> None:
    first = make_nifti(RAMP[0], name="a.nii")
    second = make_nifti(RAMP[0], affine=np.diag([2.0, 2.0, 3.0, 1.0]), name="b.nii")
    with pytest.raises(
        GeometryError, match=r"b\.nii: lies on another grid than .*a\.nii: orientation RAS instead of LAS"
    ):
        read_volume([first, second])


def test_no_file_is_refused() -> None:
    with pytest.raises(InputError, match="no file is given"):
        read_volume([])


def test_label_maps_take_the_smallest_type(tmp_path: Path) -> None:
    write_volume(Volume(RAMP.astype(np.int64), GRID), tmp_path / "a.nii.gz", labels=True)
    assert read_header(tmp_path / "a.nii.gz").dtype == np.uint8
    with pytest.raises(InputError, match=r"b\.nii\.gz: a label map of type float32"):
        write_volume(Volume(RAMP.astype(np.float32), GRID), tmp_path / "b.nii.gz", labels=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_folders_are_made(tmp_path: Path) -> None:
    write_volume(Volume(RAMP, GRID), tmp_path / "new" / "folder" / "a.nii")
    assert (tmp_path / "new" / "folder" / "a.nii").is_file()


def test_a_grid_that_the_format_rounds_away_is_refused(tmp_path: Path) -> None:
    far = np.diag([1e-4, 1e-4, 1e-4, 1.0])
    far[:3, 3] = 1000.0  # single precision has steps of 6e-5 there
    far[0, 3] += 3.1e-5
    with pytest.raises(GeometryError, match=r"far\.nii: this format cannot hold the grid"):
        write_volume(Volume(RAMP, Grid((3, 4, 5), far)), tmp_path / "far.nii")
    assert not list(tmp_path.iterdir())


def test_a_file_that_reads_back_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_one_channel(_format: object, volume: Volume, _dtype: object, path: Path) -> None:
        nib.save(nib.Nifti1Image(RAMP[0], volume.grid.affine), path)

    monkeypatch.setattr("medseg.io.nifti.NiftiFormat.write", write_one_channel)
    with pytest.raises(GeometryError, match="read back, it has 1 channels of int16 instead of 2 of int16"):
        write_volume(Volume(np.concatenate([RAMP, RAMP]), GRID), tmp_path / "a.nii")
    assert not list(tmp_path.iterdir())
