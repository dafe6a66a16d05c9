"""From a folder to volumes: trees, links, other files, processes; real series against references."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset

from medseg.errors import ConfigError, InputError
from medseg.geometry import Grid
from medseg.io.dicom import DicomScan, Reason, Status, scan_dicom

Write = Callable[..., Path]


def kinds(scan: DicomScan) -> list[str]:
    return sorted(entry.kind for entry in scan.set_aside)


def test_a_tree_as_an_archive_leaves_it(tmp_path: Path, write_slice: Write) -> None:
    for index in range(4):
        write_slice(f"a/b/IM{9 - index}", index, (0, 0, 2.0 * index))
        write_slice(
            f"c/d.e/{index}.txt", index, (0, 0, 3.0 * index), SeriesInstanceUID="1.2.9", SeriesNumber=2
        )
    write_slice("c/report.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    write_slice("DICOMDIR", SOPClassUID="1.2.840.10008.1.3.10")
    (tmp_path / "notes.dcm").write_text("not DICOM at all", encoding="utf-8")
    scan = scan_dicom(tmp_path)
    assert [(volume.series.number, len(volume.frames), volume.verdict.status) for volume in scan.volumes] == [
        (2, 4, Status.OK),
        (7, 4, Status.OK),
    ]
    assert kinds(scan) == ["directory", "not DICOM", "report"]
    assert scan.warnings == ()


def test_one_file(write_slice: Write) -> None:
    (volume,) = scan_dicom(write_slice()).volumes
    assert volume.grid is not None
    assert volume.grid.shape == (6, 4, 1)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert scan_dicom(tmp_path) == DicomScan((), ())


def test_links_lead_nowhere_twice(tmp_path: Path, write_series: Write) -> None:
    folder = write_series([(0, 0, z) for z in range(3)])
    (folder / "loop").symlink_to(tmp_path)
    (folder / "self").symlink_to(folder / "self")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    (folder / "again").symlink_to(folder / "999")
    os.link(folder / "998", folder / "hard")
    os.mkfifo(folder / "pipe")
    (volume,) = scan_dicom(tmp_path).volumes
    assert len(volume.frames) == 3


def test_damaged_files_beside_a_volume_are_warned_of(write_series: Write) -> None:
    def spoil(index: int, dataset: Dataset) -> None:
        if index == 4:
            dataset.Rows = 0

    scan = scan_dicom(write_series([(0, 0, z) for z in range(5)], spoil))
    assert kinds(scan) == ["damaged"]
    assert len(scan.warnings) == 1
    assert "may lack its first or last slices" in scan.warnings[0]


def test_what_cannot_be_scanned(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        scan_dicom(tmp_path / "none")
    with pytest.raises(ConfigError, match="0 processes"):
        scan_dicom(tmp_path, processes=0)


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch, write_series: Write) -> None:
    monkeypatch.setattr("medseg.io.dicom.scan._FILES_A_TASK", 3)
    folder = write_series([(0, 0, z) for z in (4, 2, 0, 6, 9)])
    one, two = (scan_dicom(folder, processes=processes) for processes in (1, 2))
    assert [volume.frames for volume in one.volumes] == [volume.frames for volume in two.volumes]
    assert [volume.verdict for volume in one.volumes] == [volume.verdict for volume in two.volumes]


REFERENCES = {
    "xa30_enhanced/5_anat-T1w_acq-tfl": "xa30_enhanced/5_anat-T1w_acq-tfl.nii",
    **{f"transfer_syntaxes/In/{n}.dcm": f"transfer_syntaxes/Ref/{n}.nii" for n in range(1, 10)},
    **{
        f"dicom2nifti/{series}": f"dicom2nifti/{series}_ground_truth.nii.gz"
        for series in (
            "generic/anatomical/001",
            "generic/anatomical/001_implicit",
            "generic/anatomical/002_non_isotropic",
            "generic/compressed/001",
            "generic/compressed_j2k/001",
            "generic/compressed_jpeg/001",
            "generic/compressed_jpegls/001",
            "generic/compressed_rle/001",
            "siemens/anatomical/001",
            "siemens/anatomical/001_implicit",
        )
    },
}


@pytest.mark.data
@pytest.mark.parametrize("series", REFERENCES)
def test_real_series_lie_where_their_references_lie(test_data: Path, series: str) -> None:
    (volume,) = scan_dicom(test_data / "dicom" / series).volumes
    assert (volume.verdict.status, volume.verdict.findings) == (Status.OK, ())
    image = nibabel.load(test_data / "dicom" / REFERENCES[series])
    assert volume.grid is not None
    reference = Grid(image.shape[:3], image.affine).reoriented(volume.grid.axcodes)
    assert volume.grid.shape == reference.shape
    # The enhanced reference has its slices 2 mm apart where the header has 190.0001 mm / 95.
    tolerance_mm = 1.1e-4 if "enhanced" in series else 1e-4
    np.testing.assert_allclose(volume.grid.affine, reference.affine, atol=tolerance_mm)


@pytest.mark.data
def test_a_real_tilted_gantry(test_data: Path) -> None:
    volumes = scan_dicom(test_data / "dicom/ge_ct_gantry_tilt").volumes
    # Two stacks in one series, thin slices at the skull's base and thick ones above, of two image types.
    assert [len(volume.frames) for volume in volumes] == [14, 14]
    assert sorted(volume.frames[0].thickness or 0 for volume in volumes) == [4.0, 7.0]
    for volume in volumes:
        (finding,) = volume.verdict.findings
        assert (finding.reason, finding.status) == (Reason.GANTRY_TILT, Status.REPAIRED)
        assert finding.figures["tilt_degrees"] == pytest.approx(18.5, abs=0.01)
        assert volume.grid is not None
        assert volume.grid.is_orthogonal


@pytest.mark.data
def test_no_healthy_series_is_refused(test_data: Path) -> None:
    scan = scan_dicom(test_data / "dicom")
    assert Status.REFUSED not in {volume.verdict.status for volume in scan.volumes}
    assert len(scan.volumes) == 23
    assert set(kinds(scan)) == {"not DICOM"}


@pytest.mark.data
def test_segmentations_are_set_aside(test_data: Path) -> None:
    scan = scan_dicom(test_data / "seg")
    assert set(kinds(scan)) == {"not DICOM", "segmentation"}
    assert len(scan.volumes) == 6
    assert {volume.verdict.status for volume in scan.volumes} == {Status.OK}
