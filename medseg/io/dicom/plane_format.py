"""How a DICOM file stores its planes: sizes, bits and signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.io.dicom.colours import BRIGHTNESS_AND_COLOUR, COLOUR_MODELS, shown
from medseg.io.dicom.elements import integer
from medseg.io.dicom.header_file import Header, PixelElement
from medseg.io.dicom.stored_voxels import (
    VOXEL_TAGS,
    photometric_of,
    plane_size,
    stored_planes,
    stored_samples,
)

__all__ = ["FORMAT_TAGS", "PlaneFormat", "plane_format"]

_PLANAR_CONFIGURATION: Final = 0x00280006
_BITS_ALLOCATED: Final = 0x00280100
_BITS_STORED: Final = 0x00280101
_HIGH_BIT: Final = 0x00280102
_PIXEL_REPRESENTATION: Final = 0x00280103
_FLOATS: Final[Mapping[int, np.dtype[Any]]] = {
    0x7FE00008: np.dtype(np.float32),
    0x7FE00009: np.dtype(np.float64),
}

FORMAT_TAGS: Final = (*VOXEL_TAGS, _PLANAR_CONFIGURATION, _BITS_STORED, _HIGH_BIT, _PIXEL_REPRESENTATION)
"""What has to be read of a header for ``plane_format`` (PS3.3, section C.7.6.3)."""


@dataclass(frozen=True)
class PlaneFormat:
    """How a file stores its planes.

    Attributes:
        rows: Voxels along a column.
        columns: Voxels along a row.
        planes: How many there are.
        dtype: Of decoded planes, in native byte order.
        bits_stored: How many bits of each voxel count.
        high_bit: The highest of them.
        samples: 1, or 3 for red, green and blue.
        photometric: What stored values stand for (PhotometricInterpretation).
        planar: Whether all red comes before all green, and not voxel by voxel.
    """

    rows: int
    columns: int
    planes: int
    dtype: np.dtype[Any]
    bits_stored: int
    high_bit: int
    samples: int = 1
    photometric: str = "MONOCHROME2"
    planar: bool = False

    @property
    def plane_bytes(self) -> int:
        """Size of a plane as it lies in a file that is not compressed."""
        values = self.rows * self.columns * stored_samples(self.photometric, self.samples)
        return values * self.dtype.itemsize

    def meant(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A stored plane in native byte order, without what bits beside the stored ones hold (PS3.5 8.1.1).

        Example:
            >>> twelve = PlaneFormat(1, 1, 1, np.dtype("int16"), bits_stored=12, high_bit=11)
            >>> twelve.meant(np.array([[0x7FFF]], np.int16))
            array([[-1]], dtype=int16)
        """
        native = plane.astype(self.dtype, copy=False)
        allocated = 8 * self.dtype.itemsize
        if self.bits_stored == allocated:
            return native
        # Up until the highest stored bit is the sign, and down again: that masks, and extends the sign.
        moved: npt.NDArray[Any] = native << (allocated - 1 - self.high_bit)
        moved >>= allocated - self.bits_stored
        return moved


def plane_format(header: Header, pixels: PixelElement) -> PlaneFormat:
    """The format that a header declares.

    Args:
        header: With the elements of ``FORMAT_TAGS``.
        pixels: Where the voxels lie.

    Raises:
        InputError: Colours that are not red, green and blue, or bits of an unknown kind.
        DamagedFileError: Sizes that cannot be.
    """
    dataset = header.dataset
    rows, columns, samples = plane_size(header) or (0, 0, 1)
    planes = stored_planes(header)
    photometric = photometric_of(dataset)
    in_colour = samples == 3 and photometric in COLOUR_MODELS
    if not in_colour and not (samples == 1 and photometric.startswith("MONOCHROME")):
        raise InputError(
            f"holds colours that are not known ({shown(photometric)}, {samples} a voxel)",
            where=header.path,
            fix="take the series that it was made from, or export it as RGB",
        )
    if pixels.tag in _FLOATS:
        dtype = _FLOATS[pixels.tag]
        bits = 8 * dtype.itemsize
        return PlaneFormat(rows, columns, planes, dtype, bits, bits - 1)
    allocated = integer(dataset, _BITS_ALLOCATED) or 0
    stored = _or(integer(dataset, _BITS_STORED), allocated)
    high = _or(integer(dataset, _HIGH_BIT), stored - 1)
    if not rows or allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated:
        raise InputError(
            f"stores voxels as bits {high} to {high + 1 - stored} of {allocated}, which is not known",
            where=header.path,
            fix="export it again, as 8, 16 or 32 bits per voxel",
        )
    kind = "i" if integer(dataset, _PIXEL_REPRESENTATION) and not in_colour else "u"
    if photometric in BRIGHTNESS_AND_COLOUR and (allocated, stored) != (8, 8):
        raise InputError(
            f"stores brightness and colour as {stored} of {allocated} bits, 8 are needed",
            where=header.path,
            fix="export it again, as RGB",
        )
    return PlaneFormat(
        *(rows, columns, planes, np.dtype(f"{kind}{allocated // 8}"), stored, high, samples, photometric),
        planar=integer(dataset, _PLANAR_CONFIGURATION) == 1,
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
