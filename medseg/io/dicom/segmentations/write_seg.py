"""DICOM SEG out: a label map in the place of the images it was made on (PS3.3 A.51, C.8.20)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medseg import __version__
from medseg.errors import ConfigError, InputError
from medseg.files import atomic_path
from medseg.io.dicom.segmentations.colors import cielab_from_rgb
from medseg.io.dicom.segmentations.concepts import concepts_of
from medseg.io.dicom.segmentations.headers import frame_groups
from medseg.io.dicom.segmentations.identity import (
    MANUFACTURER,
    UNICODE,
    AlgorithmIdentification,
    SeriesIdentity,
)
from medseg.io.dicom.segmentations.onto_planes import indices_on_planes, unique_identifiers
from medseg.io.dicom.segmentations.proof import prove_fractions, prove_label_map
from medseg.io.dicom.segmentations.source import Source, SourceImages, read_source
from medseg.labels import CodedConcept, LabelClass, LabelScheme
from medseg.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

__all__ = ["write_fractions", "write_segmentation"]

_AI = CodedConcept("123110", "DCM", "Artificial Intelligence")
_CONTENT_LABEL = "SEGMENTATION"
_LARGEST_FRACTION = 255
_LARGEST_NUMBER = 65535
_LONGEST_LABEL = 64


def write_segmentation(
    labels: Volume,
    scheme: LabelScheme,
    source: Source,
    out: str | PathLike[str],
    *,
    kind: Literal["binary", "labelmap"] = "binary",
    algorithm: AlgorithmIdentification | None = None,
    series: SeriesIdentity | None = None,
) -> SourceImages:
    """Write a label map as DICOM SEG.

    Every class becomes a segment, also one without voxels; its name, colour and concept go along (a class
    without a concept gets one by its name, see ``concepts_of``). Patient and study are those of the source
    images, as the standard demands. The file is read back and compared before it gets its name.

    Args:
        labels: Shape (1, X, Y, Z), on the grid of the source images, its axes in any order and direction.
            Voxels to ignore belong to no segment.
        scheme: The classes.
        source: The images: a volume of a scan, or the DICOM files of one volume, in any order.
        out: The file to write, such as ``"case.dcm"``.
        kind: ``"binary"``: a bit a voxel and segment, read by every viewer; segments are numbered 1, 2, … in
            the order of the classes. ``"labelmap"``: one number a voxel (standard since 2024, few viewers
            know it); segments keep the values of the classes, which may reach 65535.
        algorithm: What made the segmentation.
        series: How the new series presents itself.

    Returns:
        The images that it refers to; ``resampled`` tells whether labels had to be brought onto their slices.

    Raises:
        GeometryError: The label map is on another grid, or the source images make no volume.
        InputError: A value is not in the scheme, a source image is damaged, or what was written does not
            agree with the label map when read back.
        ConfigError: highdicom is not installed, or the scheme does not suit the kind.

    Example:
        >>> files = sorted(Path("series").glob("*.dcm"))  # doctest: +SKIP
        >>> write_segmentation(read_volume("labels.nii.gz"), scheme, files, "out.dcm")  # doctest: +SKIP
    """
    numbers = _numbers(scheme, kind)
    images, indices = indices_on_planes(labels, scheme, source)
    table = np.asarray([0, *numbers] + ([0] if scheme.ignore is not None else []))
    stored = table.astype(np.uint16 if max(numbers) > 255 else np.uint8)[indices]
    del indices
    _write(
        stored,
        scheme,
        numbers,
        images,
        Path(out),
        kind.upper(),
        algorithm or AlgorithmIdentification(),
        series or SeriesIdentity(),
        lambda path: prove_label_map(
            path, stored, images.grid, dict(zip(numbers, scheme.names[1:], strict=True))
        ),
    )
    return images


def write_fractions(
    fractions: Volume,
    scheme: LabelScheme,
    source: Source,
    out: str | PathLike[str],
    *,
    algorithm: AlgorithmIdentification | None = None,
    series: SeriesIdentity | None = None,
) -> SourceImages:
    """Write probabilities as a fractional DICOM SEG, in steps of 1/255.

    Args:
        fractions: Probability of each foreground class, shape (classes, X, Y, Z), in 0..1; grid as for
            ``write_segmentation``.
        scheme: The classes.
        source: As for ``write_segmentation``.
        out: The file to write.
        algorithm: What made the segmentation.
        series: How the new series presents itself.

    Returns:
        As ``write_segmentation``.

    Raises:
        GeometryError: As ``write_segmentation``.
        InputError: As ``write_segmentation``; also if a value is not in 0..1.
        ConfigError: As ``write_segmentation``.
    """
    numbers = _numbers(scheme, "fractional")
    images = read_source(source)
    aligned = images.aligned(fractions, "the probabilities")
    if aligned.channels != len(numbers):
        raise InputError(
            f"{aligned.channels} channels of probabilities for {len(numbers)} classes",
            fix="leave the background out",
        )
    values = aligned.array.transpose(3, 2, 1, 0)
    if not (values.min() >= 0.0 and values.max() <= 1.0):  # NaN fails both
        raise InputError("probabilities are not all in 0 to 1", fix="give them after softmax or sigmoid")
    _write(
        values,
        scheme,
        numbers,
        images,
        Path(out),
        "FRACTIONAL",
        algorithm or AlgorithmIdentification(),
        series or SeriesIdentity(),
        lambda path: prove_fractions(path, values, images.grid, _LARGEST_FRACTION),
    )
    return images


def _numbers(scheme: LabelScheme, kind: str) -> tuple[int, ...]:
    """The segment number of each foreground class."""
    if kind not in ("binary", "labelmap", "fractional"):
        raise ConfigError(f"'{kind}' is no kind of segmentation", fix="choose binary or labelmap")
    numbers = scheme.values[1:] if kind == "labelmap" else tuple(range(1, len(scheme)))
    if not numbers:
        raise ConfigError("there is no class but the background", fix="declare at least one class")
    if max(numbers) > _LARGEST_NUMBER:
        raise ConfigError(f"class value {max(numbers)} is above {_LARGEST_NUMBER}", fix="write kind 'binary'")
    return numbers


def _write(
    stored: npt.NDArray[Any],
    scheme: LabelScheme,
    numbers: Sequence[int],
    images: SourceImages,
    out: Path,
    kind: str,
    algorithm: AlgorithmIdentification,
    series: SeriesIdentity,
    prove: Callable[[Path], None],
) -> None:
    """Build the object from values (planes, rows, columns[, segments]), save it, prove it, name it."""
    uid_of = unique_identifiers((kind, scheme), images, stored, series, algorithm)
    segments = [
        _describe(number, entry, algorithm, uid_of)
        for number, entry in zip(numbers, scheme.foreground, strict=True)
    ]
    dataset = _build(stored, segments, images, kind, series, uid_of)
    _settle(dataset, images, series, uid_of)
    with atomic_path(out) as path:
        dataset.save_as(path)
        prove(path)


def _build(
    stored: npt.NDArray[Any],
    segments: Sequence[SegmentDescription],
    images: SourceImages,
    kind: str,
    series: SeriesIdentity,
    uid_of: Callable[[str], UID],
) -> Dataset:
    seg = _highdicom_seg()
    date, time = series.date_and_time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty segments and of what the source's header lacks
        return seg.Segmentation(  # type: ignore[no-any-return]
            source_images=list(images.datasets),
            # In the order of the source's frames, which may be another than that of the planes.
            pixel_array=stored[images.planes],
            segmentation_type=kind,
            segment_descriptions=list(segments),
            series_instance_uid=uid_of("series"),
            series_number=series.number,
            sop_instance_uid=uid_of("instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=__version__,
            device_serial_number="0",
            content_label=_CONTENT_LABEL,
            content_description=series.description[:_LONGEST_LABEL],
            specific_character_set=UNICODE,
            series_description=series.description[:_LONGEST_LABEL],
            content_date=date,
            content_time=time,
            series_date=date,
            series_time=time,
            max_fractional_value=_LARGEST_FRACTION,
        )


def _describe(
    number: int, entry: LabelClass, algorithm: AlgorithmIdentification, uid_of: Callable[[str], UID]
) -> SegmentDescription:
    seg = _highdicom_seg()
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.sr import CodedConcept as HighdicomConcept

    def code(concept: CodedConcept) -> HighdicomConcept:
        return HighdicomConcept(concept.value, concept.scheme, concept.meaning[:_LONGEST_LABEL])

    concepts = concepts_of(entry)
    description = seg.SegmentDescription(
        segment_number=number,
        segment_label=entry.name[:_LONGEST_LABEL],
        segmented_property_category=code(concepts.category),
        segmented_property_type=code(concepts.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name[:_LONGEST_LABEL], version=algorithm.version[:_LONGEST_LABEL], family=code(_AI)
        ),
        tracking_id=entry.name[:_LONGEST_LABEL],
        tracking_uid=uid_of(f"segment {number}"),
    )
    if concepts.side is not None:
        item = description.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [code(concepts.side)]
    description.RecommendedDisplayCIELabValue = list(cielab_from_rgb(entry.color))
    return description  # type: ignore[no-any-return]


def _settle(
    dataset: Dataset, images: SourceImages, series: SeriesIdentity, uid_of: Callable[[str], UID]
) -> None:
    """Replace what highdicom draws at random or takes from the clock, and add what it leaves out."""
    date, time = series.date_and_time
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    # The first items name the hospital's scanner, which nobody needs to know; the last one is highdicom's.
    dataset.ContributingEquipmentSequence = dataset.ContributingEquipmentSequence[-1:]
    dataset.ContributingEquipmentSequence[0].ContributionDateTime = date + time
    if "ContentCreatorName" not in dataset:
        dataset.ContentCreatorName = ""
    organization = uid_of("dimensions")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if images.frame_numbers != tuple(range(1, len(images.frame_numbers) + 1)):
        _renumber(dataset, images.frame_numbers)


def _renumber(dataset: Dataset, frame_numbers: Sequence[int]) -> None:
    """Refer to frames by their numbers in the stored object, of which highdicom was shown a part."""
    references = {  # each once, for segments share them
        id(image): image
        for frame in frame_groups(dataset)
        for derivation in frame.get("DerivationImageSequence") or ()
        for image in derivation.SourceImageSequence
    }
    for image in references.values():
        image.ReferencedFrameNumber = frame_numbers[int(image.ReferencedFrameNumber) - 1]


def _highdicom_seg() -> Any:
    try:
        import highdicom.seg
    except ImportError as error:
        raise ConfigError(
            f"DICOM SEG is written with highdicom, and {error.name or 'highdicom'} is not installed",
            fix="run: pip install 'medseg[dicom]'",
        ) from error
    return highdicom.seg
