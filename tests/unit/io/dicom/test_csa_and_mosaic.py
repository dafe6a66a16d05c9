"""Siemens mosaics: the private header's format, and where the tiles lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nicom.csareader import read as nibabel_read
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.io.dicom.csa import CsaError, csa_texts
from medseg.io.dicom.elements import raw_bytes
from medseg.io.dicom.header_file import open_header
from medseg.io.dicom.headers import read_frames
from medseg.io.dicom.verdict import SetAside

Write = Callable[..., Path]
MR = "1.2.840.10008.5.1.4.1.1.4"


def csa(tags: dict[str, list[str]], newer: bool = True) -> bytes:
    """A CSA header as Siemens writes it, in its newer or its older format."""
    first_items = len(next(iter(tags.values())))
    data = b"SV10\4\3\2\1" if newer else b""
    data += struct.pack("<II", len(tags), 77)
    for name, items in tags.items():
        data += struct.pack("<64si4siii", name.encode(), len(items), b"DS", 3, len(items), 77)
        for item in items:
            text = item.encode() + b"\0"
            lengths = (0, len(text), 77, 0) if newer else (len(text) + first_items, 0, 77, 0)
            data += struct.pack("<4i", *lengths) + text + bytes(-len(text) % 4)
    return data


def mosaic(count: int = 3, normal: tuple[float, float, float] = (0, 0, 1)) -> bytes:
    return csa({"NumberOfImagesInMosaic": [str(count)], "SliceNormalVector": [str(x) for x in normal]})


def siemens(write_slice: Write, header: bytes | None, **values: Any) -> Path:
    """A plane of 2 x 2 tiles, each of 4 rows and 6 columns."""

    def private(dataset: Dataset) -> Dataset:
        if header is not None:
            block = dataset.private_block(0x29, "SIEMENS CSA HEADER", create=True)
            block.add_new(0x10, "OB", header + bytes(len(header) % 2))
        return dataset

    given_values = {
        "SOPClassUID": MR,
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"],
        "Rows": 8,
        "Columns": 12,
        "PixelData": bytes(192),
        "SpacingBetweenSlices": 3,
        **values,
    }
    path = write_slice("mosaic", position=(10, 20, 30), **given_values)
    private(dcmread(path)).save_as(path)
    return path


@pytest.mark.parametrize("newer", [True, False])
def test_texts_of_both_formats(newer: bool) -> None:
    tags = {"First": ["0"], "NumberOfImagesInMosaic": ["35"], "SliceNormalVector": ["0.5", "-0.25", "1"]}
    wanted = {"NumberOfImagesInMosaic", "SliceNormalVector"}
    assert csa_texts(csa(tags, newer), wanted) == {name: tags[name] for name in wanted}


@pytest.mark.data
def test_a_scanner_s_header_as_nibabel_reads_it(test_data: Path) -> None:
    header = open_header(test_data / "dicom/transfer_syntaxes/In/1.dcm", [0x00291010])
    assert header is not None
    data = raw_bytes(header.dataset, 0x00291010)
    theirs = nibabel_read(data)["tags"]
    ours = csa_texts(data, set(theirs))
    assert len(ours) > 20
    for name, texts in ours.items():
        assert [str(item).strip() for item in theirs[name]["items"] if item != ""][: len(texts)] == [
            text if isinstance(theirs[name]["items"][0], str) else str(type(theirs[name]["items"][0])(text))
            for text in texts
        ]


@given(data=st.binary(max_size=400), cut=st.integers(0, 300), start=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes, cut: int, start: bool) -> None:
    whole = mosaic()
    broken = whole[:cut] + data if start else data + whole[cut:]
    try:
        found = csa_texts(broken, {"NumberOfImagesInMosaic"})
    except CsaError:
        return
    assert sum(len(text) for texts in found.values() for text in texts) <= len(broken)


def test_lengths_that_go_backwards_are_refused() -> None:
    data = bytearray(mosaic())
    struct.pack_into("<i", data, 16 + 84 + 4, -100)
    with pytest.raises(CsaError, match="longer than the header"):
        csa_texts(bytes(data), {"NumberOfImagesInMosaic"})


def test_where_tiles_lie(write_slice: Write) -> None:
    found = read_frames(siemens(write_slice, mosaic(count=3)))
    assert isinstance(found, list)
    assert [(frame.tile.first_row, frame.tile.first_column) for frame in found if frame.tile] == [
        (0, 0),
        (0, 6),
        (4, 0),
    ]
    assert {(frame.rows, frame.columns) for frame in found} == {(4, 6)}
    # The plane's centre is the slice's: half of what lies beyond a tile lies before it, 3 columns and 2 rows.
    corners = [(11.5, 21.6, 30.0 + 3 * index) for index in range(3)]
    np.testing.assert_allclose([frame.position for frame in found], corners)


def test_slices_stacked_against_the_normal(write_slice: Write) -> None:
    found = read_frames(siemens(write_slice, mosaic(count=2, normal=(0, 0, -1))))
    assert isinstance(found, list)
    assert [frame.position and frame.position[2] for frame in found] == [30.0, 27.0]


@pytest.mark.parametrize(
    ("header", "values", "what"),
    [
        (None, {}, "Siemens' private header is missing"),
        (mosaic()[:150], {}, "the CSA header ends too early"),
        (csa({"Other": ["1"]}), {}, "does not say how many slices"),
        (mosaic(count=0), {}, "contradicts itself"),
        (mosaic(count=17), {}, "do not divide"),
        (mosaic(count=2_000_000_000), {}, "contradicts itself"),
        (mosaic(count=10**400), {}, "contradicts itself"),
        (mosaic(normal=(0, 1, 0)), {}, "contradicts its orientation"),
        (mosaic(normal=(0, 0, 0)), {}, "contradicts itself"),
        (mosaic(), {"PixelSpacing": None}, "is missing"),
        (
            mosaic(),
            {"SpacingBetweenSlices": None, "SliceThickness": None},
            "distance between its slices is missing",
        ),
    ],
)
def test_mosaics_of_unknown_layout(
    write_slice: Write, header: bytes | None, values: dict[str, Any], what: str
) -> None:
    values = {
        name: value for name, value in values.items() if name != "SpacingBetweenSlices" or value is not None
    }
    if "SliceThickness" in values:
        values["SpacingBetweenSlices"] = ""
    found = read_frames(siemens(write_slice, header, **values))
    assert isinstance(found, SetAside)
    assert found.kind == "mosaic"
    assert what in found.what
