"""DICOM files made by hand, a few kilobytes each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"

Change = Callable[[int, Dataset], None]


def slice_dataset(index: int, position: Sequence[float], **values: Any) -> Dataset:
    """A CT slice of 4 rows and 6 columns, 0.5 mm between columns and 0.8 mm between rows."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = values.pop("SOPClassUID", CT)
    dataset.SOPInstanceUID = f"1.2.3.4.{index}"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName = "Nobody^Known"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.SeriesNumber = 7
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [float(f"{x:.9g}") for x in position]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.8, 0.5]
    dataset.SliceThickness = 2.0
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 6, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.full((4, 6), index, np.uint16).tobytes()
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


@pytest.fixture
def write_slice(tmp_path: Path) -> Callable[..., Path]:
    """Writes one slice; keywords are DICOM's, ``None`` leaves an element out."""

    def write(
        name: str = "slice", index: int = 0, position: Sequence[float] = (0, 0, 0), **values: Any
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        syntax = values.pop("syntax", ExplicitVRLittleEndian)
        dataset = slice_dataset(index, position, **values)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def write_series(tmp_path: Path) -> Callable[..., Path]:
    """Writes a slice at each position, in files whose names run against them; gives the folder."""

    def write(positions: Sequence[Sequence[float]], change: Change | None = None, **values: Any) -> Path:
        folder = tmp_path / "series"
        folder.mkdir(exist_ok=True)
        already = len(list(folder.iterdir()))
        for index, position in enumerate(positions):
            dataset = slice_dataset(already + index, position, **values)
            if change is not None:
                change(index, dataset)
            dataset.save_as(folder / f"{999 - already - index:03d}", enforce_file_format=True)
        return folder

    return write
