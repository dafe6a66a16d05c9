"""A frame: one plane of voxels in a DICOM file, with what the header says about it and nothing guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Frame", "Series", "Tile"]

Point = tuple[float, float, float]
Trait = str | int | float | tuple[str, ...] | None


@dataclass(frozen=True)
class Series:
    """What all frames of a series share.

    Attributes:
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        frame_of_reference_uid: FrameOfReferenceUID, where there is one.
        sop_class_uid: SOPClassUID.
        modality: ``"CT"``, ``"MR"``, …
        number: SeriesNumber, where there is one.
        description: SeriesDescription, or an empty text. People write names into it: it is shown on a
            terminal, and written nowhere unless names are to be kept.
    """

    uid: str
    study_uid: str
    frame_of_reference_uid: str | None
    sop_class_uid: str
    modality: str
    number: int | None = None
    description: str = field(default="", repr=False)


@dataclass(frozen=True)
class Tile:
    """Where in a stored plane a frame lies that shares the plane with others (a mosaic).

    Attributes:
        first_row: Of the plane, from 0.
        first_column: Of the plane, from 0.
    """

    first_row: int
    first_column: int


@dataclass(frozen=True)
class Frame:
    """One plane of voxels. Lengths are millimetres, positions and directions in DICOM's own frame (LPS).

    What the header does not say is ``None``: nothing is filled in.

    Attributes:
        path: The file.
        sop_instance_uid: Of the file.
        number: Which of the file's stored planes, from 0.
        tile: Its part of that plane, if it is not all of it.
        series: What it shares with its series.
        rows: Voxels along a column.
        columns: Voxels along a row.
        samples: 1, or 3 for colours.
        transfer_syntax_uid: How the voxels are stored.
        position: ImagePositionPatient: centre of the first voxel.
        orientation: ImageOrientationPatient: direction in which the column index grows, then the row index.
        spacing: PixelSpacing: between rows, then between columns.
        thickness: SliceThickness.
        spacing_between: SpacingBetweenSlices.
        instance_number: InstanceNumber of the file. Good for a message, never for an order.
        traits: What tells one volume of a series from another, by its DICOM keyword (``ImageType``,
            ``EchoTime``, ``DiffusionBValue``, ``AcquisitionNumber``, ``TemporalPositionIndex``, …).
        photometric: PhotometricInterpretation: what stored values are shown as.
        slope: RescaleSlope; 1 if the header has none.
        intercept: RescaleIntercept; 0 if the header has none.
        padding: Smallest and largest stored value that stands for "no voxel here", where declared.
        missing_bytes: How much of the file's voxels is not there, by the file's size.
        long_values: Keywords of values that are longer than DICOM allows; they were read nevertheless.
    """

    path: Path
    sop_instance_uid: str
    number: int
    tile: Tile | None
    series: Series
    rows: int
    columns: int
    samples: int
    transfer_syntax_uid: str
    position: Point | None
    orientation: tuple[float, float, float, float, float, float] | None
    spacing: tuple[float, float] | None
    thickness: float | None = None
    spacing_between: float | None = None
    instance_number: int | None = None
    traits: Mapping[str, Trait] = field(default_factory=dict)
    photometric: str = "MONOCHROME2"
    slope: float = 1.0
    intercept: float = 0.0
    padding: tuple[int, int] | None = None
    missing_bytes: int = 0
    long_values: tuple[str, ...] = ()
