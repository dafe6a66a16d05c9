"""Whether a file can hold the voxels that its header announces; no voxel is read."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseg.io.dicom.elements import integer, numbers, text
from medseg.io.dicom.header_file import UNDEFINED_LENGTH, DamagedFileError, Header

__all__ = [
    "MOST_FRAMES",
    "VOXEL_TAGS",
    "missing_bytes",
    "photometric_of",
    "plane_size",
    "stored_planes",
    "stored_samples",
]

MOST_FRAMES: Final = 100_000
"""Planes of one file. The largest time series known hold some ten thousand; a header may announce 2^31."""

_SAMPLES: Final = 0x00280002
_PHOTOMETRIC: Final = 0x00280004
_NUMBER_OF_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_BITS_ALLOCATED: Final = 0x00280100
_SMALLEST_FRAGMENT_BYTES: Final = 8
_NATIVE: Final = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
"""Transfer syntaxes in which voxels are not compressed, so that their length is known (PS3.5, annex A)."""

VOXEL_TAGS: Final = (_SAMPLES, _PHOTOMETRIC, _NUMBER_OF_FRAMES, _ROWS, _COLUMNS, _BITS_ALLOCATED)
"""What has to be read of a header for the functions of this module."""


def plane_size(header: Header) -> tuple[int, int, int] | None:
    """Rows, columns and samples of each plane; ``None`` where the header announces no image.

    Raises:
        DamagedFileError: One is not a positive number of 16 bits.
    """
    found = [integer(header.dataset, tag) for tag in (_ROWS, _COLUMNS)]
    samples = integer(header.dataset, _SAMPLES)
    if found == [None, None]:
        return None
    rows, columns, channels = *found, 1 if samples is None else samples
    if rows is None or columns is None or not all(0 < x < 1 << 16 for x in (rows, columns, channels)):
        raise DamagedFileError("its numbers of rows and columns are not positive")
    return rows, columns, channels


def photometric_of(dataset: Dataset) -> str:
    """PhotometricInterpretation: how stored values are shown; ``MONOCHROME2`` where the header has none."""
    return text(dataset, _PHOTOMETRIC) or "MONOCHROME2"


def stored_samples(photometric: str, samples: int) -> int:
    """How many values each voxel takes where planes are not compressed (PS3.3 C.7.6.3.1.2).

    Example:
        >>> stored_samples("RGB", 3), stored_samples("YBR_FULL_422", 3)  # two voxels share their colour
        (3, 2)
    """
    return 2 if photometric == "YBR_FULL_422" and samples == 3 else samples


def stored_planes(header: Header) -> int:
    """NumberOfFrames, 1 where the header has none.

    Raises:
        DamagedFileError: It is no positive number, or more than any file could hold.
    """
    if not numbers(header.dataset, _NUMBER_OF_FRAMES):
        return 1
    planes = integer(header.dataset, _NUMBER_OF_FRAMES)
    if planes is None or planes < 1:
        raise DamagedFileError("its number of frames is not positive")
    if planes > MOST_FRAMES or planes > header.file_bytes:
        raise DamagedFileError(f"it announces {planes} frames, more than it can hold")
    return planes


def missing_bytes(header: Header, size: tuple[int, int, int], planes: int) -> int:
    """How much of the voxels that the header announces is not in the file.

    Where they are compressed, their length is not known: then at least 1 if the last item is not whole.

    Args:
        header: Of the file.
        size: As ``plane_size`` gives it.
        planes: As ``stored_planes`` gives it.
    """
    rows, columns, samples = size
    bits = integer(header.dataset, _BITS_ALLOCATED) or 16
    pixels = header.pixels
    if header.transfer_syntax_uid not in _NATIVE or (pixels and pixels.length == UNDEFINED_LENGTH):
        if pixels is None or not pixels.ends_well:
            return 1
        return max(planes * _SMALLEST_FRAGMENT_BYTES - pixels.available, 0)
    values = rows * columns * stored_samples(photometric_of(header.dataset), samples) * planes
    expected = (values * bits + 7) // 8
    if pixels is None:
        return expected
    return max(expected - min(pixels.available, pixels.length), 0)
