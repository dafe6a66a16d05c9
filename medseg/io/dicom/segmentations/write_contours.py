"""RT Structure Set out: closed planar contours of every class (PS3.3 A.19, C.8.8.5 to C.8.8.8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage

from medseg import __version__
from medseg.errors import ConfigError
from medseg.files import atomic_path
from medseg.geometry import FloatArray, Grid
from medseg.io.dicom.segmentations.concepts import concepts_of
from medseg.io.dicom.segmentations.identity import (
    MANUFACTURER,
    UNICODE,
    AlgorithmIdentification,
    SeriesIdentity,
)
from medseg.io.dicom.segmentations.onto_planes import indices_on_planes, unique_identifiers
from medseg.io.dicom.segmentations.outlines import outlines_of
from medseg.io.dicom.segmentations.planes import lps_from_ras
from medseg.io.dicom.segmentations.proof import prove_contours
from medseg.io.dicom.segmentations.source import Source, SourceImages
from medseg.labels import CodedConcept, LabelClass, LabelScheme
from medseg.volume import Volume

__all__ = ["write_contours"]

_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired: what a structure set still has to name as the class of a study."""

_COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName", "FrameOfReferenceUID",
)  # fmt: skip
_CONTOUR_DATA = Tag("ContourData")
_LONGEST_NUMBER = 2**31 - 1
_SHORT, _LONG = 16, 64


def write_contours(
    labels: Volume,
    scheme: LabelScheme,
    source: Source,
    out: str | PathLike[str],
    *,
    algorithm: AlgorithmIdentification | None = None,
    series: SeriesIdentity | None = None,
) -> SourceImages:
    """Write a label map as an RT Structure Set.

    Every class becomes a region of interest with the value of the class as its number, also one without
    voxels. Its contours lie on the planes of the source images; holes are joined by keyholes (see
    ``outlines_of``), for several closed contours of a plane are read as a sum by some programs and as
    exclusive by others. Filled at voxel centres, the contours give back exactly the same voxels: this is
    proven on the file before it gets its name.

    Args:
        labels: Shape (1, X, Y, Z), on the grid of the source images, its axes in any order and direction.
            Voxels to ignore belong to no region.
        scheme: The classes.
        source: The images: a volume of a scan, or the DICOM files of one volume, in any order.
        out: The file to write, such as ``"case.dcm"``.
        algorithm: What made the segmentation.
        series: How the new series presents itself.

    Returns:
        The images that it refers to; ``resampled`` tells whether labels had to be brought onto their slices.

    Raises:
        GeometryError: The label map is on another grid, or the source images make no volume.
        InputError: A value is not in the scheme, a source image is damaged, or what was written does not
            agree with the label map when read back.
        ConfigError: There is no class, or a value is too large.

    Example:
        >>> files = sorted(Path("series").glob("*.dcm"))  # doctest: +SKIP
        >>> write_contours(read_volume("labels.nii.gz"), scheme, files, "structures.dcm")  # doctest: +SKIP
    """
    if not scheme.foreground or scheme.values[-1] > _LONGEST_NUMBER:
        raise ConfigError(
            "no class can be written", fix="declare at least one class, with a value below 2^31"
        )
    images, indices = indices_on_planes(labels, scheme, source)
    identity, maker = series or SeriesIdentity(), algorithm or AlgorithmIdentification()
    uid_of = unique_identifiers((scheme,), images, indices, identity, maker)
    dataset = _new_object(images, identity, maker, uid_of)
    _add_regions(dataset, indices, scheme, images)
    with atomic_path(out) as path:
        dataset.save_as(path, enforce_file_format=True)
        prove_contours(path, indices, images.grid, scheme)
    return images


def _new_object(
    images: SourceImages,
    series: SeriesIdentity,
    algorithm: AlgorithmIdentification,
    uid_of: Callable[[str], UID],
) -> Dataset:
    date, time = series.date_and_time
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    # With explicit types, a contour above 64 kB would lose its own.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SpecificCharacterSet = UNICODE
    for keyword in _COPIED:
        if keyword in images.first:
            dataset[keyword] = images.first[keyword]
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, uid_of("instance")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.Modality = "RTSTRUCT"
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, algorithm.name[:_LONG]
    dataset.SoftwareVersions = [__version__, algorithm.version[:_LONG]]
    dataset.SeriesInstanceUID, dataset.SeriesNumber = uid_of("series"), series.number
    dataset.SeriesDate, dataset.SeriesTime = date, time
    dataset.SeriesDescription = series.description[:_LONG]
    dataset.OperatorsName = ""
    dataset.InstanceNumber = 1
    dataset.PositionReferenceIndicator = images.first.get("PositionReferenceIndicator") or ""
    dataset.StructureSetLabel = series.description[:_SHORT]
    dataset.StructureSetDate, dataset.StructureSetTime = date, time
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame_of_reference(images)]
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _referenced_frame_of_reference(images: SourceImages) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = images.first.SeriesInstanceUID
    series.ContourImageSequence = [_reference(images, frame) for frame in range(len(images.planes))]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = images.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame_of_reference = Dataset()
    frame_of_reference.FrameOfReferenceUID = images.first.FrameOfReferenceUID
    frame_of_reference.RTReferencedStudySequence = [study]
    return frame_of_reference


