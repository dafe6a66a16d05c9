"""Colours in every way in which DICOM stores them: red, green and blue as three channels."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from medseg.errors import GeometryError, InputError
from medseg.io.dicom import Reason, Status, scan_dicom
from medseg.io.dicom.headers import read_frames
from medseg.io.dicom.pixels import open_planes
from medseg.io.dicom.verdict import SetAside
from medseg.io.dicom.volumes import read_dicom_volume

Write = Callable[..., Path]

EIGHT_BITS = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def smooth(rows: int = 32, columns: int = 32) -> np.ndarray[Any, Any]:
    """(rows, columns, 3): colours that change slowly, as lossy codecs like them."""
    row, column = np.mgrid[:rows, :columns]
    return np.stack([40 + 5 * row, 200 - 4 * column, 30 + 3 * (row + column)], axis=-1).astype(np.uint8)


def elements(colours: np.ndarray[Any, Any], photometric: str = "RGB", planar: int = 0) -> dict[str, Any]:
    rows, columns = colours.shape[:2]
    return {
        **EIGHT_BITS,
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": photometric,
        "PlanarConfiguration": planar,
        "PixelData": (colours.transpose(2, 0, 1) if planar else colours).tobytes(),
    }


def plane_of(path: Path) -> np.ndarray[Any, Any]:
    syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    with open_planes(path, syntax) as planes:
        ((_, plane),) = planes.read([0])
    return plane


def compressed(path: Path, syntax: UID, stream: bytes, **values: Any) -> Path:
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.keyword)
def test_colours_that_are_not_compressed(write_slice: Write, syntax: UID, planar: int) -> None:
    path = write_slice(syntax=syntax, **elements(smooth(), planar=planar))
    np.testing.assert_array_equal(plane_of(path), smooth())


def test_sixteen_bits_a_colour(write_slice: Write) -> None:
    colours = smooth().astype(np.uint16) * 257
    sixteen = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    np.testing.assert_array_equal(plane_of(write_slice(**{**elements(colours), **sixteen})), colours)


@pytest.mark.parametrize("planar", [0, 1])
def test_brightness_and_colour_by_hand(write_slice: Write, planar: int) -> None:
    """PS3.3 C.7.6.3.1.2: red is Y + 1.402 (Cr - 128), and so on; grey has no colour."""
    stored = np.array([[[100, 128, 128], [100, 128, 178], [100, 178, 128], [250, 128, 255]]], np.uint8)
    by_hand = [[[100, 100, 100], [170, 64, 100], [100, 83, 189], [255, 159, 250]]]
    path = write_slice(**elements(stored, "YBR_FULL", planar))
    np.testing.assert_array_equal(plane_of(path), by_hand)


def test_two_voxels_share_a_colour(write_slice: Write) -> None:
    """YBR_FULL_422: two brightnesses, then the blue and the red of both."""
    stored = bytes([100, 50, 128, 178, 9, 8, 128, 128])
    values = {**elements(smooth(1, 4), "YBR_FULL_422"), "PixelData": stored}
    path = write_slice(**values)
    np.testing.assert_array_equal(plane_of(path), [[[170, 64, 100], [120, 14, 50], [9, 9, 9], [8, 8, 8]]])
    (frame,) = read_frames(path)
    assert frame.missing_bytes == 0
    short = write_slice("short", **{**values, "PixelData": stored[:6]})
    assert read_frames(short)[0].missing_bytes == 2


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_lossless_compression(write_slice: Write, syntax: UID, photometric: str) -> None:
    stored = smooth() if photometric == "RGB" else convert_color_space(smooth(), "RGB", "YBR_FULL")
    path = write_slice(**elements(stored, photometric))
    dataset = dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path)
    # There and back, colours of 8 bits move by rounding.
    np.testing.assert_allclose(plane_of(path), smooth(), rtol=0, atol=0 if photometric == "RGB" else 2)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_jpeg_as_cameras_and_ultrasound_write_it(write_slice: Write, photometric: str) -> None:
    """Pillow compresses; its own decoding is the other opinion."""
    pillow = pytest.importorskip("PIL.Image")
    stream = BytesIO()
    pillow.fromarray(smooth()).save(
        stream,
        "JPEG",
        quality=95,
        subsampling=1 if photometric == "YBR_FULL_422" else 0,
        keep_rgb=photometric == "RGB",
    )
    path = compressed(write_slice(**elements(smooth(), photometric)), JPEGBaseline8Bit, stream.getvalue())
    found = plane_of(path).astype(int)
    theirs = np.asarray(pillow.open(BytesIO(stream.getvalue())).convert("RGB")).astype(int)
    assert (
        np.abs(found - theirs).max() <= 2
    )  # two inverse cosine transforms, and how a colour is interpolated
    assert np.abs(found - smooth()).mean() < 3


def test_a_compressed_plane_of_one_sample_is_no_colour(write_slice: Write) -> None:
    pillow = pytest.importorskip("PIL.Image")
    stream = BytesIO()
    pillow.fromarray(smooth()[..., 0]).save(stream, "JPEG")
    path = compressed(write_slice(**elements(smooth())), JPEGBaseline8Bit, stream.getvalue())
    with pytest.raises(InputError, match="values, the header says 32x32 of 3"):
        plane_of(path)


def colour_series(write_slice: Write, count: int = 3, **changes: Any) -> np.ndarray[Any, Any]:
    """Slices of colours, 2 mm apart; gives (slices, rows, columns, 3)."""
    slices = np.stack([smooth() + 7 * index for index in range(count)])
    for index, plane in enumerate(slices):
        write_slice(f"series/{index}", index, (0, 0, 2 * index), **{**elements(plane), **changes})
    return slices


def test_a_series_becomes_three_channels_with_a_remark(write_slice: Write, tmp_path: Path) -> None:
    # A rescale that some writers add means nothing for colours, and neither does padding.
    slices = colour_series(write_slice, RescaleSlope="2", RescaleIntercept="-5", PixelPaddingValue=0)
    (volume,) = scan_dicom(tmp_path / "series").volumes
    (finding,) = volume.verdict.findings
    assert (finding.reason, finding.status, volume.channels) == (Reason.COLOURS, Status.OK, 3)
    assert volume.frames[0].padding is None
    image = read_dicom_volume(volume)
    assert image.grid.shape == (32, 32, 3)
    np.testing.assert_array_equal(image.array, slices.transpose(3, 2, 1, 0))


def test_colours_of_a_tilted_gantry_are_shifted(write_slice: Write, tmp_path: Path) -> None:
    plane = np.zeros((32, 32, 3), np.uint8)
    plane[4:8, 5:9] = (200, 100, 50)
    for index in range(3):
        # Two rows of 0.8 mm higher in each slice.
        write_slice(f"{index}", index, (0, 1.6 * index, 8 * index), **elements(plane))
    (volume,) = scan_dicom(tmp_path).volumes
    assert {finding.reason for finding in volume.verdict.findings} == {Reason.COLOURS, Reason.GANTRY_TILT}
    image = read_dicom_volume(volume)
    for channel, peak in enumerate((200, 100, 50)):
        for index in range(3):
            columns, rows = np.nonzero(image.array[channel, :, :, index] == peak)
            assert (columns.min(), columns.max()) == (5, 8)
            assert (rows.min(), rows.max()) == (4 + 2 * index, 7 + 2 * index)


@pytest.mark.parametrize(
    "changes",
    [
        {"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1},
        {"PhotometricInterpretation": "YBR_PARTIAL_422"},
        {"PhotometricInterpretation": "ARGB", "SamplesPerPixel": 4},
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 1},
        {"PhotometricInterpretation": "MONOCHROME2"},
    ],
)
def test_other_colours_are_refused_by_verdict_and_by_reader(
    write_slice: Write, tmp_path: Path, changes: dict[str, Any]
) -> None:
    plane = np.zeros((32, 32, 4), np.uint8)
    colour_series(write_slice, **{"PixelData": plane.tobytes(), **changes})
    (volume,) = scan_dicom(tmp_path / "series").volumes
    assert [finding.reason for finding in volume.verdict.findings] == [Reason.COLOURS]
    assert volume.verdict.status is Status.REFUSED
    name = changes["PhotometricInterpretation"]
    with pytest.raises(GeometryError, match=f"colours that cannot be read .{name}"):
        read_dicom_volume(volume)
    with pytest.raises(InputError, match="colours that are not known"):
        plane_of(tmp_path / "series" / "0")


def test_brightness_of_sixteen_bits_is_not_known(write_slice: Write) -> None:
    colours = np.zeros((32, 32, 3), np.uint16)
    values = {**elements(colours, "YBR_FULL"), "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    with pytest.raises(InputError, match="16 of 16 bits"):
        plane_of(write_slice(**values))


def test_a_screenshot_stays_set_aside(write_slice: Write) -> None:
    path = write_slice(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImagePositionPatient=None, **elements(smooth())
    )
    found = read_frames(path)
    assert isinstance(found, SetAside)
    assert found.kind == "secondary capture"
