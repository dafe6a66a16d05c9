"""DICOM folders as scanners and archives leave them, healthy and faulty, each with its truth.

``CASES`` names them: tests and benchmarks run over all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from tests.data.dicom import (
    AFFINE,
    SHAPE,
    SPACING_MM,
    SeriesTruth,
    affine_of,
    centred,
    phantom,
    phantom_at,
    place_slice,
    series_dataset,
    set_pixels,
    uid_of,
    write_dataset,
    write_series,
)
from tests.data.dicom_enhanced import write_enhanced_mr

__all__ = ["CASES", "HEALTHY", "TILT_DEGREES", "Written"]

TILT_DEGREES = 15.0
SAGITTAL_SHAPE = (30, 32, 20)


@dataclass(frozen=True, eq=False)
class Written:
    """What a folder holds.

    Attributes:
        truths: Its volumes, as a correct reader gives them.
        tolerance_mm: How far a slice may lie from where an even grid puts it.
        mendable: Whether resampling may give an honest volume although the stored slices make no even grid.
        extras: Shapes (columns, rows, slices) of what is no volume, but may be converted all the same.
    """

    truths: tuple[SeriesTruth, ...]
    tolerance_mm: float = 0.01
    mendable: bool = False
    extras: tuple[tuple[int, int, int], ...] = ()


def oblique(folder: Path) -> Written:
    """A healthy CT, oblique and anisotropic."""
    return Written((write_series(folder),))


def no_suffix(folder: Path) -> Written:
    """A healthy MR of files without suffix, implicit VR, sagittal."""
    affine = centred(AFFINE[:, [1, 2, 0, 3]], SAGITTAL_SHAPE)
    image = phantom(SAGITTAL_SHAPE, affine)
    return Written(
        (write_series(folder, image, affine, modality="MR", syntax=ImplicitVRLittleEndian, suffix=""),)
    )


def shuffled_numbers(folder: Path) -> Written:
    """Instance numbers that contradict the positions."""
    numbers = np.random.default_rng(0).permutation(SHAPE[2]) + 1

    def edit(dataset: Dataset, index: int) -> None:
        dataset.InstanceNumber = int(numbers[index])

    return Written((write_series(folder, edit=edit),))


def single_slice(folder: Path) -> Written:
    """One slice alone; its thickness is that of the slice."""
    shape = (*SHAPE[:2], 1)
    affine = centred(AFFINE, shape)
    return Written((write_series(folder, phantom(shape, affine), affine),))


def signed_12_bits(folder: Path) -> Written:
    """Negative numbers in 12 bits, the four above them zero; slope 2, intercept -24."""
    return Written(
        (write_series(folder, (phantom() // 2 - 300).astype(np.int16), rescale=(2.0, -24.0), bits_stored=12),)
    )


def big_endian(folder: Path) -> Written:
    """Explicit VR big endian."""
    return Written((write_series(folder, syntax=ExplicitVRBigEndian),))


def deflated(folder: Path) -> Written:
    """Deflated explicit VR little endian."""
    return Written((write_series(folder, syntax=DeflatedExplicitVRLittleEndian),))


def run_length(folder: Path) -> Written:
    """RLE lossless."""
    truth = write_series(folder)
    for path in truth.paths:
        dataset = dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    return Written((truth,))


def unequal_rescale(folder: Path) -> Written:
    """A slope of its own for each slice, as in PET."""
    slopes = 1.0 + np.arange(SHAPE[2]) / 8

    def edit(dataset: Dataset, index: int) -> None:
        dataset.RescaleSlope = str(slopes[index])

    truth = write_series(folder, edit=edit)
    return Written((replace(truth, array=truth.array * slopes),))


def enhanced_two_echoes(folder: Path) -> Written:
    """One enhanced multi-frame MR with two echoes."""
    return Written(write_enhanced_mr(folder / "enhanced.dcm"))


def uneven_half_percent(folder: Path) -> Written:
    """Steps between slices that vary by half a percent, at random."""
    steps_mm = SPACING_MM[2] * (1 + 0.005 * np.random.default_rng(1).choice([-1, 1], SHAPE[2] - 1))
    return Written((_with_steps(folder, steps_mm),), tolerance_mm=SPACING_MM[2] / 5)


def uneven_twenty_percent(folder: Path) -> Written:
    """The upper half's steps are a fifth longer than the lower half's."""
    steps_mm = np.full(SHAPE[2] - 1, SPACING_MM[2])
    steps_mm[: SHAPE[2] // 2] /= 1.2
    return Written((_with_steps(folder, steps_mm),), mendable=True)


def _with_steps(folder: Path, steps_mm: npt.NDArray[np.float64]) -> SeriesTruth:
    indices = np.concatenate([[0.0], np.cumsum(steps_mm)]) / SPACING_MM[2]
    origins_mm = AFFINE[:3, 3] + indices[:, np.newaxis] * AFFINE[:3, 2]
    even = AFFINE.copy()
    even[:3, 2] *= indices[-1] / (SHAPE[2] - 1)
    meant = SeriesTruth(np.empty(SHAPE), even, "", (), origins_mm)
    places = meant.places_mm(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1))
    image = np.round(phantom_at(places)).astype(np.int16)

    def edit(dataset: Dataset, index: int) -> None:
        place_slice(dataset, AFFINE, indices[index])

    truth = write_series(folder, image, edit=edit)
    return replace(truth, affine=even, origins_mm=origins_mm)


def missing_slices(folder: Path) -> Written:
    """Three neighbouring slices are missing."""
    return Written((write_series(folder, skip=(9, 10, 11)),), mendable=True)


def gantry_tilt(folder: Path) -> Written:
    """A CT with a gantry tilted by 15 degrees: the table moves on at that angle to the slices."""
    affine = affine_of((TILT_DEGREES, 0.0, 0.0))
    affine[:3, 2] = [0.0, 0.0, SPACING_MM[2]]
    affine = centred(affine, SHAPE)

    def edit(dataset: Dataset, _index: int) -> None:
        dataset.GantryDetectorTilt = str(TILT_DEGREES)

    return Written((write_series(folder, phantom(SHAPE, affine), affine, edit=edit),), mendable=True)


def long_orientation(folder: Path) -> Written:
    """Direction cosines of 64 characters each, four times what the standard allows (PS3.5, 6.2)."""
    lps = AFFINE[:3, :2] / np.linalg.norm(AFFINE[:3, :2], axis=0) * [[-1], [-1], [1]]
    texts = [f"{cosine:+.61f}" for cosine in lps.T.ravel()]

    def edit(dataset: Dataset, _index: int) -> None:
        del dataset.ImageOrientationPatient  # an element keeps the way in which it was validated
        with config.disable_value_validation():
            dataset.ImageOrientationPatient = texts

    return Written((write_series(folder, edit=edit),))


def mixed_orientations(folder: Path) -> Written:
    """Axial and sagittal slices under one SeriesInstanceUID."""
    sagittal = centred(AFFINE[:, [1, 2, 0, 3]], SAGITTAL_SHAPE)

    def edit(dataset: Dataset, index: int) -> None:
        dataset.SOPInstanceUID = uid_of("sagittal", index)
        dataset.InstanceNumber = SHAPE[2] + index + 1

    image = phantom(SAGITTAL_SHAPE, sagittal)
    return Written((write_series(folder), write_series(folder, image, sagittal, name=folder.name, edit=edit)))


def two_b_values(folder: Path) -> Written:
    """Two diffusion weightings at the same positions under one SeriesInstanceUID."""
    truths = []
    for number, b_value in enumerate((0.0, 1000.0)):

        def edit(dataset: Dataset, index: int, number: int = number, b_value: float = b_value) -> None:
            dataset.SOPInstanceUID = uid_of("diffusion", number, index)
            dataset.InstanceNumber = number * SHAPE[2] + index + 1
            dataset.DiffusionBValue = b_value

        image = (phantom() // (1 + number)).astype(np.int16)
        truths.append(write_series(folder, image, name=folder.name, modality="MR", edit=edit))
    return Written(tuple(truths))


def duplicate_positions(folder: Path) -> Written:
    """Slice 10 is there twice, the second time with other voxels: nothing tells which is right."""
    truth = write_series(folder)
    again = dcmread(truth.paths[10])
    again.SOPInstanceUID = uid_of("again")
    again.InstanceNumber = SHAPE[2] + 1
    set_pixels(again, truth.array[::-1, :, 10])
    write_dataset(again, folder / "again.dcm")
    return Written((truth,))


def truncated_file(folder: Path) -> Written:
    """The voxels of one slice end half way."""
    truth = write_series(folder)
    content = truth.paths[12].read_bytes()
    truth.paths[12].write_bytes(content[: len(content) - SHAPE[0] * SHAPE[1]])
    return Written((truth,))


def differing_rows(folder: Path) -> Written:
    """One slice has fewer rows than the others."""
    image = phantom()

    def edit(dataset: Dataset, index: int) -> None:
        if index == 7:
            set_pixels(dataset, image[:, :-6, index])

    shorter = (SHAPE[0], SHAPE[1] - 6, 1)
    return Written((write_series(folder, image, edit=edit),), mendable=True, extras=(shorter,))


def no_position(folder: Path) -> Written:
    """Neither position nor orientation in any file."""

    def edit(dataset: Dataset, _index: int) -> None:
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient

    return Written((write_series(folder, edit=edit),))


def zero_pixel_spacing(folder: Path) -> Written:
    """PixelSpacing 0 by 0."""

    def edit(dataset: Dataset, _index: int) -> None:
        dataset.PixelSpacing = ["0", "0"]

    return Written((write_series(folder, edit=edit),))


def colours(folder: Path) -> Written:
    """Slices in red, green and blue; the truth is the red."""
    red = np.clip(phantom() // 4, 0, 255).astype(np.uint8)

    def edit(dataset: Dataset, index: int) -> None:
        _set_colours(
            dataset, np.stack([red[..., index], red[..., index] // 2, red[..., index] // 3], axis=-1)
        )
        del dataset.RescaleSlope, dataset.RescaleIntercept

    truth = write_series(folder, edit=edit)
    return Written((replace(truth, array=red),))


def _set_colours(dataset: Dataset, colours: npt.NDArray[Any]) -> None:
    """Put (columns, rows, 3) of 8 bits into a file."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.Columns, dataset.Rows = colours.shape[:2]
    dataset.PixelData = colours.transpose(1, 0, 2).tobytes()
    dataset["PixelData"].VR = "OB"


