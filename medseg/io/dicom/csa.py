"""Siemens' private CSA header: names and texts in a format of its own, read without trusting its lengths.

Layout, little endian: optionally ``SV10`` and four bytes; the number of tags and four bytes; for each tag a
name of 64 bytes, a multiplicity, a value representation of four bytes, a type, a number of items and four
bytes; for each item four numbers, of which the second is its length (in files without ``SV10`` the first,
less the number of items of the first tag), then the text, padded to four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Final

__all__ = ["CsaError", "csa_texts"]

_MOST_TAGS: Final = 1000
_MOST_ITEMS: Final = 1000


class CsaError(Exception):
    """The bytes are no CSA header."""


def csa_texts(data: bytes, names: Collection[str]) -> dict[str, list[str]]:
    """The items of some tags, as texts; empty items are left out.

    Args:
        data: The value of the private element.
        names: Tags that are wanted.

    Raises:
        CsaError: The bytes are no CSA header, or end too early.
    """
    try:
        return _texts(data, names)
    except struct.error:
        raise CsaError("the CSA header ends too early") from None


def _texts(data: bytes, names: Collection[str]) -> dict[str, list[str]]:
    newer = data[:4] == b"SV10"
    position = 8 if newer else 0
    (tags,) = struct.unpack_from("<I", data, position)
    position += 8
    if not 0 < tags <= _MOST_TAGS:
        raise CsaError("the CSA header announces no usable number of tags")
    found: dict[str, list[str]] = {}
    first_items = 0
    for index in range(tags):
        name = struct.unpack_from("<64s", data, position)[0].split(b"\0")[0].decode("latin-1")
        (items,) = struct.unpack_from("<i", data, position + 76)
        position += 84
        if not 0 <= items <= _MOST_ITEMS:
            raise CsaError("the CSA header announces no usable number of items")
        first_items = items if index == 0 else first_items
        for _ in range(items):
            lengths = struct.unpack_from("<4i", data, position)
            position += 16
            length = lengths[1] if newer else lengths[0] - first_items
            if length < 0 or position + length > len(data):
                if newer:
                    raise CsaError("an item of the CSA header is longer than the header")
                break  # in the older format, so ends a tag with fewer items than it announces
            if name in names and length:
                text = data[position : position + length].split(b"\0")[0].decode("latin-1").strip()
                found.setdefault(name, []).append(text)
            position += length + -length % 4
    return found
