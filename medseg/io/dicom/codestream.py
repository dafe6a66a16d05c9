"""What a compressed plane says of itself, read before a codec believes it and takes memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["Codestream", "is_whole", "read_codestream"]

_JPEG_START = b"\xff\xd8"
_END = b"\xff\xd9"
"""Of images, in JPEG and JPEG-LS, and of the code stream in JPEG 2000."""

_JPEG_2000_START = b"\xff\x4f\xff\x51"
_JPEG_2000_BOX = b"\x00\x00\x00\x0cjP  "
_BOXES_SEARCHED_BYTES = 4096
_NO_FRAME_HEADERS = {0xC4, 0xC8, 0xCC}
"""Markers among C0 to CF that start no frame: Huffman tables, an extension, arithmetic conditioning."""

_JPEG_LS_FRAME = 0xF7
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


@dataclass(frozen=True)
class Codestream:
    """The size that a codec will unpack.

    Attributes:
        rows: Lines of the image.
        columns: Samples in a line.
        components: 1, or 3 for colours.
    """

    rows: int
    columns: int
    components: int


def read_codestream(data: bytes) -> Codestream | None:
    """Read the frame header of a JPEG, JPEG-LS or JPEG 2000 stream.

    Args:
        data: One plane as it is stored, fragments joined.

    Returns:
        Its size, or ``None`` if this is no such stream or has no frame header.

    Example:
        >>> stream = bytes.fromhex("ffd8 fff7 000b 10 0200 0100 01 011100 ffda")
        >>> read_codestream(stream)
        Codestream(rows=512, columns=256, components=1)
    """
    if data.startswith(_JPEG_2000_BOX):  # against PS3.5 A.4.4, and yet met: the stream inside a JP2 file
        start = data.find(_JPEG_2000_START, 0, _BOXES_SEARCHED_BYTES)
        return None if start < 0 else _jpeg_2000(data[start : start + 64])
    if data.startswith(_JPEG_2000_START):
        return _jpeg_2000(data[:64])
    return _jpeg(data) if data.startswith(_JPEG_START) else None


def is_whole(data: bytes) -> bool:
    """Whether a stream ends with its end marker; DICOM may pad it with zeros (PS3.5, section A.4).

    Of one that does not, some codecs make an image all the same, and others search for its end for a minute.

    Example:
        >>> is_whole(bytes.fromhex("ffd8 1234 ffd9 00")), is_whole(bytes.fromhex("ffd8 1234"))
        (True, False)
    """
    return data.rstrip(b"\0").endswith(_END)


def _jpeg_2000(header: bytes) -> Codestream | None:
    """ISO/IEC 15444-1, A.5.1: the first marker segment holds the image's size."""
    if len(header) < 42:
        return None
    right, lower, left, upper = struct.unpack_from(">4I", header, 8)
    (components,) = struct.unpack_from(">H", header, 40)
    return Codestream(lower - upper, right - left, components)


def _jpeg(data: bytes) -> Codestream | None:
    """ISO/IEC 10918-1, B.2.2: the first frame header; JPEG-LS (14495-1) has its own marker."""
    position = len(_JPEG_START)
    while position + 10 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker == _JPEG_LS_FRAME or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADERS):
            rows, columns, components = struct.unpack_from(">HHB", data, position + 5)
            return Codestream(rows, columns, components)
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + length
    return None
