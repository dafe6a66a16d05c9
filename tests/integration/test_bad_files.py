"""Bad files: each is refused in one line that names the file and the cure, with its kind's exit code."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import MedsegError
from medseg.io import find_cases, read_volume, require_finite

INPUT, GEOMETRY = 2, 3
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def image(path: Path, array: np.ndarray[Any, Any] = VOXELS, **fields: Any) -> Path:
    made = nib.Nifti1Image(array, np.eye(4))
    header = made.header.copy()
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + array.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def truncated(path: Path) -> Path:
    content = image(path, np.random.default_rng(0).normal(size=(9, 9, 9))).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def with_spacing(path: Path, value: float) -> Path:
    return image(path, pixdim=[1, 1, value, 1, 0, 0, 0, 0])


def with_affine(path: Path, value: float) -> Path:
    return image(path, srow_y=[0, value, 0, 0])


def empty(path: Path) -> Path:
    path.touch()
    return path


BAD: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "truncated": (truncated, INPUT, "truncated"),
    "empty": (empty, INPUT, "is empty"),
    "missing": (lambda path: path, INPUT, "does not exist"),
    "text": (lambda path: path.write_bytes(gzip.compress(b"no image")) and path, INPUT, "no NIfTI"),
    "huge": (lambda path: image(path, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), INPUT, "30000x30000x30000"),
    "2D": (lambda path: image(path, VOXELS[0]), INPUT, "2D image"),
    "5D": (lambda path: image(path, np.zeros((3, 4, 5, 1, 3), np.int16)), INPUT, "5D image"),
    "colour": (
        lambda path: image(path, np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        INPUT,
        "colours",
    ),
    "zero spacing": (lambda path: with_spacing(path, 0.0), GEOMETRY, "zero"),
    "NaN spacing": (lambda path: with_spacing(path, np.nan), GEOMETRY, "NaN"),
    "zero affine": (lambda path: with_affine(path, 0.0), GEOMETRY, "zero"),
    "NaN affine": (lambda path: with_affine(path, np.nan), GEOMETRY, "NaN"),
    "no orientation": (lambda path: image(path, sform_code=0, qform_code=0), GEOMETRY, "no orientation"),
    "all NaN": (lambda path: image(path, np.full((3, 4, 5), np.nan)), INPUT, "all 60 voxels are NaN"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, exit_code, said = BAD[kind]
    path = make(tmp_path / "bad.nii.gz")
    with pytest.raises(MedsegError) as caught:
        require_finite(read_volume(path), path)
    line = str(caught.value)
    assert caught.value.exit_code == exit_code
    assert line.startswith(f"{path}: ")
    assert said in line
    assert "\n" not in line
    assert caught.value.fix
    assert line.endswith(caught.value.fix)


def test_a_bad_file_in_a_folder_does_not_hide_the_others(tmp_path: Path) -> None:
    truncated(tmp_path / "bad.nii.gz")
    image(tmp_path / "good.nii.gz")
    cases = find_cases([tmp_path], 1)
    assert [case.id for case in cases] == ["bad", "good"]
    np.testing.assert_array_equal(read_volume(cases[1].images).array[0], VOXELS)


def test_a_file_that_cannot_be_opened_is_a_matter_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "locked.nii.gz")

    def refuse(_path: Path, *_arguments: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MedsegError, match=r"locked\.nii\.gz: permission denied") as caught:
        read_volume(path)
    assert caught.value.exit_code == 4
