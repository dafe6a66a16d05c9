"""``medseg inspect`` on folders of DICOM files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medseg.cli.main import main

NAME = "Somebody^Private"


@pytest.fixture
def write_ct(tmp_path: Path) -> Callable[[Iterable[float]], Path]:
    def write(heights: Iterable[float]) -> Path:
        for index, height in enumerate(heights):
            dataset = Dataset()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.{index}"
            dataset.PatientName, dataset.SeriesDescription, dataset.Modality = NAME, NAME, "CT"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", "1.2.3.4", 12
            dataset.ImagePositionPatient = [0, 0, height]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.PixelSpacing = [0.5, 0.5]
            dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 6, 1
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
                16,
                16,
                15,
                0,
            )
            dataset.PixelData = np.zeros((4, 6), np.uint16).tobytes()
            dataset.save_as(tmp_path / f"{index}", enforce_file_format=True)
        return tmp_path

    return write


def test_a_row_for_each_volume(write_ct: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_ct([0, 2, 4, 10])
    (folder / "notes.txt").write_text("notes", encoding="utf-8")
    assert main(["inspect", str(folder)]) == 0
    captured = capsys.readouterr()
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in captured.out.splitlines() if "│" in line
    ]
    assert rows[0] == ["1", "12", "CT", "6 x 4 x 4", "", "", "REFUSED", "missing-slices", ""]
    assert rows[1][:3] == ["1", "REFUSED", "missing-slices"]
    assert "2 slices are missing: 2 between 4 and 10 mm from the first" in rows[1][3]
    assert "find the missing files" in rows[1][4]
    assert rows[2] == ["not DICOM", "1", ""]
    assert NAME not in captured.out + captured.err


def test_volumes_of_several_folders_are_found_again(
    write_ct: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_ct([0, 2, 4])
    (root / "again").mkdir()
    for index in range(3):
        copied = dcmread(root / str(index))
        copied.SeriesInstanceUID = "1.2.3.5"
        copied.save_as(root / "again" / str(index))
    assert main(["inspect", str(root)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert sorted(row[-2].strip() for row in rows[:2]) == [".", "again"]


def test_a_healthy_file_alone_is_enough(
    write_ct: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_ct([0, 2, 4])
    assert main(["inspect", str(folder), "--json"]) == 0
    shown = capsys.readouterr().out
    (volume,) = json.loads(shown)["volumes"]
    assert (volume["status"], volume["findings"], volume["axcodes"]) == ("OK", [], "LPS")
    assert (volume["shape"], volume["spacing_mm"]) == ([6, 4, 3], [0.5, 0.5, 2.0])
    assert volume["affine"][2] == [0.0, 0.0, 2.0, 0.0]
    assert NAME not in shown


def test_files_to_be_copied_again_are_named(
    write_ct: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_ct([0, 2, 4])
    (folder / "1").write_bytes((folder / "1").read_bytes()[:-5])
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "REFUSED" in shown
    assert f"1 file ends too early: {folder / '1'}" in shown


def test_figures_for_programs(write_ct: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(write_ct([0, 2, 4, 10])), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (finding,) = found["volumes"][0]["findings"]
    assert (finding["reason"], finding["status"]) == ("missing-slices", "REFUSED")
    assert finding["figures"] == {"missing": 2, "before_mm": [4.0], "after_mm": [10.0]}
    assert found["volumes"][0]["shape"] is None


@pytest.mark.parametrize(("name", "message"), [("notes.txt", "is no DICOM file"), (".", "holds no run")])
def test_nothing_to_inspect(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("notes", encoding="utf-8")
    assert main(["inspect", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.data
def test_the_tilt_is_told_in_degrees(test_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(test_data / "dicom/ge_ct_gantry_tilt")]) == 0
    assert capsys.readouterr().out.count("the gantry was tilted by 18.5 degrees") == 2
