"""Where a plane lies and what its stored values mean, from a header or from items of functional groups."""

from __future__ import annotations

import math
from typing import Final

from pydicom.dataset import Dataset

from medseg.io.dicom.elements import integer, number, numbers, too_long
from medseg.io.dicom.frames import Point
from medseg.io.dicom.header_file import DamagedFileError

__all__ = [
    "PLANE_TAGS",
    "long_values",
    "orientation",
    "padding",
    "position",
    "rescale",
    "spacing",
    "thickness",
]

POSITION: Final = 0x00200032
ORIENTATION: Final = 0x00200037
PIXEL_SPACING: Final = 0x00280030
SLICE_THICKNESS: Final = 0x00180050
SPACING_BETWEEN_SLICES: Final = 0x00180088
RESCALE_INTERCEPT: Final = 0x00281052
RESCALE_SLOPE: Final = 0x00281053
PADDING_VALUE: Final = 0x00280120
PADDING_LIMIT: Final = 0x00280121
BITS_ALLOCATED: Final = 0x00280100
PIXEL_REPRESENTATION: Final = 0x00280103

_LENGTHS: Final = (POSITION, ORIENTATION, PIXEL_SPACING, SLICE_THICKNESS, SPACING_BETWEEN_SLICES)
PLANE_TAGS: Final = (
    *_LENGTHS,
    RESCALE_INTERCEPT,
    RESCALE_SLOPE,
    PADDING_VALUE,
    PADDING_LIMIT,
    BITS_ALLOCATED,
    PIXEL_REPRESENTATION,
)
"""What has to be read of a header for the functions of this module."""

Orientation = tuple[float, float, float, float, float, float]


def position(dataset: Dataset) -> Point | None:
    """ImagePositionPatient; NaN where it is there but no position."""
    values = _exactly(numbers(dataset, POSITION), 3)
    return None if values is None else (values[0], values[1], values[2])


def orientation(dataset: Dataset) -> Orientation | None:
    """ImageOrientationPatient; NaN where it is there but no orientation."""
    values = _exactly(numbers(dataset, ORIENTATION), 6)
    return None if values is None else (values[0], values[1], values[2], values[3], values[4], values[5])


def spacing(dataset: Dataset) -> tuple[float, float] | None:
    """PixelSpacing: between rows, then between columns; NaN where it is there but no pair of lengths."""
    values = _exactly(numbers(dataset, PIXEL_SPACING), 2)
    return None if values is None else (values[0], values[1])


def thickness(dataset: Dataset) -> tuple[float | None, float | None]:
    """SliceThickness and SpacingBetweenSlices."""
    return number(dataset, SLICE_THICKNESS), number(dataset, SPACING_BETWEEN_SLICES)


def long_values(dataset: Dataset) -> tuple[str, ...]:
    """Keywords of lengths that are longer than a decimal string may be."""
    return too_long(dataset, _LENGTHS)


def rescale(dataset: Dataset) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept; 1 and 0 where the header has none.

    Raises:
        DamagedFileError: One is no finite number, or the slope is 0.
    """
    slope = numbers(dataset, RESCALE_SLOPE) or (1.0,)
    intercept = numbers(dataset, RESCALE_INTERCEPT) or (0.0,)
    if not math.isfinite(slope[0]) or not math.isfinite(intercept[0]) or slope[0] == 0.0:
        raise DamagedFileError("its rescale slope or intercept is no usable number")
    return slope[0], intercept[0]


def padding(dataset: Dataset) -> tuple[int, int] | None:
    """The stored values that stand for "no voxel here": PixelPaddingValue to PixelPaddingRangeLimit."""
    bits = integer(dataset, BITS_ALLOCATED) or 16
    signed = integer(dataset, PIXEL_REPRESENTATION) == 1
    ends = [integer(dataset, tag, "SS" if signed else "US") for tag in (PADDING_VALUE, PADDING_LIMIT)]
    # Writers declare the element unsigned beside signed voxels, and the other way round.
    known = [_as_stored(end, bits, signed=signed) for end in ends if end is not None]
    return (min(known), max(known)) if ends[0] is not None else None


def _as_stored(value: int, bits: int, *, signed: bool) -> int:
    wrapped = value % (1 << bits) if 0 < bits <= 64 else value
    return wrapped - (1 << bits) if signed and wrapped >= 1 << (bits - 1) else wrapped


def _exactly(values: tuple[float, ...], count: int) -> tuple[float, ...] | None:
    if not values:
        return None
    return values if len(values) == count else (math.nan,) * count
