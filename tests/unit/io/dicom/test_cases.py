"""Every DICOM phantom from folder to volume: its verdict, and what is read against the formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import GeometryError
from medseg.io.dicom.scan import scan_dicom
from medseg.io.dicom.verdict import DicomVolume, Repairs, Status
from medseg.io.dicom.volumes import read_dicom_volume
from tests.data.dicom import landmark_offsets_voxels
from tests.data.dicom_cases import CASES, HEALTHY, Written

REFUSED = {
    "spacing varies by 20 %": "uneven-spacing",
    "three slices missing": "missing-slices",
    "duplicate positions": "duplicate-positions",
    "truncated file": "truncated",
    "rows that differ": "mixed-sizes",
    "no position": "no-position",
    "zero pixel spacing": "bad-spacing",
}
REPAIRED = {
    "gantry tilt of 15 degrees": Repairs(),
    "spacing varies by 20 %": Repairs(uneven=True),
    "three slices missing": Repairs(missing=True),
}


def volumes_of(name: str, folder: Path, repairs: Repairs | None = None) -> tuple[Written, list[DicomVolume]]:
    written = CASES[name](folder)
    return written, list(scan_dicom(folder, repairs=repairs, processes=1).volumes)


def test_every_case_has_its_expectation() -> None:
    assert {*HEALTHY, *REFUSED, *REPAIRED} == set(CASES)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_folder_gives_the_truth(tmp_path: Path, name: str) -> None:
    written, volumes = volumes_of(name, tmp_path)
    assert [volume.verdict.status for volume in volumes] == [Status.OK] * len(written.truths)
    missing = list(written.truths)
    for volume in map(read_dicom_volume, volumes):
        truth = next(truth for truth in missing if np.array_equal(truth.array, volume.array[0]))
        np.testing.assert_allclose(volume.grid.affine, truth.affine, atol=max(written.tolerance_mm, 1e-4))
        missing.remove(truth)
    assert not missing


@pytest.mark.parametrize("name", REFUSED)
def test_a_faulty_folder_is_refused_for_its_reason(tmp_path: Path, name: str) -> None:
    _, volumes = volumes_of(name, tmp_path)
    assert volumes
    refused = [volume for volume in volumes if volume.verdict.status is Status.REFUSED]
    assert REFUSED[name] in {finding.reason for volume in refused for finding in volume.verdict.findings}
    assert refused == volumes
    for volume in refused:
        with pytest.raises(GeometryError):
            read_dicom_volume(volume)


@pytest.mark.parametrize("name", REPAIRED)
def test_a_repaired_volume_shows_everything_where_it_was(tmp_path: Path, name: str) -> None:
    _, volumes = volumes_of(name, tmp_path, REPAIRED[name])
    assert [volume.verdict.status for volume in volumes] == [Status.REPAIRED]
    volume = read_dicom_volume(volumes[0])
    assert volume.grid.is_orthogonal
    # Straight lines over a gap of three slices cut off the flanks of an ellipsoid that ends within it.
    assert np.abs(landmark_offsets_voxels(volume.array[0], volume.grid.affine)).max() < 0.5
