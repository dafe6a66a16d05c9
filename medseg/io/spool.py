"""Voxels on the disk, of which boxes are read and written: none of them stays in memory.

Plain reads and writes rather than a memory map: mapped pages count as the process's memory until they are
given back, and a mapped file that somebody shortens ends the process, where a read raises an error.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, ResourceError, explain_os_errors
from medseg.io.sizes import format_bytes
from medseg.io.voxels import VoxelStream, explain_damage, in_native_order, require_end, truncated

__all__ = ["DiskArray", "scratch_array"]

_Move = Callable[[memoryview], int | None]
"""Reads into memory, or writes it; how many bytes that came to."""

_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 24


class DiskArray:
    """An array in a file, seen with its axes in one order and stored with them in another.

    Args:
        file: Unbuffered; the array closes it.
        name: What is to blame in errors: the file, or its folder where it has no name.
        shape: Length of each axis.
        order: The axes as they lie in the file, slowest first.
        dtype: In the file's byte order.
        offset: Where the first value starts, in bytes.

    Example:
        >>> array = scratch_array((2, 3, 4), (2, 1, 0), np.dtype("<i2"))
        >>> array.write((0, 0, 0), np.arange(24, dtype=np.int16).reshape(2, 3, 4))
        >>> array.read((1, 1, 0), (2, 3, 2)).tolist()
        [[[16, 17], [20, 21]]]
        >>> array.close()
    """

    def __init__(
        self,
        file: RawIOBase,
        name: Path,
        shape: Sequence[int],
        order: Sequence[int],
        dtype: np.dtype[Any],
        offset: int = 0,
    ) -> None:
        self.shape = tuple(shape)
        self.order = tuple(order)
        self.dtype = dtype
        self._file = file
        self._name = name
        self._offset = offset
        self._sizes = tuple(self.shape[axis] for axis in self.order)
        self._strides = tuple(
            math.prod(self._sizes[i + 1 :]) * dtype.itemsize for i in range(len(self._sizes))
        )
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Size on the disk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self, axis: int) -> tuple[int, int]:
        """In how many pieces a slice across ``axis`` lies in the file, and the bytes of each."""
        place = self.order.index(axis)
        return math.prod(self._sizes[:place]), self._strides[place]

    def read(self, start: Sequence[int], stop: Sequence[int]) -> npt.NDArray[Any]:
        """The box [start, stop), in native byte order; its memory is laid out as in the file.

        Raises:
            GeometryError: The box reaches beyond the array.
            InputError: The file has become shorter, or cannot be read.
        """
        first, lengths = self._box(start, stop)
        values = np.empty(lengths, self.dtype)
        with explain_damage(self._name):
            self._transfer(self._file.readinto, first, values)
        return in_native_order(values).transpose(np.argsort(self.order))

    def write(self, start: Sequence[int], values: npt.NDArray[Any]) -> None:
        """Store ``values`` in the box that begins at ``start``.

        Raises:
            GeometryError: The box reaches beyond the array.
            ResourceError: The disk is full.
        """
        stop = [begin + size for begin, size in zip(start, values.shape, strict=True)]
        first, _ = self._box(start, stop)
        ordered = np.ascontiguousarray(values.transpose(self.order), dtype=self.dtype)
        with explain_os_errors(self._name):
            self._transfer(self._file.write, first, ordered)

    def unpack(self, stream: VoxelStream, path: Path) -> None:
        """Fill the array from a compressed stream, read to its end so that a wrong checksum is noticed.

        Args:
            stream: Positioned at the first voxel; it holds them in the array's own order and type.
            path: The compressed file, for errors.

        Raises:
            InputError: The stream ends too early.
            ResourceError: The disk is full.
        """
        chunk = memoryview(bytearray(_CHUNK_BYTES))
        position = 0
        while position < self.nbytes:
            filled = stream.readinto(chunk[: min(self.nbytes - position, _CHUNK_BYTES)])
            if not filled:
                raise truncated(path)
            with explain_os_errors(self._name):
                self._move(self._file.write, self._offset + position, chunk[:filled])
            position += filled
        require_end(stream)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def blocks(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Boxes (start, stop) that cover the array, each in one piece in the file and of 16 MiB at most."""
        cut = next(i for i, stride in enumerate(self._strides) if stride <= _BLOCK_BYTES)
        step = max(1, _BLOCK_BYTES // self._strides[cut])
        back = np.argsort(self.order)
        for outer in itertools.product(*map(range, self._sizes[:cut])):
            for begin in range(0, self._sizes[cut], step):
                end = min(begin + step, self._sizes[cut])
                inner = self._sizes[cut + 1 :]
                start = (*outer, begin, *(0 for _ in inner))
                stop = (*(index + 1 for index in outer), end, *inner)
                yield tuple(start[i] for i in back), tuple(stop[i] for i in back)

    def _box(self, start: Sequence[int], stop: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where a box begins and how long it is, in the file's order of axes."""
        if not all(0 <= a <= b <= size for a, b, size in zip(start, stop, self.shape, strict=True)):
            raise GeometryError(
                f"voxels {tuple(start)} to {tuple(stop)} are asked for, and there are {self.shape}",
                where=self._name,
            )
        return tuple(start[i] for i in self.order), tuple(stop[i] - start[i] for i in self.order)

    def _runs(self, first: tuple[int, ...], lengths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Place and size, in bytes, of the pieces that a box has in the file."""
        if 0 in lengths:
            return
        inner = len(lengths) - 1
        while inner > 0 and lengths[inner] == self._sizes[inner]:
            inner -= 1
        count = lengths[inner] * self._strides[inner]
        base = self._offset + sum(begin * stride for begin, stride in zip(first, self._strides, strict=True))
        steps = (
            range(0, length * stride, stride)
            for length, stride in zip(lengths[:inner], self._strides[:inner], strict=True)
        )
        for outer in itertools.product(*steps):
            yield base + sum(outer), count

    def _transfer(self, move: _Move, first: tuple[int, ...], values: npt.NDArray[Any]) -> None:
        """Let the box of ``values`` that begins at ``first`` pass between them and the file, in its order."""
        buffer = values.reshape(-1).view(np.uint8).data
        position = 0
        for place, count in self._runs(first, values.shape):
            self._move(move, place, buffer[position : position + count])
            position += count

    def _move(self, move: _Move, place: int, buffer: memoryview) -> None:
        with self._lock:
            self._file.seek(place)
            position = 0
            while position < len(buffer):
                count = move(buffer[position:])
                if not count:
                    raise truncated(self._name)
                position += count


def scratch_array(
    shape: Sequence[int],
    order: Sequence[int],
    dtype: np.dtype[Any],
    folder: str | os.PathLike[str] | None = None,
) -> DiskArray:
    """An array in a file without a name, gone when it is closed or the process ends, however it ends.

    Args:
        shape: Length of each axis.
        order: The axes as they are stored, slowest first.
        dtype: Of the values.
        folder: Where it takes its space; by default the system's folder for temporary files, which the
            environment variable ``TMPDIR`` names. Where that lies in memory (tmpfs), choose another one.

    Raises:
        ResourceError: There is too little space.
        InputError: The folder does not exist.
    """
    place = Path(tempfile.gettempdir() if folder is None else folder)
    needed = math.prod(shape) * dtype.itemsize
    with explain_os_errors(place):
        free = shutil.disk_usage(place).free
        if needed > free:
            raise ResourceError(
                f"has {format_bytes(free)} free, {format_bytes(needed)} are needed for voxels",
                where=place,
                fix="free some space, or choose another folder for temporary files (TMPDIR)",
            )
        file = cast(RawIOBase, tempfile.TemporaryFile(buffering=0, dir=place))  # noqa: SIM115
    return DiskArray(file, place, shape, order, dtype)
