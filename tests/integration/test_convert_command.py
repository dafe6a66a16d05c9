"""``medseg convert`` from the command line: its table, its files and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.errors import USAGE_EXIT_CODE, GeometryError, InputError
from medseg.io import read_volume

MakeSeries = Callable[..., Path]
EVEN, GAPPED = [0.0, 2.5, 5.0, 7.5], [0.0, 2.5, 5.0, 12.5]


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3000, (4, 5, 6)).astype(np.uint16)


def test_a_folder_with_a_refused_series(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    make_ct_series(source, voxels, GAPPED, "1.2.4")
    (source / "readme").write_text("hello")

    code = main(["convert", str(source), str(tmp_path / "out")])

    shown = capsys.readouterr()
    assert code == GeometryError.exit_code
    assert shown.err == "medseg: 1 of 2 volumes were not written\n"
    for words in ("written", "refused", "missing-slices", "REFUSED", "not DICOM"):
        assert words in shown.out
    assert "Secret" not in shown.out  # this is a pipe, which may be a log
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1

    assert main(["convert", str(source), str(tmp_path / "out"), "--repair"]) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_json_and_jobs(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    assert main(["convert", str(source), str(tmp_path / "out"), "--json", "--jobs", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert [volume["outcome"] for volume in told["volumes"]] == ["written"]


def test_stacked_and_named(make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN, EchoTime=1.0)
    make_ct_series(source / "second", voxels, EVEN, EchoTime=2.0)
    assert main(["convert", str(source), str(tmp_path / "out"), "--stack", "--keep-names"]) == 0
    assert read_volume(tmp_path / "out" / "004_Head_of_Secret_Person.nii.gz").channels == 2


def test_to_one_file_and_on_to_another_format(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    assert main(["convert", str(source), str(tmp_path / "ct.nii.gz")]) == 0
    assert main(["convert", str(tmp_path / "ct.nii.gz"), str(tmp_path / "ct.nrrd")]) == 0
    first, second = (read_volume(tmp_path / name) for name in ("ct.nii.gz", "ct.nrrd"))
    np.testing.assert_array_equal(first.array, second.array)


def test_one_line_for_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "missing"), str(tmp_path / "out")]) == InputError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["convert", str(tmp_path)]) == USAGE_EXIT_CODE
    assert main(["convert", str(tmp_path), str(tmp_path / "out"), "--jobs", "0"]) == USAGE_EXIT_CODE
    assert not (tmp_path / "out").exists()
