"""DICOM files that lie: what chance and malice make of sound ones, from a seed."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from tests.data.dicom import AFFINE, phantom, write_series
from tests.data.dicom_enhanced import write_enhanced_mr

__all__ = ["SMALL_SHAPE", "empty_items", "mutated", "write_sound_series"]

SMALL_SHAPE = (8, 6, 4)
Choice = TypeVar("Choice")
Mutation = Callable[[bytes, np.random.Generator], bytes]

_HEADER_BYTES = 1600
_EXTREMES = (0, 1, 2, 0xFF, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT")
_TEXTS = (
    "",
    " ",
    "nan",
    "-inf",
    "1e400",
    "1e-400",
    "-1",
    "0",
    "abc",
    "1\\2",
    "9" * 5000,
    "\\" * 5000,
    "\x00\xff",
)
_OPEN_SEQUENCE = b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff"
_LIES: Mapping[str, Sequence[object]] = {
    "NumberOfFrames": ("2147483647", "2147483648", "-1", "0"),
    "Rows": (0, 1, 65535),
    "Columns": (0, 1, 65535),
    "SamplesPerPixel": (0, 2, 3, 65535),
    "BitsAllocated": (0, 1, 7, 8, 12, 32, 64, 65535),
    "BitsStored": (0, 1, 17, 65535),
    "HighBit": (0, 65535),
    "PixelRepresentation": (2, 65535),
    "PhotometricInterpretation": ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "NONSENSE", ""),
    "SOPClassUID": ("", "1.2", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.1.3.10"),
}
_TEXT_TARGETS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "InstanceNumber",
    "SeriesNumber",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "ImageType",
    "EchoTime",
)


def write_sound_series(folder: Path) -> dict[str, list[Path]]:
    """Small series to be mutated, one folder each: by transfer syntax, in colours, and enhanced."""
    image = phantom(SMALL_SHAPE, AFFINE)
    series = {
        "explicit": write_series(folder / "explicit", image),
        "implicit": write_series(folder / "implicit", image, syntax=ImplicitVRLittleEndian, modality="MR"),
        "deflated": write_series(folder / "deflated", image, syntax=DeflatedExplicitVRLittleEndian),
        "RLE": write_series(folder / "RLE", image),
        "JPEG-LS": write_series(folder / "JPEG-LS", image),
        "colours": write_series(folder / "colours", image, edit=_colour),
    }
    for name, syntax in (("RLE", RLELossless), ("JPEG-LS", JPEGLSLossless)):
        for path in series[name].paths:
            dataset = dcmread(path)
            dataset.compress(syntax, generate_instance_uid=False)
            dataset.save_as(path)
    enhanced = write_enhanced_mr(folder / "enhanced" / "enhanced.dcm", shape=SMALL_SHAPE)
    return {
        **{name: list(truth.paths) for name, truth in series.items()},
        "enhanced": list(enhanced[0].paths),
    }


def _colour(dataset: Dataset, index: int) -> None:
    """Random colours, of which two voxels share their blue and red (YBR_FULL_422)."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_FULL_422"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = np.random.default_rng(index).bytes(dataset.Rows * dataset.Columns * 2)
    dataset["PixelData"].VR = "OB"


def mutated(content: bytes, seed: int) -> tuple[str, bytes]:
    """Mutate a sound file once or a few times; the same seed gives the same bytes.

    Returns:
        What was done, and the file.
    """
    rng = np.random.default_rng(seed)
    names = [_any_of([*OF_ELEMENTS, *OF_BYTES], rng)]
    names += [_any_of(list(OF_BYTES), rng) for _ in range(_any_of([0, 0, 0, 1, 2], rng))]
    for name in names:
        content = {**OF_ELEMENTS, **OF_BYTES}[name](content, rng)
    return " + ".join(names), content


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(0, _reach(content, rng), size=rng.integers(1, 30)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    """Put an extreme number of two or four bytes somewhere: often it is a length or a tag."""
    form = str(rng.choice(["<H", "<I", ">H", ">I"]))
    number = struct.pack(form, int(rng.choice(_EXTREMES)) % 2 ** (8 * struct.calcsize(form)))
    place = 2 * int(rng.integers(0, max(_reach(content, rng) // 2, 1)))
    return content[:place] + number + content[place + len(number) :]


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, _reach(content, rng)))]


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(0, _reach(content, rng)))
    return content[:place] + rng.bytes(int(rng.integers(1, 300))) + content[place:]


