"""Voxels of a DICOM file, a plane at a time, with the bits and the sign that its header declares."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from medseg.errors import InputError, MedsegError, explain_os_errors
from medseg.io.dicom.codec_messages import codec_messages
from medseg.io.dicom.codecs import CODECS_FIX, codec_of
from medseg.io.dicom.codestream import Codestream, is_whole, read_codestream
from medseg.io.dicom.colour_planes import red_green_blue
from medseg.io.dicom.elements import raw_bytes
from medseg.io.dicom.header_file import UNDEFINED_LENGTH, DamagedFileError, Header, PixelElement, open_header
from medseg.io.dicom.plane_format import FORMAT_TAGS, PlaneFormat, plane_format
from medseg.io.voxels import truncated

__all__ = ["StoredPlanes", "open_planes"]

_EXTENDED_OFFSETS: Final = (0x7FE00001, 0x7FE00002)
_TAGS: Final = (*FORMAT_TAGS, *_EXTENDED_OFFSETS)
_DAMAGE: Final = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError),
    *(ValueError, struct.error, zlib.error),
)
"""What pydicom and its plugins raise at streams that are not as they should be."""


class StoredPlanes:
    """The planes of an open file; see ``open_planes``.

    Args:
        source: Holds the data set, unpacked where it is deflated.
        header: With the elements that say how planes are stored.
        pixels: Where they lie.
        form: How they are stored.
        syntax: The transfer syntax.
    """

    def __init__(
        self, source: IO[bytes], header: Header, pixels: PixelElement, form: PlaneFormat, syntax: UID
    ) -> None:
        self.path = header.path
        self.format = form
        self._source = source
        self._header = header
        self._pixels = pixels
        self._syntax = syntax
        if syntax.is_encapsulated:
            self._decoder, self._plugin = _decoder_of(syntax, self.path)

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Decode planes in increasing order.

        Args:
            numbers: Which, from 0.

        Yields:
            The number, and the plane: shape (rows, columns), of colours (rows, columns, 3), in the format's
            type. It may be read-only.

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

    def _native(self, numbers: list[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        count = self.format.plane_bytes
        stored = self.format.dtype.newbyteorder("<" if self._pixels.little_endian else ">")
        swaps = self._pixels.swaps_pairs and stored.itemsize == 1
        for number in numbers:
            data = self._swapped(number) if swaps else self._bytes(number * count, count)
            values = self.format.meant(np.frombuffer(data, stored))
            if self.format.samples > 1:
                yield number, red_green_blue(values, self.format)
            else:
                yield number, values.reshape(self.format.rows, self.format.columns)

    def _bytes(self, offset: int, count: int) -> bytes:
        self._source.seek(self._pixels.offset + offset)
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
        self._source.seek(self._pixels.offset)
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
        self._require_sound(data)
        form = self.format
        options: dict[str, Any] = {
            "rows": form.rows,
            "columns": form.columns,
            "samples_per_pixel": form.samples,
            "number_of_frames": 1,
            "photometric_interpretation": form.photometric,
            "bits_allocated": 8 * form.dtype.itemsize,
            "bits_stored": form.bits_stored,
            "pixel_representation": int(form.dtype.kind == "i"),
        }
        if form.samples > 1:
            options["planar_configuration"] = int(form.planar)
        stream = encapsulate([data], has_bot=False)
        with codec_messages() if self._plugin == "gdcm" else nullcontext(()) as messages:
            plane, _ = self._decoder.as_array(
                stream, index=0, raw=form.samples == 1, decoding_plugin=self._plugin, **options
            )
        if messages:
            raise InputError(
                f"a plane is damaged, the codec says: {messages[0]}",
                where=self.path,
                fix="copy or export it again",
            )
        return plane

    def _require_sound(self, data: bytes) -> None:
        if self._syntax == RLELossless:
            return
        stream = read_codestream(data)
        if stream is None:
            raise InputError(
                f"a plane is no {self._syntax.name} stream", where=self.path, fix="copy or export it again"
            )
        if not is_whole(data):
            raise InputError("a plane ends too early", where=self.path, fix="copy or export it again")
        if stream != Codestream(self.format.rows, self.format.columns, self.format.samples):
            raise InputError(
                f"a compressed plane has {stream.rows}x{stream.columns} voxels of {stream.components} "
                f"values, the header says {self.format.rows}x{self.format.columns} of {self.format.samples}",
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
        InputError: The file is damaged or truncated, holds voxels or colours of an unknown kind, or no codec
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
    header = open_header(path, _TAGS)
    if header is None:
        raise InputError("is no DICOM file", where=path, fix="copy or export it again")
    pixels = header.pixels
    if pixels is None:
        raise InputError("holds no voxels", where=path, fix="export it again, with its pixel data")
    form = plane_format(header, pixels)
    needed = form.planes * form.plane_bytes
    source = file
    if syntax == DeflatedExplicitVRLittleEndian:
        source = _inflated(file, path, pixels.offset + needed)
    if not syntax.is_encapsulated:
        _require_complete(source, pixels, needed, path)
    return StoredPlanes(source, header, pixels, form, syntax)


def _inflated(file: IO[bytes], path: Path, needed: int) -> IO[bytes]:
    """The data set of a deflated file (PS3.5, section A.5), as far as its own header announces it."""
    start = file.read(144)
    if start[128:136] != b"DICM\x02\x00\x00\x00":
        raise InputError("has no file meta information", where=path, fix="copy or export it again")
    (meta_bytes,) = struct.unpack_from("<I", start, 140)
    file.seek(144 + meta_bytes)
    return BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), needed))


def _require_complete(source: IO[bytes], pixels: PixelElement, needed: int, path: Path) -> None:
    """Before memory is taken: the element, and the file, must hold what the header announces."""
    present = source.seek(0, 2) - pixels.offset
    if pixels.length != UNDEFINED_LENGTH:
        present = min(present, pixels.length)
    if present < needed:
        raise InputError(
            f"ends too early: {max(present, 0)} of {needed} bytes of voxels are there",
            where=path,
            fix="copy or export it again",
        )


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
    except DamagedFileError as error:
        raise InputError(str(error), where=path, fix="copy or export it again") from error
    except _DAMAGE as error:
        raise InputError(
            f"cannot be decoded, it is damaged or not what its header says ({type(error).__name__})",
            where=path,
            fix="copy or export it again",
        ) from error


def _decoder_of(syntax: UID, path: Path) -> tuple[Decoder, str]:
    try:
        found = codec_of(syntax)
    except NotImplementedError as error:
        raise InputError(
            f"is stored as {syntax.name}, which cannot be decoded",
            where=path,
            fix="export it uncompressed, as Explicit VR Little Endian",
        ) from error
    if found is None:
        what = f"is stored as {syntax.name}, and no codec for it is installed"
        raise InputError(what, where=path, fix=CODECS_FIX)
    return found


def _extended_offsets(header: Header) -> tuple[bytes, bytes] | None:
    """Where frames start, and how long they are, of objects too large for a basic table (PS3.5, A.4)."""
    offsets, lengths = (raw_bytes(header.dataset, tag) for tag in _EXTENDED_OFFSETS)
    return (offsets, lengths) if offsets and len(offsets) == len(lengths) else None
