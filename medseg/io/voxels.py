"""Streaming voxels from a file into one array; truncation and corruption are noticed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError, explain_os_errors

__all__ = [
    "InflatedStream",
    "VoxelStream",
    "explain_damage",
    "in_native_order",
    "pieces_to_write",
    "read_voxels",
    "require_end",
    "truncated",
]

_CHUNK_BYTES = 1 << 20
_SLAB_BYTES = 1 << 24


class VoxelStream(Protocol):
    """Whatever fills buffers; it may fill less than the whole buffer, and fills nothing at its end."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill (a part of) ``buffer``; return how many bytes."""
        ...


class InflatedStream:
    """Unpacks a zlib stream (RFC 1950) that starts at a file's current position.

    Args:
        file: Open for reading.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj()

    def readinto(self, buffer: memoryview) -> int:
        """Fill (a part of) ``buffer``.

        Raises:
            EOFError: The file ends before the stream does.
            zlib.error: The stream or its checksum is wrong.
        """
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(_CHUNK_BYTES)
            if not packed:
                raise EOFError
            unpacked = self._unpacker.decompress(packed, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)
        return 0


def truncated(path: Path) -> InputError:
    """The error for a file that ends too early."""
    return InputError("ends too early: it is truncated", where=path, fix="copy or export it again")


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn the errors of reading and unpacking ``path`` into medseg's.

    Raises:
        InputError: The file does not exist, is truncated or corrupt.
        ResourceError: It may not be read.
    """
    try:
        with explain_os_errors(path):
            yield
    except EOFError as error:
        raise truncated(path) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"is corrupt ({error})", where=path, fix="copy or export it again") from error


def read_voxels(
    stream: VoxelStream, count: int, dtype: np.dtype[Any], *, compressed: bool, path: Path
) -> npt.NDArray[Any]:
    """Read ``count`` values.

    Args:
        stream: Positioned at the first value.
        count: How many.
        dtype: Their type in the file, with its byte order.
        compressed: Whether a checksum stands behind the last value, so that all has to be read.
        path: The file, for the error.

    Returns:
        One-dimensional, in native byte order.

    Raises:
        InputError: The file ends too early.
    """
    flat = np.empty(count, dtype)
    view = flat.view(np.uint8).data
    position = 0
    while position < len(view):
        # Chunks, for Python's gzip makes a copy of whatever is asked for at once.
        filled = stream.readinto(view[position : position + _CHUNK_BYTES])
        if not filled:
            raise truncated(path)
        position += filled
    if compressed:
        require_end(stream)
    return in_native_order(flat)


def require_end(stream: VoxelStream) -> None:
    """Read a compressed stream to its end: only there does it tell whether its checksum is right."""
    beyond = memoryview(bytearray(_CHUNK_BYTES))
    while stream.readinto(beyond):
        pass


def in_native_order(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same values in native byte order, swapped in place where they are not."""
    if values.dtype.isnative:
        return values
    return values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))


def pieces_to_write(slices: int, slice_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut ``slices`` into ranges (start, stop) of 16 MiB at most, but of a slice at least.

    Example:
        >>> list(pieces_to_write(5, 8 << 20))
        [(0, 2), (2, 4), (4, 5)]
    """
    thickness = max(1, _SLAB_BYTES // slice_bytes)
    for start in range(0, slices, thickness):
        yield start, min(start + thickness, slices)