def repeat(content: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(int(end) for end in rng.integers(0, _reach(content, rng), size=2))
    return content[:stop] + content[start:stop] * int(rng.integers(1, 4)) + content[stop:]


def _reach(content: bytes, rng: np.random.Generator) -> int:
    """Mostly the header, sometimes the whole file."""
    return max(1, min(len(content), _HEADER_BYTES) if rng.random() < 0.7 else len(content))


def wrong_length(content: bytes, rng: np.random.Generator) -> bytes:
    """Change the length of an element; no byte moves."""
    places = [place for place in map(_length_place, _elements(content)) if place is not None]
    if not places:
        return overwrite(content, rng)
    start, form = places[int(rng.integers(len(places)))]
    size = struct.calcsize(form)
    old = struct.unpack_from(form, content, start)[0]
    new = int(rng.choice([*_EXTREMES, old + 1, old + 2, old + 8, max(old - 1, 0)])) % 2 ** (8 * size)
    return content[:start] + struct.pack(form, new) + content[start + size :]


def _elements(content: bytes) -> list[RawDataElement]:
    """Those that were not parsed on reading, and stand in the file as they are."""
    elements = [element for element in _parsed(content).values() if isinstance(element, RawDataElement)]
    return [element for element in elements if element.value_tell + element.length <= len(content)]


def _length_place(element: RawDataElement) -> tuple[int, str] | None:
    """Where an element's length stands (PS3.5, 7.1.2 and 7.1.3), and how it is packed."""
    if element.length == 0xFFFFFFFF or not element.is_little_endian:
        return None
    long = element.is_implicit_VR or element.VR in _LONG_VRS
    return (element.value_tell - 4, "<I") if long else (element.value_tell - 2, "<H")


def remove_elements(content: bytes, rng: np.random.Generator) -> bytes:
    def edit(dataset: Dataset) -> None:
        tags = list(dataset.keys())
        for tag in rng.permutation(len(tags))[: rng.integers(1, 5)]:
            del dataset[tags[tag]]

    return _edited(content, edit)


def wrong_number(content: bytes, rng: np.random.Generator) -> bytes:
    keyword = str(rng.choice(list(_LIES)))
    return _edited(content, lambda dataset: _put(dataset, keyword, _any_of(_LIES[keyword], rng)))


def wrong_text(content: bytes, rng: np.random.Generator) -> bytes:
    keyword, text = str(rng.choice(_TEXT_TARGETS)), str(_any_of(_TEXTS, rng)).encode("latin1")
    count = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}.get(keyword, 1)
    value = b"\\".join([text] * count) if rng.random() < 0.7 else text

    def edit(dataset: Dataset) -> None:
        holder = _holder(dataset, keyword)
        if holder is not None:
            element = holder[keyword]
            raw = RawDataElement(BaseTag(element.tag), element.VR, len(value), value, 0, False, True)
            holder._dict[element.tag] = raw  # the setter would not let it pass

    return _edited(content, edit)


def deep_sequence(content: bytes, rng: np.random.Generator) -> bytes:
    """Sequences in sequences, thousands deep, at the end of the header or of the file."""
    depth = int(rng.choice([50, 2_000, 20_000]))
    return _inserted(content, (_OPEN_SEQUENCE + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth, rng)


def endless_sequence(content: bytes, rng: np.random.Generator) -> bytes:
    """A sequence of empty items that nothing ends."""
    items = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * int(
        rng.choice([1_000, 20_000, 200_000], p=[0.45, 0.45, 0.1])
    )
    return _inserted(content, _OPEN_SEQUENCE + items, rng)


def empty_items(content: bytes, count: int) -> bytes:
    """The file with a sequence of so many empty items at the end of its header; nothing ends the sequence."""
    end = max(element.value_tell + element.length for element in _elements(content)[:-1])
    return content[:end] + _OPEN_SEQUENCE + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * count + content[end:]


def _inserted(content: bytes, part: bytes, rng: np.random.Generator) -> bytes:
    """Behind an element of the header, mostly, else at the end of the file."""
    ends = [element.value_tell + element.length for element in _elements(content)[:-1]]
    place = int(rng.choice(ends)) if ends and rng.random() < 0.7 else len(content)
    return content[:place] + part + content[place:]


def _edited(content: bytes, edit: Callable[[Dataset], None]) -> bytes:
    target = io.BytesIO()
    with config.disable_value_validation():
        dataset = _parsed(content)
        edit(dataset)
        dataset.save_as(target)
    return target.getvalue()


def _parsed(content: bytes) -> Dataset:
    with config.disable_value_validation():
        return dcmread(io.BytesIO(content))


def _holder(dataset: Dataset, keyword: str) -> Dataset | None:
    """The dataset itself, or the first item below it that has the element."""
    if keyword in dataset:
        return dataset
    items = [item for element in dataset if element.VR == "SQ" for item in element.value]
    return next((found for item in items if (found := _holder(item, keyword)) is not None), None)


def _put(dataset: Dataset, keyword: str, value: object) -> None:
    if keyword in dataset:
        del dataset[keyword]
    setattr(dataset, keyword, value)


def _any_of(values: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return values[int(rng.integers(len(values)))]


OF_ELEMENTS: Mapping[str, Mutation] = {
    "length changed": wrong_length,
    "elements removed": remove_elements,
    "number wrong": wrong_number,
    "text wrong": wrong_text,
    "deep sequence": deep_sequence,
    "endless sequence": endless_sequence,
}
"""Those that find their place in a sound file."""

OF_BYTES: Mapping[str, Mutation] = {
    "bits flipped": flip_bits,
    "number overwritten": overwrite,
    "truncated": truncate,
    "bytes inserted": insert,
    "part repeated": repeat,
}
"""Those that may follow others."""