def mixed_archive(folder: Path) -> Written:
    """Two series in nested folders and in one, a localizer, a secondary capture, a report, a DICOMDIR."""
    first = write_series(folder / "one" / "deep", name="first", suffix="")
    second = write_series(folder / "one" / "deep", phantom() // 3, name="second", modality="MR", suffix="")
    for path in second.paths[::2]:
        shutil.move(path, folder / "one")
    localizer_shape = (50, 48, 3)
    coronal = centred(AFFINE[:, [0, 2, 1, 3]], localizer_shape)
    write_series(
        folder / "two",
        phantom(localizer_shape, coronal),
        coronal,
        name="localizer",
        edit=lambda dataset, _: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    write_dataset(_secondary_capture(), folder / "two" / "capture")
    write_dataset(_report(), folder / "two" / "report")
    (folder / "two" / "notes.txt").write_text("no DICOM")
    directory = FileSet()
    directory.add(first.paths[0])
    directory.write(folder / "export")
    shutil.move(folder / "export" / "DICOMDIR", folder / "DICOMDIR")
    shutil.rmtree(folder / "export")
    return Written((first, second), extras=(localizer_shape, (44, 20, 1)))


def _secondary_capture() -> Dataset:
    dataset = series_dataset("capture")
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, uid_of("capture")
    dataset.Modality, dataset.ConversionType, dataset.InstanceNumber = "OT", "WSD", 1
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    _set_colours(dataset, np.full((44, 20, 3), 99, dtype=np.uint8))
    return dataset


def _report() -> Dataset:
    dataset = series_dataset("report")
    dataset.SOPClassUID, dataset.SOPInstanceUID = BasicTextSRStorage, uid_of("report")
    dataset.Modality, dataset.InstanceNumber = "SR", 1
    dataset.CompletionFlag, dataset.VerificationFlag, dataset.ValueType = (
        "COMPLETE",
        "UNVERIFIED",
        "CONTAINER",
    )
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "18748-4", "LN", "Imaging report"
    dataset.ConceptNameCodeSequence = [name]
    dataset.ContinuityOfContent = "SEPARATE"
    return dataset


HEALTHY: Mapping[str, Callable[[Path], Written]] = {
    "oblique": oblique,
    "no suffix": no_suffix,
    "shuffled instance numbers": shuffled_numbers,
    "single slice": single_slice,
    "signed 12 bits": signed_12_bits,
    "big endian": big_endian,
    "deflated": deflated,
    "RLE": run_length,
    "unequal rescale": unequal_rescale,
    "enhanced, two echoes": enhanced_two_echoes,
    "spacing varies by 0.5 %": uneven_half_percent,
    "64-character orientation": long_orientation,
    "mixed orientations": mixed_orientations,
    "two b-values": two_b_values,
    "mixed archive": mixed_archive,
    "colours": colours,
}
"""Folders whose volumes a reader must give as they are."""

CASES: Mapping[str, Callable[[Path], Written]] = {
    **HEALTHY,
    "gantry tilt of 15 degrees": gantry_tilt,
    "spacing varies by 20 %": uneven_twenty_percent,
    "three slices missing": missing_slices,
    "duplicate positions": duplicate_positions,
    "truncated file": truncated_file,
    "rows that differ": differing_rows,
    "no position": no_position,
    "zero pixel spacing": zero_pixel_spacing,
}
"""All folders, by name."""
