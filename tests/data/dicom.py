"""DICOM series of a phantom whose truth is known by formula: healthy ones, written with pydicom."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation

from medseg.geometry import Grid

__all__ = [
    "AFFINE",
    "BACKGROUND",
    "LANDMARKS_MM",
    "LPS_FROM_RAS",
    "PATIENT",
    "SHAPE",
    "SeriesTruth",
    "affine_of",
    "landmark_offsets_voxels",
    "phantom",
    "phantom_at",
    "place_slice",
    "series_dataset",
    "set_pixels",
    "uid_of",
    "write_dataset",
    "write_series",
]

FloatArray = npt.NDArray[np.float64]
Edit = Callable[[Dataset, int], None]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (40, 36, 24)
SPACING_MM = (1.5, 1.25, 2.5)
CENTRE_MM = np.array([10.0, -20.0, 30.0])
BACKGROUND = 40.0
LANDMARKS_MM = CENTRE_MM + np.array([[-14.0, 6.0, -15.0], [12.0, -8.0, 3.0], [-4.0, 8.0, 17.0]])
"""Centroids of the three ellipsoids in RAS+ millimetres, (3, 3)."""
SEMI_AXES_MM = np.array([[11.0, 8.0, 12.0], [10.0, 9.0, 10.0], [12.0, 9.0, 9.0]])
PEAKS = (400.0, 700.0, 1000.0)
PATIENT = ("Secretname^Janedoe", "ID-4711-SECRET")
"""Name and identifier that stand in every file: no output may hold them."""


@dataclass(frozen=True, eq=False)
class SeriesTruth:
    """What a correct reader makes of a series.

    Attributes:
        array: Values after rescaling, (columns, rows, slices).
        affine: From (column, row, slice) to RAS+ millimetres, (4, 4).
        uid: SeriesInstanceUID.
        paths: The files, in the order of the slices.
        origins_mm: Where the first voxel of each slice lies, in RAS+ millimetres, (slices, 3), if not where
            the affine puts it.
    """

    array: npt.NDArray[Any]
    affine: FloatArray
    uid: str
    paths: tuple[Path, ...] = ()
    origins_mm: FloatArray | None = None

    def places_mm(self, indices: npt.NDArray[np.int_]) -> FloatArray:
        """Where voxels (column, row, slice) lie: indices (..., 3) to RAS+ millimetres (..., 3)."""
        slices = indices[..., 2]
        if self.origins_mm is None:
            origins = self.affine[:3, 3] + slices[..., np.newaxis] * self.affine[:3, 2]
        else:
            origins = self.origins_mm[slices]
        return np.asarray(indices[..., :2] @ self.affine[:3, :2].T + origins)


def affine_of(
    rotation_degrees: tuple[float, float, float] = (8.0, -5.0, 12.0),
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    shape: tuple[int, int, int] = SHAPE,
) -> FloatArray:
    """Axial slices (columns to the left, rows to the back, slices to the head), turned about the centre."""
    axes = Rotation.from_euler("xyz", rotation_degrees, degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    return centred(affine, shape)


def centred(affine: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """The same axes, so that the middle of ``shape`` lies in the middle of the phantom."""
    moved = affine.copy()
    moved[:3, 3] = CENTRE_MM - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return moved


AFFINE = affine_of()


def phantom_at(points_mm: npt.ArrayLike) -> FloatArray:
    """The phantom's intensity at RAS+ millimetres (..., 3): three smooth ellipsoids that do not touch."""
    points = np.asarray(points_mm, dtype=np.float64)
    values = np.full(points.shape[:-1], BACKGROUND)
    for centre, axes, peak in zip(LANDMARKS_MM, SEMI_AXES_MM, PEAKS, strict=True):
        squared = (((points - centre) / axes) ** 2).sum(axis=-1)
        values += peak * np.clip(1.0 - squared, 0.0, None) ** 2
    return values


def phantom(shape: tuple[int, int, int] = SHAPE, affine: npt.ArrayLike = AFFINE) -> npt.NDArray[np.int16]:
    """The phantom sampled on a grid, rounded: (columns, rows, slices)."""
    return np.round(phantom_at(_places(shape, affine))).astype(np.int16)


def _places(shape: tuple[int, int, int], affine: npt.ArrayLike) -> FloatArray:
    matrix = np.asarray(affine, dtype=np.float64)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return indices @ matrix[:3, :3].T + matrix[:3, 3]


def landmark_offsets_voxels(array: npt.NDArray[Any], affine: npt.ArrayLike) -> FloatArray:
    """How far each ellipsoid's centroid in an image lies from where it is, in voxels along each axis: (3, 3).

    Infinite where less than two thirds of an ellipsoid are found around its place.
    """
    grid = Grid(array.shape, np.asarray(affine, dtype=np.float64))
    points = _places(grid.shape, affine)
    offsets = np.full((3, 3), np.inf)
    for row, (centre, axes, peak) in enumerate(zip(LANDMARKS_MM, SEMI_AXES_MM, PEAKS, strict=True)):
        near = (((points - centre) / (1.2 * axes)) ** 2).sum(axis=-1) <= 1.0
        weights = np.clip(array[near] - BACKGROUND, 0.0, None)
        mass = peak * 32 / 105 * np.pi * axes.prod() / (1000.0 * grid.voxel_volume_ml)
        if abs(weights.sum() / mass - 1.0) <= 1 / 3:
            centroid = weights @ points[near] / weights.sum()
            offsets[row] = grid.to_index(centroid) - grid.to_index(centre)
    return offsets


