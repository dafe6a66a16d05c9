"""Values of single data elements, from the bytes in the file: what cannot be read is told, never raised.

A file may hold anything under any tag. Numbers that cannot be read are NaN, missing elements ``None`` or
empty; what follows from that, the geometry gate decides.
"""

from __future__ import annotations

import math
import struct
from functools import cache
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

__all__ = ["integer", "number", "numbers", "raw_bytes", "text", "texts", "too_long"]

LONGEST_DECIMAL: Final = 16
"""Characters that a decimal string may have (PS3.5, table 6.2-1)."""

_LONGEST_VALUE_BYTES: Final = 1 << 16
"""No value that is asked for here comes near it."""

_BINARY: Final = {
    "FD": "d",
    "FL": "f",
    "SL": "i",
    "SS": "h",
    "SV": "q",
    "UL": "I",
    "US": "H",
    "UV": "Q",
}


def raw_bytes(dataset: Dataset, tag: int) -> bytes:
    """The bytes of an element's value; none where the element is missing, or a sequence."""
    return _bytes_of(dataset.get_item(_base_tag(tag)))


def text(dataset: Dataset, tag: int) -> str:
    """A text without padding and without what no terminal should be sent; empty where there is none."""
    value = raw_bytes(dataset, tag)[:_LONGEST_VALUE_BYTES]
    try:
        decoded = value.decode("utf-8")
    except UnicodeDecodeError:
        decoded = value.decode("latin-1")
    if not decoded.isprintable():
        decoded = "".join(letter for letter in decoded if letter.isprintable())
    return decoded.strip()


def texts(dataset: Dataset, tag: int) -> tuple[str, ...]:
    """All values of a text element; none where it is missing or empty."""
    joined = text(dataset, tag)
    return tuple(part.strip() for part in joined.split("\\")) if joined else ()


def numbers(dataset: Dataset, tag: int, vr: str | None = None) -> tuple[float, ...]:
    """All values of a number element, NaN for each that is no number; none where the element is missing.

    Args:
        dataset: Where it is.
        tag: Its tag.
        vr: Its value representation, for private elements that a file may declare as unknown.
    """
    element = dataset.get_item(_base_tag(tag))
    value = _bytes_of(element)[:_LONGEST_VALUE_BYTES]
    if not value.strip(b" \0") and len(value) not in (2, 4, 8):
        return ()
    declared = getattr(element, "VR", None)
    kind = str(declared) if declared not in (None, "UN") else vr or _standard_vr(tag)
    if kind in _BINARY:
        return _unpacked(value, _BINARY[kind], little=bool(getattr(element, "is_little_endian", True)))
    stripped = value.strip(b" \0")
    return tuple(_parsed(part) for part in stripped.split(b"\\")) if stripped else ()


def number(dataset: Dataset, tag: int, vr: str | None = None) -> float | None:
    """The first value of a number element, where there is one and it is a finite number."""
    values = numbers(dataset, tag, vr)
    return values[0] if values and math.isfinite(values[0]) else None


def integer(dataset: Dataset, tag: int, vr: str | None = None) -> int | None:
    """The first value of an element of whole numbers."""
    value = number(dataset, tag, vr)
    return None if value is None else round(value)


def too_long(dataset: Dataset, tags: tuple[int, ...]) -> tuple[str, ...]:
    """The keywords of those decimal strings of which a value is longer than the standard allows."""
    return tuple(
        keyword_for_tag(tag)
        for tag in tags
        if len(value := raw_bytes(dataset, tag)) > LONGEST_DECIMAL
        and any(len(part.strip(b" \0")) > LONGEST_DECIMAL for part in value.split(b"\\"))
    )


def _bytes_of(element: object) -> bytes:
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        return element.value
    return b""


@cache
def _base_tag(tag: int) -> BaseTag:
    """A number as pydicom's own kind of tag, which it makes of every other number at each look."""
    return Tag(tag)


def _unpacked(value: bytes, letter: str, *, little: bool) -> tuple[float, ...]:
    whole = len(value) // struct.calcsize(f"<{letter}")
    if whole == 0:
        return (math.nan,)
    return tuple(float(x) for x in struct.unpack_from(f"{'<' if little else '>'}{whole}{letter}", value))


def _standard_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _parsed(part: bytes) -> float:
    # Python reads underscores between digits, which a decimal string does not know.
    try:
        return math.nan if b"_" in part else float(part.strip(b" \0"))
    except ValueError:
        return math.nan
