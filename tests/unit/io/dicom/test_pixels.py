"""Planes of files in every transfer syntax, with bits and signs of all kinds, and of damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels.decoders import JPEG2000LosslessDecoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medseg.errors import InputError, ResourceError
from medseg.io.dicom.pixels import open_planes

MakeSlice = Callable[..., Path]
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
COMPRESSED = [RLELossless, JPEGLSLossless, JPEG2000Lossless]


def planes_of(path: Path, syntax: str, numbers: list[int] | None = None) -> np.ndarray[Any, Any]:
    with open_planes(path, syntax) as planes:
        wanted = range(planes.format.planes) if numbers is None else numbers
        return np.stack([plane for _, plane in planes.read(wanted)])


def noise(dtype: str, shape: tuple[int, ...] = (3, 5, 7), bits: int | None = None) -> np.ndarray[Any, Any]:
    limits = np.iinfo(dtype)
    low, high = limits.min, limits.max
    if bits is not None:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if low < 0 else (0, 2**bits - 1)
    return np.random.default_rng(0).integers(low, high, shape, dtype, endpoint=True)


def ramps(dtype: str) -> np.ndarray[Any, Any]:
    """Three planes over the type's whole range, smooth enough for compression to make them smaller."""
    limits = np.iinfo(dtype)
    values = np.linspace(limits.min, limits.max, 3 * 40 * 36).round().astype(dtype).reshape(3, 40, 36)
    values[1] = values[1].T.reshape(40, 36)
    return values


@pytest.mark.parametrize("syntax", NATIVE + COMPRESSED, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_every_syntax_gives_what_was_stored(make_slice: MakeSlice, syntax: UID, dtype: str) -> None:
    stored = ramps(dtype)
    found = planes_of(make_slice(stored, syntax=syntax), syntax)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize("syntax", NATIVE + COMPRESSED, ids=lambda uid: uid.keyword)
def test_one_plane_of_several(make_slice: MakeSlice, syntax: UID) -> None:
    stored = ramps("int16")
    np.testing.assert_array_equal(planes_of(make_slice(stored, syntax=syntax), syntax, [1]), stored[1:2])


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_thirty_two_bits(make_slice: MakeSlice, dtype: str) -> None:
    stored = noise(dtype)
    np.testing.assert_array_equal(planes_of(make_slice(stored), ExplicitVRLittleEndian), stored)


def test_floating_point(make_slice: MakeSlice) -> None:
    stored = np.linspace(-1.0, 1.0, 35, dtype=np.float32).reshape(5, 7)
    path = make_slice(np.zeros((5, 7), np.uint16))
    dataset = dcmread(path)
    del dataset.PixelData
    dataset.FloatPixelData = stored.tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(planes_of(path, ExplicitVRLittleEndian)[0], stored)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.keyword)
def test_bits_beside_the_stored_ones_do_not_count(make_slice: MakeSlice, syntax: UID) -> None:
    meant = noise("uint16", bits=12)
    overlay = np.random.default_rng(1).integers(0, 16, meant.shape, np.uint16) << 12
    path = make_slice(meant | overlay, syntax=syntax, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(planes_of(path, syntax), meant)


def test_the_sign_of_twelve_bits_is_extended(make_slice: MakeSlice) -> None:
    meant = noise("int16", bits=12)
    path = make_slice(meant & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(planes_of(path, ExplicitVRLittleEndian), meant)


def test_bits_stored_at_the_top(make_slice: MakeSlice) -> None:
    meant = noise("int16", bits=12)
    path = make_slice(meant << 4, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(planes_of(path, ExplicitVRLittleEndian), meant)


@pytest.mark.parametrize("numbers", [[0], [1], [2], [0, 1, 2]])
def test_bytes_in_big_endian_words_across_planes_of_odd_size(
    make_slice: MakeSlice, numbers: list[int]
) -> None:
    stored = noise("uint8", (3, 3, 5))
    flat = np.append(stored.ravel(), np.uint8(0)) if stored.size % 2 else stored.ravel()
    path = make_slice(stored, syntax=ExplicitVRBigEndian)
    dataset = dcmread(path)
    dataset.PixelData = flat.view(np.uint16).byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path)
    np.testing.assert_array_equal(planes_of(path, ExplicitVRBigEndian, numbers), stored[numbers])


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "ends too early"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colours"),
        ({"BitsAllocated": 12}, "bits"),
        ({"BitsStored": 0}, "bits"),
        ({"BitsStored": 17, "HighBit": 16}, "bits"),
        ({"BitsStored": 12, "HighBit": 5}, "bits"),
        ({"Rows": 0}, "rows"),
        ({"Rows": 6}, "ends too early"),
        ({"NumberOfFrames": 99}, "ends too early"),
        ({"NumberOfFrames": 2**31 - 1}, "more than it can hold"),
    ],
)
def test_headers_that_cannot_be_right(make_slice: MakeSlice, elements: dict[str, Any], words: str) -> None:
    path = make_slice(noise("uint16", (5, 7)), **elements)
    with pytest.raises(InputError, match=words) as caught:
        planes_of(path, ExplicitVRLittleEndian, [0])
    assert caught.value.where == str(path)


