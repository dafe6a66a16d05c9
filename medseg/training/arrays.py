"""Arrays on disk in compressed blocks: who reads a box decompresses the blocks that it touches, no others.

The format is Blosc2's contiguous frame (``.b2nd``), compressed with Zstandard at its lowest level. Reading maps
the file into memory, in the calling thread alone: parallel readers are processes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from medseg.errors import InputError, explain_os_errors

__all__ = ["SUFFIX", "StoredArray", "write_array"]

SUFFIX = ".b2nd"
"""Of the files' names."""

_BLOCK_VOXELS = 1 << 16
"""A block of single precision then fits a core's second cache; small volumes are one block."""

_BLOCKS_A_CHUNK = 4
"""Along each axis; how blocks are bundled matters little to reading."""

_THREADS = {"nthreads": 1}


class StoredArray:
    """An array that ``write_array`` wrote, read box by box.

    The file is opened for each reading, which takes a quarter of a millisecond: of thousands of cases that were
    kept open, each would take a file descriptor.

    Args:
        path: The file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / f"array{SUFFIX}"
        >>> _ = write_array(np.arange(24).reshape(2, 3, 4), path, box=(3, 4))
        >>> StoredArray(path)[1:, :2, 3]
        array([[15, 19]])
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""
        return tuple(self._open().shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(self._open().dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, box: Any) -> npt.NDArray[Any]:
        """What numpy's basic indexing gives, as a new array.

        Raises:
            InputError: The file is gone or damaged.
        """
        stored = self._open()
        try:
            return np.asarray(stored[box])
        except RuntimeError as error:
            raise self._damaged() from error

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("an array on disk cannot be had without a copy")
        return self[...].astype(dtype or self.dtype, copy=False)

    def _open(self) -> blosc2.NDArray:
        with explain_os_errors(self.path):
            try:
                return blosc2.open(str(self.path), mode="r", mmap_mode="r", dparams=_THREADS)
            except RuntimeError as error:
                raise self._damaged() from error

    def _damaged(self) -> InputError:
        return InputError("is damaged", where=self.path, fix="repeat the command, which makes it anew")


def write_array(array: npt.NDArray[Any], path: Path, box: Sequence[int]) -> str:
    """Write an array in blocks that suit the boxes it will be read by.

    The compressed array is made in memory and written by one call, so that a full disk has its usual error.

    Args:
        array: Of any shape.
        path: Where to; not atomic.
        box: What will be read at a time, along the last axes.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        OSError: It cannot be written.
    """
    blocks = _blocks(array.shape, box)
    shuffle = blosc2.Filter.SHUFFLE if array.dtype.itemsize > 1 else blosc2.Filter.NOFILTER
    frame: bytes = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=tuple(
            min(_BLOCKS_A_CHUNK * block, size) for block, size in zip(blocks, array.shape, strict=True)
        ),
        blocks=blocks,
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [shuffle], **_THREADS},
        contiguous=True,
    ).to_cframe()
    with path.open("wb") as handle:
        handle.write(frame)
    return hashlib.sha256(frame).hexdigest()


def _blocks(shape: Sequence[int], box: Sequence[int]) -> tuple[int, ...]:
    """The box, halved along its longest side until it is small enough; one layer along leading axes."""
    leading = len(shape) - len(box)
    sides = [min(side, size) for side, size in zip(box, shape[leading:], strict=True)]
    while math.prod(sides) > _BLOCK_VOXELS:
        longest = sides.index(max(sides))
        sides[longest] = -(-sides[longest] // 2)
    return tuple(min(side, size) for side, size in zip((*(1,) * leading, *sides), shape, strict=True))