def _reference(images: SourceImages, frame: int) -> Dataset:
    """To the image of a frame, and to the frame where the image has several."""
    image = images.first if images.frame_numbers else images.datasets[frame]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if images.frame_numbers:
        item.ReferencedFrameNumber = images.frame_numbers[frame]
    return item


def _add_regions(
    dataset: Dataset,
    indices: npt.NDArray[Any],
    scheme: LabelScheme,
    images: SourceImages,
) -> None:
    frame_on = {int(plane): frame for frame, plane in enumerate(images.planes)}
    present = [set(np.flatnonzero(np.bincount(plane.ravel())).tolist()) for plane in indices]
    regions, contours, observations = [], [], []
    for index, entry in enumerate(scheme.foreground, start=1):
        items = []
        for plane, found in enumerate(present):
            if index in found:
                polygons = outlines_of(indices[plane] == index)
                reference = _reference(images, frame_on[plane])
                items += [_contour(polygon, plane, images.grid, reference) for polygon in polygons]
        for number, item in enumerate(items, start=1):
            item.ContourNumber = number
        regions.append(_region(entry, images.first.FrameOfReferenceUID))
        contours.append(_contours_of_region(entry, items))
        observations.append(_observation(index, entry))
    dataset.StructureSetROISequence = regions
    dataset.ROIContourSequence = contours
    dataset.RTROIObservationsSequence = observations


def _contour(polygon: FloatArray, plane: int, grid: Grid, reference: Dataset) -> Dataset:
    indices = np.column_stack([polygon, np.full(len(polygon), float(plane))])
    item = Dataset()
    item.ContourImageSequence = [reference]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(polygon)
    # As if it had been read so: then its text is not parsed to be written.
    item.set_original_encoding(True, True, "iso8859")
    item[_CONTOUR_DATA] = _decimals(lps_from_ras(grid.to_world(indices)), min(grid.spacing_mm))
    return item


def _decimals(positions: FloatArray, spacing_mm: float) -> RawDataElement:
    """Contour data to a ten-thousandth of the spacing, as text.

    It is put in as it lies in the file: pydicom would make an object of each number.
    """
    places = max(3, 4 - math.floor(math.log10(spacing_mm)))
    text = "\\".join([f"{value:.{places}f}" for value in positions.ravel().tolist()]).encode()
    padded = text + b" " * (len(text) % 2)
    return RawDataElement(_CONTOUR_DATA, "DS", len(padded), padded, 0, True, True)


def _region(entry: LabelClass, frame_of_reference_uid: str) -> Dataset:
    region = Dataset()
    region.ROINumber = entry.value
    region.ReferencedFrameOfReferenceUID = frame_of_reference_uid
    region.ROIName = entry.name[:_LONG]
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    return region


def _contours_of_region(entry: LabelClass, items: Sequence[Dataset]) -> Dataset:
    contours = Dataset()
    contours.ROIDisplayColor = list(entry.color)
    contours.ReferencedROINumber = entry.value
    if items:  # an empty sequence is not allowed, an absent one is
        contours.ContourSequence = list(items)
    return contours


def _observation(number: int, entry: LabelClass) -> Dataset:
    concepts = concepts_of(entry)
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = entry.value
    observation.ROIObservationLabel = entry.name[:_SHORT]
    observation.RTROIInterpretedType = "ORGAN" if concepts.is_anatomical else ""
    observation.ROIInterpreter = ""
    code = _code(concepts.type)
    if concepts.side is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [_code(concepts.side)]
    observation.RTROIIdentificationCodeSequence = [code]
    return observation


def _code(concept: CodedConcept) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = concept.value, concept.scheme
    item.CodeMeaning = concept.meaning[:_LONG]
    return item
