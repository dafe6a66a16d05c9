"""Voxels of a DICOM file, a plane at a time, with the bits and the sign that its header declares."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import encapsulate, generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from medseg.errors import InputError, MedsegError, explain_os_errors
from medseg.io.dicom.codestream import Codestream, read_codestream
from medseg.io.dicom.plane_format import PIXEL_KEYWORDS, PIXEL_MODULE, inflated, plane_format
from medseg.io.voxels import truncated

__all__ = ["StoredPlanes", "open_planes"]

_UNDEFINED_LENGTH = 0xFFFFFFFF
_PREFERRED_PLUGINS = ("pylibjpeg", "pyjpegls", "gdcm", "pillow", "pydicom")
"""In this order, so that a machine with several decodes as one with few, and GDCM where nothing else does."""

_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError),
    *(ValueError, InvalidDicomError, struct.error, zlib.error),
)
"""What pydicom and its plugins raise at headers and streams that are not as they should be."""


class StoredPlanes:
    """The planes of an open file; see ``open_planes``.

    Args:
        path: The file, for errors.
        source: Positioned anywhere; holds the data set, inflated.
        header: The pixel module's elements.
        syntax: How planes are stored.
    """

    def __init__(self, path: Path, source: IO[bytes], header: pydicom.Dataset, syntax: UID) -> None:
        self.path = path
        self._source = source
        self._syntax = syntax
        self._header = header
        keyword, self._swaps_pairs, self._length = self._enter_pixel_data()
        self._start = source.tell()
        self.format = plane_format(header, keyword, path)
        if syntax.is_encapsulated:
            self._decoder, self._plugin = _decoder_of(syntax, path)
        else:
            self._require_complete()

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Decode planes in increasing order.

        Args:
            numbers: Which, from 0.

        Yields:
            The number, and the plane: shape (rows, columns), in the format's type. It may be read-only.

        Raises:
            InputError: The file is truncated or damaged, or a plane decodes to another size.
        """
        wanted = sorted(set(numbers))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.format.planes:
            raise InputError(
                f"holds {self.format.planes} planes, number {wanted[-1]} is asked for",
                where=self.path,
                fix="scan the folder again, the file has changed",
            )
        planes = self._encapsulated(wanted) if self._syntax.is_encapsulated else self._native(wanted)
        while True:
            with _explain_damage(self.path):
                plane = next(planes, None)
            if plane is None:
                return
            yield plane

    def _enter_pixel_data(self) -> tuple[str, bool, int]:
        """Read the element's own header (PS3.5 7.1); the source then stands at its value."""
        is_implicit, is_little = self._header.original_encoding  # what was found, whatever the syntax says
        order = "<" if is_little else ">"
        start = self._source.read(8)
        if len(start) < 8:
            raise InputError("holds no voxels", where=self.path, fix="export it again, with its pixel data")
        group, element = struct.unpack_from(f"{order}HH", start)
        keyword = PIXEL_KEYWORDS[group << 16 | element]
        if is_implicit:
            return keyword, False, struct.unpack_from(f"{order}I", start, 4)[0]
        (length,) = struct.unpack(f"{order}I", self._source.read(4))
        return keyword, order == ">" and start[4:6] == b"OW", length

    def _require_complete(self) -> None:
        """Before memory is taken: the element, and the file, must hold what the header announces."""
        needed = self.format.planes * self.format.plane_bytes
        present = self._source.seek(0, 2) - self._start
        if self._length != _UNDEFINED_LENGTH:
            present = min(present, self._length)
        if present < needed:
            raise InputError(
                f"ends too early: {present} of {needed} bytes of voxels are there",
                where=self.path,
                fix="copy or export it again",
            )

    def _native(self, numbers: list[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        count = self.format.plane_bytes
        stored = self.format.dtype.newbyteorder("<" if self._syntax.is_little_endian else ">")
        swaps = self._swaps_pairs and stored.itemsize == 1
        for number in numbers:
            data = self._swapped(number) if swaps else self._bytes(number * count, count)
            plane = np.frombuffer(data, stored).reshape(self.format.rows, self.format.columns)
            yield number, self.format.meant(plane)

    def _bytes(self, offset: int, count: int) -> bytes:
        self._source.seek(self._start + offset)
        data = self._source.read(count)
        if len(data) < count:
            raise truncated(self.path)
        return data

    def _swapped(self, number: int) -> bytes:
        """Bytes in big-endian words lie in pairs the other way round (PS3.5 8.1.1), across planes too."""
        first = number * self.format.plane_bytes
        last = first + self.format.plane_bytes
        pairs = self._bytes(first - first % 2, last + last % 2 - (first - first % 2))
        return np.frombuffer(pairs, np.uint16).byteswap().tobytes()[first % 2 :][: last - first]

    def _encapsulated(self, numbers: list[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        self._source.seek(self._start)
        frames = generate_frames(
            cast(Any, self._source),
            number_of_frames=self.format.planes,
            extended_offsets=_extended_offsets(self._header),
        )
        wanted, last = set(numbers), numbers[-1] if numbers else -1
        for number, data in zip(range(last + 1), frames, strict=False):
            if number in wanted:
                yield number, self._decoded(data)
                wanted.remove(number)
        if wanted:
            raise truncated(self.path)

    def _decoded(self, data: bytes) -> npt.NDArray[Any]:
        self._require_size(data)
        form = self.format
        options: dict[str, Any] = {
            "rows": form.rows,
            "columns": form.columns,
            "samples_per_pixel": 1,
            "number_of_frames": 1,
            "photometric_interpretation": "MONOCHROME2",
            "bits_allocated": 8 * form.dtype.itemsize,
            "bits_stored": form.bits_stored,
            "pixel_representation": int(form.dtype.kind == "i"),
        }
        stream = encapsulate([data], has_bot=False)
        plane, _ = self._decoder.as_array(stream, index=0, raw=True, decoding_plugin=self._plugin, **options)
        return plane

    def _require_size(self, data: bytes) -> None:
        if self._syntax == RLELossless:
            return
        stream = read_codestream(data)
        if stream is None:
            raise InputError(
                f"a plane is no {self._syntax.name} stream", where=self.path, fix="copy or export it again"
            )
        if stream != Codestream(self.format.rows, self.format.columns, 1):
            raise InputError(
                f"a compressed plane has {stream.rows}x{stream.columns} voxels of {stream.components} "
                f"values, the header says {self.format.rows}x{self.format.columns} of 1",
                where=self.path,
                fix="export it again",
            )


@contextmanager
def open_planes(path: Path, transfer_syntax_uid: str) -> Iterator[StoredPlanes]:
    """Open a DICOM file to decode its planes one by one.

    What memory a plane takes is known before it is taken: a header that announces more than the file holds
    is refused, and so is a compressed stream of another size than the header's.

    Args:
        path: The file.
        transfer_syntax_uid: How it is stored, from its header or its lack of one.

    Yields:
        The planes.

    Raises:
        InputError: The file is damaged or truncated, holds colours or voxels of an unknown kind, or no codec
            for its transfer syntax is installed.
        ResourceError: It may not be read.
    """
    with explain_os_errors(path):
        file = path.open("rb")
    with file:
        with _explain_damage(path):
            planes = _opened(file, path, UID(transfer_syntax_uid))
        yield planes


def _opened(file: IO[bytes], path: Path, syntax: UID) -> StoredPlanes:
    if syntax == DeflatedExplicitVRLittleEndian:
        return StoredPlanes(path, *inflated(file, path), syntax)
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=PIXEL_MODULE)
    return StoredPlanes(path, file, header, syntax)


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn what pydicom and its plugins raise at a damaged file into one line, and keep them quiet.

    Their own words are left out: they may quote a patient's data.

    Raises:
        InputError: The file is damaged.
        ResourceError: It may not be read, or memory does not suffice.
    """
    try:
        with explain_os_errors(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MedsegError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"cannot be decoded, it is damaged or not what its header says ({type(error).__name__})",
            where=path,
            fix="copy or export it again",
        ) from error


def _decoder_of(syntax: UID, path: Path) -> tuple[Decoder, str]:
    fix = "install the codecs: pip install 'medseg[dicom]'"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InputError(
            f"is stored as {syntax.name}, which cannot be decoded",
            where=path,
            fix="export it uncompressed, as Explicit VR Little Endian",
        ) from error
    for plugin in _PREFERRED_PLUGINS:
        if plugin in decoder.available_plugins:
            return decoder, plugin
    raise InputError(f"is stored as {syntax.name}, and no codec for it is installed", where=path, fix=fix)


def _extended_offsets(header: pydicom.Dataset) -> tuple[bytes, bytes] | None:
    offsets, lengths = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    return (offsets, lengths) if offsets and lengths and len(offsets) == len(lengths) else None
