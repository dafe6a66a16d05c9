"""Small series of images, written as a scanner would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation

from medseg.geometry import Grid

MakeSource = Callable[[Grid], list[Path]]

PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "4711",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "StudyDate": "20200101",
    "StudyTime": "120000",
    "StudyID": "1",
    "AccessionNumber": "7",
    "ReferringPhysicianName": "",
    "PositionReferenceIndicator": "",
    "Modality": "CT",
}


def ct_slice(grid: Grid, plane: int, uids: tuple[str, str, str]) -> Dataset:
    """One image of a series on a grid of shape (columns, rows, planes)."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in PATIENT.items():
        setattr(dataset, keyword, value)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uids
    dataset.InstanceNumber = 100 - plane
    dataset.Columns, dataset.Rows = grid.shape[:2]
    directions = lps[:3, :2] / np.linalg.norm(lps[:3, :2], axis=0)
    dataset.ImageOrientationPatient = [format_number_as_ds(float(part)) for part in directions.T.ravel()]
    dataset.PixelSpacing = [format_number_as_ds(grid.spacing_mm[1]), format_number_as_ds(grid.spacing_mm[0])]
    position = lps[:3, 3] + plane * lps[:3, 2]
    dataset.ImagePositionPatient = [format_number_as_ds(float(part)) for part in position]
    dataset.SliceThickness = format_number_as_ds(grid.spacing_mm[2])
    return dataset


def write_series(grid: Grid, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    uids = (generate_uid(), generate_uid(), generate_uid())
    paths = [folder / f"{plane}.dcm" for plane in range(grid.shape[2])]
    for plane, path in enumerate(paths):
        ct_slice(grid, plane, uids).save_as(path, enforce_file_format=True)
    return paths


@pytest.fixture
def make_source(tmp_path_factory: pytest.TempPathFactory) -> MakeSource:
    """Writes a series on a grid of shape (columns, rows, planes); gives its files, plane by plane."""
    return lambda grid: write_series(grid, tmp_path_factory.mktemp("series") / "ct")


@pytest.fixture
def oblique() -> Grid:
    """A small grid, oblique and anisotropic."""
    return scanned_grid((7, 6, 5), (0.7, 0.8, 2.5), (20, -13, 31), 0.0)


def scanned_grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    degrees: tuple[int, int, int],
    tilt: float,
) -> Grid:
    """What a scanner makes: rows and columns at right angles, planes along their normal or tilted."""
    tilt = tilt if shape[2] > 1 else 0.0  # one plane alone does not tell
    lps = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    lps[:3, :3] = turn @ np.array([[1.0, 0.0, 0.0], [0.0, 1.0, tilt], [0.0, 0.0, 1.0]]) * spacing_mm
    lps[:3, 3] = (-31.5, 12.25, 140.0)
    return Grid(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


# highdicom packs frames of fewer than eight voxels wrongly; writing refuses them, and no scanner makes them.
_sizes = st.integers(3, 7)
_lengths = st.sampled_from([0.4, 0.75, 1.0, 3.3])
_degrees = st.integers(-180, 180)


@pytest.fixture(scope="session")
def scanned_grids() -> st.SearchStrategy[Grid]:
    """Small grids as scanners make them, oblique, some with a tilted gantry."""
    return st.builds(
        scanned_grid,
        st.tuples(_sizes, _sizes, st.integers(1, 7)),
        st.tuples(_lengths, _lengths, _lengths),
        st.tuples(_degrees, _degrees, _degrees),
        st.sampled_from([0.0, 0.3]),
    )
