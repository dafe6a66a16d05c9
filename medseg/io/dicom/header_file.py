"""Opening a DICOM file as far as its pixel data, with bounds on what a lying file can cost."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import config
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from medseg.io.dicom.elements import text

__all__ = ["UNDEFINED_LENGTH", "DamagedFileError", "Header", "PixelElement", "open_header"]

UNDEFINED_LENGTH: Final = 0xFFFFFFFF

MOST_READS: Final = 4_000_000
"""Reads that one header may cost. An element takes two or three, an item of a sequence ``READS_OF_AN_ITEM``;
an enhanced object of 10,000 frames has some 2,000,000 reads and 120,000 items. A file of empty items would
else take a hundred times its size in memory."""

READS_OF_AN_ITEM: Final = 15
"""What an item counts for: to make its dataset takes as long as so many reads."""

_ITEM_HEADS: Final = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")

MOST_INFLATED_BYTES: Final = 1 << 28
"""What is unpacked of a deflated file to find its header: it could unpack to a thousand times its size."""

_PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_PREAMBLE_BYTES: Final = 128
_MAGIC: Final = b"DICM"
_MEDIA_STORAGE_SOP_CLASS: Final = 0x00020002
_TRANSFER_SYNTAX: Final = 0x00020010
_SOP_CLASS: Final = 0x00080016
_VRS: Final = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)
_LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN"})
_ELEMENTS_AT_THE_START: Final = 0x200
_LONGEST_FIRST_VALUE: Final = 0x1000
_BUFFER_BYTES: Final = 1 << 14


class DamagedFileError(Exception):
    """A file that is DICOM, but cannot be read; the message says why, and names no value of it."""


@dataclass(frozen=True)
class PixelElement:
    """Where a file's voxels lie.

    Attributes:
        offset: Of the first byte, in the file (in what it unpacks to where it is deflated).
        length: As announced, or ``UNDEFINED_LENGTH`` where voxels are compressed.
        available: Bytes from ``offset`` to the end.
        ends_well: Whether the last item of compressed voxels is whole.
        tag: Of the element: there are others for floating-point voxels.
        swaps_pairs: Whether it is made of big-endian words, in which bytes lie in pairs the other way round.
        little_endian: Whether numbers have their lowest byte first.
    """

    offset: int
    length: int
    available: int
    ends_well: bool = True
    tag: int = 0x7FE00010
    swaps_pairs: bool = False
    little_endian: bool = True


class _GuardedFile(io.BufferedReader):
    """A file from which no read can ask for more than it holds, and none be repeated without end."""

    def __init__(self, raw: Any, size: int, reads_left: int) -> None:
        super().__init__(raw, _BUFFER_BYTES)
        self.size = size
        self.reads_left = reads_left

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise DamagedFileError("its header holds more elements than any image needs")
        if size is None or size < 0 or size > self.size:
            raise DamagedFileError("an element is longer than the file")
        content = super().read(size)
        if size == 8 and content.startswith(_ITEM_HEADS):
            self.reads_left -= READS_OF_AN_ITEM
        return content


@dataclass
class Header:
    """What stands before the pixel data.

    Attributes:
        path: The file.
        dataset: The elements that were asked for, as raw bytes.
        sop_class_uid: SOPClassUID, or what the file's own header says in its place.
        transfer_syntax_uid: How the voxels are stored.
        pixels: Where the voxels lie; ``None`` where there are none.
        file_bytes: The size of the file.
        reads_left: What may still be spent on its sequences.
    """

    path: Path
    dataset: Dataset
    sop_class_uid: str
    transfer_syntax_uid: str
    pixels: PixelElement | None
    file_bytes: int
    reads_left: int = MOST_READS

    def items(self, dataset: Dataset, tag: int) -> list[Dataset]:
        """The items of a sequence, parsed at each call so that nothing is kept; none where it is missing.

        Args:
            dataset: This header's, or an item of one of its sequences.
            tag: The sequence's tag.

        Raises:
            DamagedFileError: The sequence is not whole, or too large.
        """
        element = dataset.get_item(tag)
        if element is None:
            return []
        if not isinstance(element, RawDataElement):
            return list(element.value) if element.VR == VR.SQ else []
        value = element.value or b""
        guarded = _GuardedFile(io.BytesIO(value), len(value), self.reads_left)
        with _told_as_damage():
            found = read_sequence(
                guarded, element.is_implicit_VR, element.is_little_endian, len(value), default_encoding
            )
        self.reads_left = guarded.reads_left
        return list(found)


def open_header(path: Path, tags: Sequence[int]) -> Header | None:
    """Read the header of a file, as far as its voxels.

    Whether a file is DICOM is told by what it holds, with or without a preamble (PS3.10, section 7.1).

    Args:
        path: A regular file.
        tags: The elements that are wanted; the others are skipped.

    Returns:
        The header, or ``None`` where the file is no DICOM file.

    Raises:
        DamagedFileError: The file is DICOM, but its header cannot be read.
        OSError: The file cannot be opened or read.
    """
    size = path.stat().st_size
    with path.open("rb", buffering=0) as raw, _GuardedFile(raw, size, MOST_READS) as file, _told_as_damage():
        head = file.peek(_PREAMBLE_BYTES + 12)[: _PREAMBLE_BYTES + 12]
        if head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == _MAGIC:
            file.seek(_PREAMBLE_BYTES + 4)
        elif not _starts_as_dataset(head):
            return None
        meta = _file_meta(file)
        return _read(path, file, size, meta, tags)


def _file_meta(file: _GuardedFile) -> Dataset:
    """Group 0002, which is always explicit and little endian (PS3.10, section 7.1)."""
    return read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)


def _read(path: Path, file: _GuardedFile, size: int, meta: Dataset, tags: Sequence[int]) -> Header:
    syntax = text(meta, _TRANSFER_SYNTAX)
    if syntax == DeflatedExplicitVRLittleEndian:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            file.read(size - file.tell()), MOST_INFLATED_BYTES
        )
        file = _GuardedFile(io.BytesIO(inflated), len(inflated), file.reads_left)
        size = len(inflated)
    implicit, little = _encoding(file, syntax)
    dataset = read_dataset(
        file,
        implicit,
        little,
        stop_when=lambda tag, _vr, _length: tag in _PIXEL_TAGS,
        specific_tags=list(tags),
    )
    return Header(
        path=path,
        dataset=dataset,
        sop_class_uid=text(dataset, _SOP_CLASS) or text(meta, _MEDIA_STORAGE_SOP_CLASS),
        transfer_syntax_uid=syntax or _plain_syntax(implicit=implicit, little=little),
        pixels=_pixel_element(file, size, implicit=implicit, little=little),
        file_bytes=size,
        reads_left=file.reads_left,
    )


def _starts_as_dataset(head: bytes) -> bool:
    """Whether bytes look like the first element of a file without preamble: group 0002 or 0008."""
    if len(head) < 8:
        return False
    little_group, little_element = struct.unpack_from("<HH", head)
    big_group, big_element = struct.unpack_from(">HH", head)
    little = little_group in (2, 8) and little_element < _ELEMENTS_AT_THE_START
    big = big_group == 8 and big_element < _ELEMENTS_AT_THE_START
    if head[4:6] in _VRS:
        return bool(little or big)
    length = struct.unpack_from("<I", head, 4)[0]
    return bool(little and length <= _LONGEST_FIRST_VALUE and length % 2 == 0)


def _encoding(file: _GuardedFile, syntax: str) -> tuple[bool, bool]:
    """Whether VRs are implicit and bytes little endian; the bytes are believed before the UID."""
    here = file.tell()
    first = file.read(min(8, file.size))
    file.seek(here)
    implicit = first[4:6] not in _VRS
    if syntax == ExplicitVRBigEndian:
        return implicit, False
    if syntax:
        return implicit, True
    return implicit, implicit or first[0:1] != b"\0"


def _plain_syntax(*, implicit: bool, little: bool) -> str:
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def _pixel_element(file: _GuardedFile, size: int, *, implicit: bool, little: bool) -> PixelElement | None:
    """What stands where reading stopped, if it is the pixel data."""
    order = "<" if little else ">"
    start = file.tell()
    head = file.read(min(12, size))
    if len(head) < 8:
        return None
    group, element = struct.unpack_from(f"{order}HH", head)
    tag = group << 16 | element
    if tag not in _PIXEL_TAGS:
        return None
    offset, length_at = (8, 4) if implicit or head[4:6] not in _LONG_VRS else (12, 8)
    if len(head) < offset:
        return None
    length = struct.unpack_from(f"{order}I", head, length_at)[0]
    available = max(size - start - offset, 0)
    whole = length != UNDEFINED_LENGTH or _ends_well(file, start + offset, size)
    swaps = not little and not implicit and head[4:6] == b"OW"
    return PixelElement(start + offset, length, available, whole, tag, swaps, little)


_ITEM: Final = struct.pack("<HH", 0xFFFE, 0xE000)
_DELIMITER: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _ends_well(file: _GuardedFile, offset: int, size: int) -> bool:
    """Whether the items of compressed voxels end with their delimiter (PS3.5, section A.4)."""
    file.seek(max(size - 8, 0))
    if file.read(min(8, size)) == _DELIMITER:
        return True
    while offset + 8 <= size:
        file.seek(offset)
        head = file.read(8)
        if head[:4] != _ITEM:
            return head[:4] == _DELIMITER[:4]
        offset += 8 + struct.unpack_from("<I", head, 4)[0]
    return False


@contextmanager
def _told_as_damage() -> Iterator[None]:
    """Whatever the library raises on a broken header becomes ``DamagedFileError``; its warnings are kept."""
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except (DamagedFileError, MemoryError):
        raise
    except RecursionError:
        raise DamagedFileError("its sequences are nested without end") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DamagedFileError("a sequence ends too early") from None
    except Exception as error:  # noqa: BLE001
        # The library's own words may hold values, and values may be names.
        raise DamagedFileError(f"its header cannot be read ({type(error).__name__})") from None