@pytest.mark.parametrize("syntax", NATIVE + COMPRESSED, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.8, 0.99])
def test_truncated_files(make_slice: MakeSlice, syntax: UID, kept: float) -> None:
    path = make_slice(ramps("uint16"), syntax=syntax)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * (len(whole) - 600)) + 560])
    with pytest.raises(InputError) as caught:
        planes_of(path, syntax, [0, 1, 2])
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)
    assert "Somebody" not in str(caught.value)


@pytest.mark.parametrize(
    "syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.keyword
)
@pytest.mark.parametrize("shape", [(40, 37), (41, 36), (80, 36)])
def test_a_stream_of_another_size_than_the_headers(
    make_slice: MakeSlice, syntax: UID, shape: tuple[int, int]
) -> None:
    path = make_slice(ramps("uint16")[0], syntax=syntax)
    dataset = dcmread(path)
    dataset.Rows, dataset.Columns = shape
    dataset.save_as(path)
    with pytest.raises(InputError):
        planes_of(path, syntax)


def test_a_missing_codec_is_named(make_slice: MakeSlice, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_slice(ramps("uint16"), syntax=JPEG2000Lossless)
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(InputError, match=r"JPEG 2000.*pip install 'medseg\[dicom\]'"):
        planes_of(path, JPEG2000Lossless)


def test_a_syntax_that_nobody_decodes(make_slice: MakeSlice) -> None:
    path = make_slice(noise("uint16", (5, 7)))
    with pytest.raises(InputError, match="MPEG2"):
        planes_of(path, "1.2.840.10008.1.2.4.100")


def test_what_is_no_dicom(tmp_path: Path) -> None:
    path = tmp_path / "text.dcm"
    path.write_text("Dear reader, " * 100)
    with pytest.raises(InputError):
        planes_of(path, ExplicitVRLittleEndian)
    with pytest.raises(InputError):
        planes_of(path, DeflatedExplicitVRLittleEndian)
    with pytest.raises(InputError, match="does not exist"):
        planes_of(tmp_path / "missing.dcm", ExplicitVRLittleEndian)


def test_a_plane_that_is_not_there(make_slice: MakeSlice) -> None:
    with pytest.raises(InputError, match="holds 3 planes, number 3"):
        planes_of(make_slice(noise("uint16")), ExplicitVRLittleEndian, [3])


def test_a_deflated_file_unpacks_no_more_than_it_announces(make_slice: MakeSlice) -> None:
    stored = noise("uint16", (64, 64))
    path = make_slice(stored, syntax=DeflatedExplicitVRLittleEndian, DataSetTrailingPadding=bytes(1 << 24))
    with open_planes(path, DeflatedExplicitVRLittleEndian) as planes:
        assert planes._source.seek(0, 2) < stored.nbytes + 1000
        np.testing.assert_array_equal(next(planes.read([0]))[1], stored)


def test_a_lying_size_ends_before_memory_is_taken(make_slice: MakeSlice) -> None:
    path = make_slice(noise("uint16", (5, 7)), Rows=65535, Columns=65535, NumberOfFrames=1000)
    with pytest.raises((InputError, ResourceError)):
        planes_of(path, ExplicitVRLittleEndian, [0])
