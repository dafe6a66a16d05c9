"""One DICOM file to its frames, from the header alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from medseg.io.dicom.elements import integer, text, texts
from medseg.io.dicom.enhanced import GROUP_TAGS, enhanced_frames, has_groups
from medseg.io.dicom.frames import Frame, Series
from medseg.io.dicom.header_file import DamagedFileError, Header, open_header
from medseg.io.dicom.kinds import LOCALIZER, SECONDARY_CAPTURE, is_secondary_capture, kind_of_other_object
from medseg.io.dicom.mosaic import MosaicError, mosaic_frames
from medseg.io.dicom.plane import (
    PLANE_TAGS,
    long_values,
    orientation,
    padding,
    position,
    rescale,
    spacing,
    thickness,
)
from medseg.io.dicom.stored_voxels import (
    VOXEL_TAGS,
    missing_bytes,
    photometric_of,
    plane_size,
    stored_planes,
)
from medseg.io.dicom.traits import TRAIT_TAGS, classic_traits
from medseg.io.dicom.verdict import SetAside

__all__ = ["read_frames"]

_IMAGE_TYPE: Final = 0x00080008
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_MODALITY: Final = 0x00080060
_SERIES_DESCRIPTION: Final = 0x0008103E
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_SERIES_NUMBER: Final = 0x00200011
_INSTANCE_NUMBER: Final = 0x00200013
_FRAME_OF_REFERENCE: Final = 0x00200052

_MODALITIES_OF_SLICES: Final = frozenset({"CT", "MR", "PT"})

_TAGS: Final[Sequence[int]] = tuple(
    {
        *(_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _SERIES_DESCRIPTION, _STUDY, _SERIES, _SERIES_NUMBER),
        *(_INSTANCE_NUMBER, _FRAME_OF_REFERENCE),
        *PLANE_TAGS,
        *VOXEL_TAGS,
        *TRAIT_TAGS,
        *GROUP_TAGS,
    }
)


def read_frames(path: Path) -> list[Frame] | SetAside:
    """Read what a file's header says of its planes. No voxel is read.

    Args:
        path: A regular file; whether it is DICOM is told by what it holds.

    Returns:
        A frame for each plane, in the order in which they are stored; or why the file holds none.
    """
    try:
        header = open_header(path, _TAGS)
        if header is None:
            return SetAside(str(path), "not DICOM")
        return _frames(header)
    except DamagedFileError as error:
        return SetAside(str(path), "damaged", str(error))
    except MosaicError as error:
        return SetAside(str(path), "mosaic", str(error))
    except MemoryError:
        return SetAside(str(path), "damaged", "its header does not fit into memory")
    except OSError as error:
        return SetAside(str(path), "unreadable", error.strerror or "cannot be read")


def _frames(header: Header) -> list[Frame] | SetAside:
    kind = kind_of_other_object(header.sop_class_uid)
    if kind is not None:
        return SetAside(str(header.path), kind)
    size = plane_size(header)
    if size is None:
        if not header.sop_class_uid:
            raise DamagedFileError("its header does not say what it is")
        if text(header.dataset, _MODALITY) in _MODALITIES_OF_SLICES:
            raise DamagedFileError("its numbers of rows and columns are missing")
        return SetAside(str(header.path), "no image")
    planes = stored_planes(header)
    first = _first_frame(header, size, missing_bytes(header, size, planes))
    image_type = texts(header.dataset, _IMAGE_TYPE)
    if "LOCALIZER" in image_type:
        return SetAside(str(header.path), LOCALIZER)
    if has_groups(header):
        return enhanced_frames(header, first, planes)
    if is_secondary_capture(header.sop_class_uid) and first.position is None:
        return SetAside(str(header.path), SECONDARY_CAPTURE)
    if "MOSAIC" in image_type:
        return mosaic_frames(first)
    return [first] if planes == 1 else _planes_without_positions(first, planes)


def _first_frame(header: Header, size: tuple[int, int, int], missing: int) -> Frame:
    dataset = header.dataset
    # Colours measure nothing: no value is rescaled, and none stands for "no voxel here".
    slope, intercept = rescale(dataset) if size[2] == 1 else (1.0, 0.0)
    slice_thickness, spacing_between = thickness(dataset)
    return Frame(
        path=header.path,
        sop_instance_uid=text(dataset, _SOP_INSTANCE),
        number=0,
        tile=None,
        series=_series(dataset, header.sop_class_uid),
        rows=size[0],
        columns=size[1],
        samples=size[2],
        transfer_syntax_uid=header.transfer_syntax_uid,
        position=position(dataset),
        orientation=orientation(dataset),
        spacing=spacing(dataset),
        thickness=slice_thickness,
        spacing_between=spacing_between,
        instance_number=integer(dataset, _INSTANCE_NUMBER),
        traits=classic_traits(dataset),
        photometric=photometric_of(dataset),
        slope=slope,
        intercept=intercept,
        padding=padding(dataset) if size[2] == 1 else None,
        missing_bytes=missing,
        long_values=long_values(dataset),
    )


def _series(dataset: Dataset, sop_class_uid: str) -> Series:
    return Series(
        uid=text(dataset, _SERIES),
        study_uid=text(dataset, _STUDY),
        frame_of_reference_uid=text(dataset, _FRAME_OF_REFERENCE) or None,
        sop_class_uid=sop_class_uid,
        modality=text(dataset, _MODALITY),
        number=integer(dataset, _SERIES_NUMBER),
        description=text(dataset, _SERIES_DESCRIPTION),
    )


def _planes_without_positions(first: Frame, planes: int) -> list[Frame]:
    """Several planes and one position: where the others lie is not said."""
    return [replace(first, number=number, position=None) for number in range(planes)]