def uid_of(*seed: object) -> str:
    """A valid UID that depends on ``seed`` alone."""
    return str(generate_uid(entropy_srcs=[repr(seed)]))


def series_dataset(name: str, modality: str = "CT") -> Dataset:
    """What all files of a series share, without geometry and voxels.

    Args:
        name: The UIDs follow from it: another name is another series, of another study.
        modality: ``"CT"`` or ``"MR"``.
    """
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    dataset.PatientName, dataset.PatientID = PATIENT
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20200102"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101112"
    dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = "", "1", ""
    dataset.Manufacturer, dataset.InstitutionName = "medseg phantom", "Secret Hospital"
    dataset.Modality = modality
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if modality == "CT" else ["ORIGINAL", "PRIMARY", "M"]
    dataset.StudyInstanceUID = uid_of(name, "study")
    dataset.SeriesInstanceUID = uid_of(name, "series")
    dataset.FrameOfReferenceUID = uid_of(name, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber, dataset.AcquisitionNumber = 1, 1
    dataset.SeriesDescription = f"phantom {name}"[:64]
    dataset.PatientPosition = "HFS"
    if modality == "CT":
        dataset.KVP, dataset.ConvolutionKernel = "120", "STANDARD"
    else:
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "GR", "NONE", ""
        dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", 1
        dataset.RepetitionTime, dataset.EchoTime = "500", "10"
    return dataset


def place_slice(dataset: Dataset, affine: npt.ArrayLike, index: float) -> None:
    """Write position, orientation and spacing of slice ``index`` of a grid."""
    lps = LPS_FROM_RAS @ np.asarray(affine, dtype=np.float64)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    across, down = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
    dataset.ImagePositionPatient = _decimals(lps[:3, 3] + index * lps[:3, 2])
    dataset.ImageOrientationPatient = _decimals([*across, *down])
    dataset.PixelSpacing = _decimals([spacing[1], spacing[0]])  # between rows first: PS3.3, 10.7.1.3
    dataset.SliceThickness = _decimals([abs(np.cross(across, down) @ lps[:3, 2])])[0]


def _decimals(values: npt.ArrayLike) -> list[str]:
    return [format_number_as_ds(float(value) + 0.0) for value in np.asarray(values).ravel()]


def set_pixels(
    dataset: Dataset,
    stored: npt.NDArray[Any],
    *,
    bits_stored: int = 16,
    big_endian: bool = False,
) -> None:
    """Put voxels of 16 bits into a file.

    Args:
        dataset: Gets the image pixel module.
        stored: (columns, rows) of one plane, or (columns, rows, frames).
        bits_stored: Higher bits are written as zeros, of negative numbers too.
        big_endian: Byte order of the voxels.
    """
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Columns, dataset.Rows = stored.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    planes = stored.astype(np.int64).T & (2**bits_stored - 1)
    dataset.PixelData = planes.astype(">u2" if big_endian else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def write_dataset(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a file with preamble and file meta information, values as they are, too long ones too."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    dataset.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    with config.disable_value_validation():
        dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    array: npt.NDArray[Any] | None = None,
    affine: npt.ArrayLike = AFFINE,
    *,
    name: str = "",
    modality: str = "CT",
    syntax: str = ExplicitVRLittleEndian,
    suffix: str = ".dcm",
    rescale: tuple[float, float] = (1.0, 0.0),
    bits_stored: int = 16,
    skip: Collection[int] = (),
    edit: Edit | None = None,
) -> SeriesTruth:
    """Write a classic series, one file for each slice, with names that say nothing of their order.

    Args:
        folder: Is made.
        array: Stored values, (columns, rows, slices), int16 or uint16; the phantom on this grid if not given.
        affine: From (column, row, slice) to RAS+ millimetres, (4, 4); sheared where the gantry is tilted.
        name: Of the series: its UIDs follow from it. The folder's name if not given.
        modality: ``"CT"`` or ``"MR"``.
        syntax: Transfer syntax: an uncompressed one.
        suffix: Of the files; may be empty.
        rescale: Slope and intercept.
        bits_stored: Of the 16 that are allocated.
        skip: Slices that are not written.
        edit: Called with each file's dataset and its slice, before it is written: where faults come from.

    Returns:
        The values and the grid that were meant, whatever ``skip`` and ``edit`` did to the files.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    stored = phantom(SHAPE, matrix) if array is None else array
    shared = series_dataset(name or folder.name, modality)
    paths = []
    for index in sorted(set(range(stored.shape[2])) - set(skip)):
        dataset = Dataset()
        dataset.update(shared)
        dataset.SOPInstanceUID = uid_of(shared.SeriesInstanceUID, index)
        dataset.InstanceNumber = index + 1
        place_slice(dataset, matrix, index)
        set_pixels(
            dataset, stored[..., index], bits_stored=bits_stored, big_endian=syntax == ExplicitVRBigEndian
        )
        if modality == "CT" or rescale != (1.0, 0.0):
            dataset.RescaleSlope, dataset.RescaleIntercept = _decimals(rescale)
        if edit is not None:
            edit(dataset, index)
        file_name = hashlib.sha256(dataset.SOPInstanceUID.encode()).hexdigest()[:12] + suffix
        paths.append(write_dataset(dataset, folder / file_name, syntax))
    slope, intercept = rescale
    values = stored if rescale == (1.0, 0.0) else stored * slope + intercept
    return SeriesTruth(values, matrix, str(shared.SeriesInstanceUID), tuple(paths))
