"""One file to frames: what is DICOM, what is a slice, and what a lying header costs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medseg.io.dicom.frames import Frame
from medseg.io.dicom.headers import read_frames
from medseg.io.dicom.verdict import SetAside

Write = Callable[..., Path]


def frame_of(path: Path) -> Frame:
    found = read_frames(path)
    assert isinstance(found, list), found
    (frame,) = found
    return frame


def kind_of(path: Path) -> tuple[str, str]:
    found = read_frames(path)
    assert isinstance(found, SetAside), found
    return found.kind, found.what


def test_what_a_header_says(write_slice: Write) -> None:
    frame = frame_of(
        write_slice(
            position=(1, -2, 3.5),
            SeriesDescription="head",
            RescaleSlope="2",
            RescaleIntercept="-1024",
            SpacingBetweenSlices="2.5",
            PixelPaddingValue=7,
            EchoTime="3.4",
        )
    )
    assert (frame.rows, frame.columns, frame.samples) == (4, 6, 1)
    assert frame.position == (1.0, -2.0, 3.5)
    assert frame.orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert frame.spacing == (0.8, 0.5)
    assert (frame.thickness, frame.spacing_between) == (2.0, 2.5)
    assert (frame.slope, frame.intercept, frame.padding) == (2.0, -1024.0, (7, 7))
    assert (frame.series.number, frame.series.modality, frame.series.description) == (7, "CT", "head")
    assert frame.traits["ImageType"] == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert frame.traits["EchoTime"] == 3.4
    assert (frame.missing_bytes, frame.long_values) == (0, ())


def test_nothing_is_filled_in(write_slice: Write) -> None:
    frame = frame_of(
        write_slice(
            ImagePositionPatient=None,
            ImageOrientationPatient=None,
            PixelSpacing=None,
            SliceThickness=None,
            SeriesNumber=None,
            InstanceNumber=None,
        )
    )
    assert (frame.position, frame.orientation, frame.spacing, frame.thickness) == (None,) * 4
    assert (frame.series.number, frame.instance_number) == (None, None)
    assert (frame.slope, frame.intercept, frame.padding) == (1.0, 0.0, None)


def test_a_description_is_not_shown_by_accident(write_slice: Write) -> None:
    frame = frame_of(write_slice(SeriesDescription="Nobody\x1b[31m"))
    assert "Nobody" not in repr(frame)
    assert frame.series.description == "Nobody[31m"


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_each_plain_encoding_gives_the_same(write_slice: Write, syntax: str) -> None:
    one = frame_of(write_slice(position=(1, 2, 3), EchoTime="3"))
    two = frame_of(write_slice("other", position=(1, 2, 3), EchoTime="3", syntax=syntax))
    assert two.transfer_syntax_uid == syntax
    assert replace(two, path=one.path, transfer_syntax_uid=one.transfer_syntax_uid) == one


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble(write_slice: Write, tmp_path: Path, implicit: bool) -> None:
    dataset = dcmread(write_slice(position=(1, 2, 3)))
    bare = Dataset({element.tag: element for element in dataset})
    path = tmp_path / "bare"
    bare.save_as(path, implicit_vr=implicit, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    frame = frame_of(path)
    assert frame.position == (1.0, 2.0, 3.0)
    assert frame.transfer_syntax_uid == (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"\x08\x00\x05\x00", b"some text" * 100, bytes(1000), b"\x08\x00" * 300]
)
def test_what_is_not_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    assert kind_of(path)[0] == "not DICOM"


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "segmentation"),
        ("1.2.840.10008.5.1.4.1.1.66.7", "segmentation"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "contours"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "dose"),
        ("1.2.840.10008.5.1.4.1.1.88.11", "report"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "report"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "document"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "presentation state"),
        ("1.2.840.10008.5.1.4.1.1.1.1.1", "radiograph"),
        ("1.2.840.10008.1.3.10", "directory"),
    ],
)
def test_other_objects_by_kind(write_slice: Write, sop_class: str, kind: str) -> None:
    assert kind_of(write_slice(SOPClassUID=sop_class)) == (kind, "")


def test_localizers_and_captured_screens(write_slice: Write) -> None:
    captured = "1.2.840.10008.5.1.4.1.1.7"
    assert kind_of(write_slice(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))[0] == "localizer"
    assert kind_of(write_slice(SOPClassUID=captured, ImagePositionPatient=None))[0] == "secondary capture"
    assert frame_of(write_slice(SOPClassUID=captured)).position == (0.0, 0.0, 0.0)


def test_long_numbers_are_read_and_told(write_slice: Write) -> None:
    path = write_slice()
    content = path.read_bytes()
    short = dcmread(path).get_item("ImageOrientationPatient").value
    long = b"0.99999999999999999999\\0\\0\\0\\1.0000000000000000\\0"
    long += b" " * (len(long) % 2)
    place = content.index(short)
    header = struct.pack("<H", len(long))
    path.write_bytes(content[: place - 2] + header + long + content[place + len(short) :])
    frame = frame_of(path)
    assert frame.long_values == ("ImageOrientationPatient",)
    assert frame.orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"abc\\2\\3", (np.nan, 2, 3)),
        (b"1\\2", (np.nan,) * 3),
        (b"1_0\\2\\3", (np.nan, 2, 3)),
        (b"1e999\\2\\3", (np.inf, 2, 3)),
    ],
)
def test_numbers_that_are_none(write_slice: Write, text: bytes, expected: tuple[float, ...]) -> None:
    path = write_slice(position=(11111.5, 2, 3))
    written = b"11111.5\\2.0\\3.0"
    content = path.read_bytes()
    assert written in content
    path.write_bytes(content.replace(written, text.ljust(len(written))))
    position = frame_of(path).position
    assert position is not None
    np.testing.assert_equal(position, expected)


@pytest.mark.parametrize("cut", [1, 10, 47])
def test_a_file_that_ends_too_early_is_noticed(write_slice: Write, cut: int) -> None:
    path = write_slice()
    path.write_bytes(path.read_bytes()[:-cut])
    assert frame_of(path).missing_bytes == cut


def test_compressed_voxels_that_end_too_early(write_slice: Write, tmp_path: Path) -> None:
    dataset = dcmread(write_slice())
    dataset.compress(RLELossless)
    path = tmp_path / "compressed"
    dataset.save_as(path)
    assert frame_of(path).missing_bytes == 0
    path.write_bytes(path.read_bytes() + struct.pack("<HH2sHI4s", 0xFFFC, 0xFFFC, b"OB", 0, 4, b"pads"))
    assert frame_of(path).missing_bytes == 0, "elements may follow the voxels"
    path.write_bytes(path.read_bytes()[:-40])
    assert frame_of(path).missing_bytes > 0


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"NumberOfFrames": 2**31 - 1}, "it announces 2147483647 frames, more than it can hold"),
        ({"NumberOfFrames": 0}, "its number of frames is not positive"),
        ({"NumberOfFrames": -3}, "its number of frames is not positive"),
        ({"Rows": 0}, "its numbers of rows and columns are not positive"),
        ({"Columns": None}, "its numbers of rows and columns are not positive"),
        ({"Rows": None, "Columns": None}, "its numbers of rows and columns are missing"),
        ({"RescaleSlope": "0"}, "its rescale slope or intercept is no usable number"),
    ],
)
def test_headers_that_lie(write_slice: Write, values: dict[str, Any], what: str) -> None:
    assert kind_of(write_slice(**values)) == ("damaged", what)


def test_a_length_beyond_the_file(write_slice: Write) -> None:
    path = write_slice()
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HH2s", 0x0020, 0x0032, b"DS"))
    content[place + 4 : place + 12] = b"UT\0\0" + struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(bytes(content))
    assert kind_of(path) == ("damaged", "an element is longer than the file")


def test_sequences_without_end(tmp_path: Path, write_slice: Write) -> None:
    content = write_slice().read_bytes()
    place = content.index(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    nested = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    path = tmp_path / "nested"
    path.write_bytes(content[:place] + nested * 5000 + content[place:])
    assert kind_of(path)[0] == "damaged"


def test_empty_items_without_end(tmp_path: Path, write_slice: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.io.dicom.header_file.MOST_READS", 2000)
    monkeypatch.setattr("medseg.io.dicom.header_file._GuardedFile.__init__.__defaults__", (2000,))
    content = write_slice().read_bytes()
    place = content.index(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 5000
    start = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    path = tmp_path / "items"
    path.write_bytes(content[:place] + start + items + content[place:])
    assert kind_of(path)[0] == "damaged"


def test_several_planes_and_one_position(write_slice: Write) -> None:
    found = read_frames(write_slice(NumberOfFrames=2, PixelData=bytes(96)))
    assert isinstance(found, list)
    assert [(frame.number, frame.position) for frame in found] == [(0, None), (1, None)]


def test_padding_in_signed_voxels(write_slice: Write) -> None:
    frame = frame_of(
        write_slice(PixelRepresentation=1, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    )
    assert frame.padding == (-2000, -1990)


def test_broken_files_never_raise(write_slice: Write, tmp_path: Path) -> None:
    whole = write_slice(
        ReferencedImageSequence=Sequence([Dataset()]), EchoTime="3", RescaleSlope="1", NumberOfFrames=1
    ).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "broken"
    kinds = set()
    for _ in range(400):
        broken = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            place = int(rng.integers(100, len(broken) - 8))
            if rng.random() < 0.3:
                broken[place : place + 4] = b"\xff\xff\xff\xff"
            elif rng.random() < 0.2:
                del broken[place : place + int(rng.integers(1, 9))]
            else:
                broken[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(broken))
        found = read_frames(path)
        kinds.add(found.kind if isinstance(found, SetAside) else "frames")
    assert {"frames", "damaged"} <= kinds
