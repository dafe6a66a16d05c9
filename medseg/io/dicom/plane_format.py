"""How a DICOM file stores its planes: sizes, bits and signs, and where in the file they start."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.filereader import read_dataset

from medseg.errors import InputError

__all__ = ["PIXEL_KEYWORDS", "PIXEL_MODULE", "PlaneFormat", "inflated", "plane_format"]

PIXEL_MODULE = [
    *(0x00280000 + element for element in (0x02, 0x04, 0x08, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103)),
    *(0x7FE00001, 0x7FE00002),
]
"""What is needed of a header (PS3.3 C.7.6.3): sizes, bits, colours, and where frames start."""

PIXEL_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}

_HEADER_ALLOWANCE_BYTES = 1 << 26
"""What a deflated file may hold besides its planes."""


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
    """

    rows: int
    columns: int
    planes: int
    dtype: np.dtype[Any]
    bits_stored: int
    high_bit: int

    @property
    def plane_bytes(self) -> int:
        """Size of a decoded plane."""
        return self.rows * self.columns * self.dtype.itemsize

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


def plane_format(header: pydicom.Dataset, keyword: str, path: Path) -> PlaneFormat:
    """The format that a header's pixel module declares.

    Args:
        header: With the elements of ``PIXEL_MODULE``.
        keyword: Of the element that holds the voxels.
        path: The file, for the error.

    Raises:
        InputError: Colours, sizes of zero, or bits of an unknown kind.
    """
    rows, columns = int(header.get("Rows", 0)), int(header.get("Columns", 0))
    planes = int(header.get("NumberOfFrames", None) or 1)
    if min(rows, columns, planes) < 1:
        raise InputError(f"announces {planes} planes of {rows}x{columns}", where=path, fix="export it again")
    photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(header.get("SamplesPerPixel", 1)) != 1 or not photometric.startswith("MONOCHROME"):
        raise InputError(
            f"holds colours ({photometric}), not measured values",
            where=path,
            fix="take the series that it was made from",
        )
    if keyword != "PixelData":
        dtype = np.dtype(np.float32 if keyword == "FloatPixelData" else np.float64)
        bits = 8 * dtype.itemsize
        return PlaneFormat(rows, columns, planes, dtype, bits, bits - 1)
    allocated = int(header.get("BitsAllocated", 0))
    stored = int(header.get("BitsStored", allocated))
    high = int(header.get("HighBit", stored - 1))
    if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated:
        raise InputError(
            f"stores voxels as bits {high} to {high + 1 - stored} of {allocated}, which is not known",
            where=path,
            fix="export it again, as 8, 16 or 32 bits per voxel",
        )
    kind = "i" if int(header.get("PixelRepresentation", 0)) else "u"
    return PlaneFormat(rows, columns, planes, np.dtype(f"{kind}{allocated // 8}"), stored, high)


def inflated(file: IO[bytes], path: Path) -> tuple[IO[bytes], pydicom.Dataset]:
    """Unpack the data set of a deflated file (PS3.5 A.5), but no more than its own header announces.

    Returns:
        The data set, positioned at its voxels, and its pixel module.

    Raises:
        InputError: The file does not start as DICOM files do.
    """
    start = file.read(144)
    if start[128:136] != b"DICM\x02\x00\x00\x00":
        raise InputError("has no file meta information", where=path, fix="copy or export it again")
    (meta_bytes,) = struct.unpack_from("<I", start, 140)
    file.seek(144 + meta_bytes)
    packed = file.read()
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    data = unpacker.decompress(packed, _HEADER_ALLOWANCE_BYTES)
    form = _header_of(BytesIO(data))
    voxels = (
        int(form.get("Rows", 0)) * int(form.get("Columns", 0)) * int(form.get("NumberOfFrames", None) or 1)
    )
    rest = _HEADER_ALLOWANCE_BYTES + voxels * int(form.get("BitsAllocated", 8)) // 8
    data += unpacker.decompress(unpacker.unconsumed_tail, rest)
    source = BytesIO(data)
    return source, _header_of(source)


def _header_of(source: BytesIO) -> pydicom.Dataset:
    return read_dataset(
        source,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag in PIXEL_KEYWORDS,
        specific_tags=cast(Any, PIXEL_MODULE),
    )
