"""Volumes that stay in their files and are read slab by slab."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from medseg.geometry import Grid
from medseg.io.contract import StoredVoxels
from medseg.io.formats import format_of, read_headers
from medseg.io.spool import DiskArray, scratch_array

__all__ = ["StoredVolume", "open_volume"]

_SHORT_PIECE_BYTES = 512
_FEW_PIECES = 64

Folder = str | os.PathLike[str] | None


class StoredVolume:
    """An image whose voxels stay on the disk until they are asked for; made by ``open_volume``.

    To be used in a ``with`` block, or closed: it holds files.

    Attributes:
        resident_bytes: 0, for it keeps no voxel in memory.
    """

    resident_bytes = 0

    def __init__(self, files: Sequence[_StoredFile]) -> None:
        self._files = files
        self._grid = files[0].voxels.header.grid
        self._dtype = np.result_type(*(file.voxels.header.dtype for file in files))

    @property
    def name(self) -> str:
        """Its file, or the first of them."""
        return str(self._files[0].voxels.header.path)

    @property
    def grid(self) -> Grid:
        """The grid of the spatial axes."""
        return self._grid

    @property
    def channels(self) -> int:
        """Number of channels."""
        return sum(file.voxels.header.channels for file in self._files)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, in native byte order: what ``read_volume`` gives."""
        return self._dtype

    def slices(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Slices [start, stop) along a spatial axis: (C, X, Y, Z) where that axis has stop - start slices.

        Raises:
            GeometryError: There are no such slices.
            InputError: A file has become shorter since it was opened.
        """
        if len(self._files) == 1:
            return self._files[0].slices(axis, start, stop)
        shape = list(self._grid.shape)
        shape[axis] = stop - start
        array = np.empty((self.channels, *shape[::-1]), self._dtype).transpose(0, 3, 2, 1)
        channel = 0
        for file in self._files:
            count = file.voxels.header.channels
            array[channel : channel + count] = file.slices(axis, start, stop)
            channel += count
        return array

    def close(self) -> None:
        """Close the files, and with them give back what was unpacked."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_volume(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, scratch_folder: Folder = None
) -> StoredVolume:
    """Open an image to be read slab by slab: ``read_volume`` for what does not fit into memory.

    Compressed voxels are unpacked at once, into a temporary file without a name, so that damage is noticed
    before work starts and no voxel is unpacked twice. An image that is read across its fastest axis is stored
    once more, the other way round.

    Args:
        path: One file (3D, or 4D with channels in the fourth dimension), or one file per channel, all on the
            same grid.
        scratch_folder: Where temporary files take their space; by default the system's folder, ``TMPDIR``.

    Returns:
        The same values and type as ``read_volume`` gives, as a context manager.

    Raises:
        InputError: A file does not exist, is damaged, or holds no 3D volume.
        GeometryError: A geometry is missing, invalid or contradicts itself, or the files' grids differ.
        ResourceError: The disk has too little room for what is unpacked.

    Example:
        >>> import tempfile
        >>> from medseg.io import write_volume
        >>> from medseg.volume import Volume
        >>> path = Path(tempfile.mkdtemp()) / "image.nii.gz"
        >>> write_volume(Volume(np.arange(24).reshape(1, 2, 3, 4), Grid((2, 3, 4), np.eye(4))), path)
        >>> with open_volume(path) as image:
        ...     image.slices(2, 1, 3)[0, 0].tolist()
        [[1, 2], [5, 6], [9, 10]]
    """
    headers = read_headers(path)
    with ExitStack() as stack:
        files = []
        for header in headers:
            files.append(_open_file(header.path, scratch_folder))
            stack.callback(files[-1].close)
        stack.pop_all()
        return StoredVolume(files)


class _StoredFile:
    """One file of an image.

    Args:
        voxels: How they lie in the file.
        array: The same voxels, unpacked.
        scratch_folder: For copies in another order.
    """

    def __init__(self, voxels: StoredVoxels, array: DiskArray, scratch_folder: Folder) -> None:
        self.voxels = voxels
        self._array = array
        self._scratch_folder = scratch_folder
        self._turned: dict[int, DiskArray] = {}

    def slices(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Slices [start, stop) along a spatial axis, scaled; see ``StoredVolume``."""
        array = self._array
        first, last = [0] * 4, list(array.shape)
        if (start, stop) != (0, last[1 + axis]) and _is_scattered(array, 1 + axis):
            array = self._turned_to(1 + axis)
        first[1 + axis], last[1 + axis] = start, stop
        return self.voxels.scaled(array.read(first, last))

    def close(self) -> None:
        """Close the file and its copies."""
        for array in (self._array, *self._turned.values()):
            array.close()

    def _turned_to(self, axis: int) -> DiskArray:
        """A copy with ``axis`` slowest, made when it is first asked for."""
        if axis not in self._turned:
            source = self._array
            order = (axis, *(other for other in source.order if other != axis))
            native = source.dtype.newbyteorder("=")
            with ExitStack() as stack:
                turned = scratch_array(source.shape, order, native, self._scratch_folder)
                stack.callback(turned.close)
                for start, stop in source.blocks():
                    turned.write(start, source.read(start, stop))
                stack.pop_all()
            self._turned[axis] = turned
        return self._turned[axis]


def _is_scattered(array: DiskArray, axis: int) -> bool:
    """Whether a slice across ``axis`` lies in so many short pieces that reading it is reading the file."""
    pieces, piece_bytes = array.pieces(axis)
    return pieces > _FEW_PIECES and piece_bytes < _SHORT_PIECE_BYTES


def _open_file(path: Path, scratch_folder: Folder) -> _StoredFile:
    with format_of(path).opened(path) as (voxels, stream), ExitStack() as stack:
        shape = (voxels.header.channels, *voxels.header.grid.shape)
        if voxels.compressed:
            array = scratch_array(shape, voxels.order, voxels.dtype, scratch_folder)
            stack.callback(array.close)
            array.unpack(stream, path)
        else:
            file = cast(RawIOBase, voxels.path.open("rb", buffering=0))
            array = DiskArray(file, voxels.path, shape, voxels.order, voxels.dtype, voxels.offset)
        stack.pop_all()
        return _StoredFile(voxels, array, scratch_folder)
