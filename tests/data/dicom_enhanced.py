"""An enhanced multi-frame MR: many planes in a file, functional groups say which (PS3.3, C.7.6.16)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from tests.data.dicom import (
    AFFINE,
    SHAPE,
    SeriesTruth,
    phantom,
    place_slice,
    series_dataset,
    set_pixels,
    uid_of,
    write_dataset,
)

__all__ = ["write_enhanced_mr"]


def write_enhanced_mr(
    path: Path,
    echo_times_ms: tuple[float, ...] = (10.0, 40.0),
    affine: npt.ArrayLike = AFFINE,
    shape: tuple[int, int, int] = SHAPE,
) -> tuple[SeriesTruth, ...]:
    """Write one file with a volume for each echo; echoes alternate from frame to frame.

    Args:
        path: Of the file.
        echo_times_ms: One for each volume; the second holds the phantom halved, and so on.
        affine: From (column, row, slice) to RAS+ millimetres, (4, 4).
        shape: (columns, rows, slices) of each volume.

    Returns:
        One truth for each echo.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    volumes = [phantom(shape, matrix) // (1 + echo) for echo in range(len(echo_times_ms))]
    dataset = _header(path.stem)
    frames, groups = [], []
    for index in range(shape[2]):
        for echo, echo_time in enumerate(echo_times_ms):
            frames.append(volumes[echo][..., index])
            groups.append(_per_frame(matrix, index, echo, echo_time))
    dataset.PerFrameFunctionalGroupsSequence = groups
    set_pixels(dataset, np.stack(frames, axis=-1))
    dataset.NumberOfFrames = len(frames)
    write_dataset(dataset, path)
    uid = str(dataset.SeriesInstanceUID)
    return tuple(SeriesTruth(volume, matrix, uid, (path,)) for volume in volumes)


def _header(name: str) -> Dataset:
    dataset = series_dataset(name, "MR")
    for keyword in ("EchoTime", "RepetitionTime"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = uid_of(name, "enhanced")
    dataset.InstanceNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    organization = _item(DimensionOrganizationUID=uid_of(name, "dimensions"))
    dataset.DimensionOrganizationSequence = [organization]
    pointers = (("InStackPositionNumber", "FrameContentSequence"), ("EffectiveEchoTime", "MREchoSequence"))
    dataset.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization.DimensionOrganizationUID,
            DimensionIndexPointer=tag_for_keyword(keyword),
            FunctionalGroupPointer=tag_for_keyword(group),
        )
        for keyword, group in pointers
    ]
    frame_type = _item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"])
    dataset.SharedFunctionalGroupsSequence = [_item(MRImageFrameTypeSequence=[frame_type])]
    return dataset


def _per_frame(affine: npt.NDArray[Any], index: int, echo: int, echo_time: float) -> Dataset:
    place = Dataset()
    place_slice(place, affine, index)
    stack = {
        "StackID": "1",
        "InStackPositionNumber": index + 1,
        "DimensionIndexValues": [index + 1, echo + 1],
    }
    measures = _item(PixelSpacing=place.PixelSpacing, SliceThickness=place.SliceThickness)
    values = _item(RescaleSlope="1", RescaleIntercept="0", RescaleType="US")
    return _item(
        FrameContentSequence=[_item(FrameAcquisitionNumber=1, **stack)],
        PlanePositionSequence=[_item(ImagePositionPatient=place.ImagePositionPatient)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=place.ImageOrientationPatient)],
        PixelMeasuresSequence=[measures],
        MREchoSequence=[_item(EffectiveEchoTime=echo_time)],
        PixelValueTransformationSequence=[values],
    )


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
