"""Sizes in the headers of compressed streams, against streams that codecs made and headers made by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless

from medseg.io.dicom.codestream import Codestream, read_codestream


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_streams_of_codecs(make_slice, syntax: UID) -> None:  # type: ignore[no-untyped-def]
    path = make_slice(np.arange(1440, dtype=np.uint16).reshape(40, 36), syntax=syntax)
    dataset: Dataset = dcmread(path)
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    assert read_codestream(stream) == Codestream(40, 36, 1)


def jpeg(marker: int, *before: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(before) + bytes((0xFF, marker)) + struct.pack(">HBHHB", 11, 12, 300, 200, 1)


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC3, 0xF7])
def test_frame_headers_of_jpeg(marker: int) -> None:
    assert read_codestream(jpeg(marker)) == Codestream(300, 200, 1)


def test_tables_and_fill_bytes_before_the_frame_header() -> None:
    huffman = b"\xff\xc4" + struct.pack(">H", 6) + b"abcd"
    assert read_codestream(jpeg(0xC3, huffman, b"\xff")) == Codestream(300, 200, 1)


def test_a_box_around_jpeg_2000() -> None:
    size = struct.pack(">HHIIIIIIIIH", 41, 0, 210, 310, 10, 10, 210, 310, 0, 0, 3)
    stream = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(20) + b"\xff\x4f\xff\x51" + size
    assert read_codestream(stream) == Codestream(300, 200, 3)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9" * 4,
        b"\xff\x4f\xff\x51" + bytes(5),
        b"\xff\xd8abcdefghij",
        bytes(99),
    ],
)
def test_what_is_no_stream(stream: bytes) -> None:
    assert read_codestream(stream) is None
