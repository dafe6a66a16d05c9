"""What every volume format promises: the same axes, the same frame, the same errors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.geometry import Grid
from medseg.io.voxels import VoxelStream
from medseg.volume import Slices

__all__ = ["StoredVoxels", "VolumeFormat", "VolumeHeader"]


@dataclass(frozen=True)
class VolumeHeader:
    """What a file says about its volume; no voxel is read.

    Attributes:
        path: The file.
        grid: Shape (X, Y, Z) and affine (voxel index to RAS+ millimetres).
        channels: Number of channels.
        dtype: The type of the array that ``read_volume`` returns, in native byte order; where the file
            scales its stored integers, the floating-point type of the scaled values.
    """

    path: Path
    grid: Grid
    channels: int
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Memory that the array will take, in bytes."""
        return self.channels * self.grid.voxel_count * self.dtype.itemsize


@dataclass(frozen=True)
class StoredVoxels:
    """How a volume's voxels lie in a file.

    Attributes:
        header: What users see.
        path: The file that holds them.
        offset: Where they start in it, in bytes, unless they are compressed.
        sizes: Length of each of the four axes, fastest first.
        channel_axis: Which of them is that of the channels; the others are X, Y and Z.
        dtype: In the file's byte order.
        compressed: Whether they have to be unpacked, and a checksum stands behind them.
        slope: Factor on stored values, or ``None`` if they are not scaled.
        intercept: Added after that.
    """

    header: VolumeHeader
    path: Path
    offset: int
    sizes: tuple[int, int, int, int]
    channel_axis: int
    dtype: np.dtype[Any]
    compressed: bool
    slope: float | None = None
    intercept: float = 0.0

    @property
    def count(self) -> int:
        """Number of values."""
        return self.header.channels * self.header.grid.voxel_count

    @property
    def nbytes(self) -> int:
        """Size of all voxels, unpacked."""
        return self.count * self.dtype.itemsize

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of (C, X, Y, Z) as they lie in the file, slowest first."""
        fastest_first = [1, 2, 3]
        fastest_first.insert(self.channel_axis, 0)
        return tuple(reversed(fastest_first))

    def scaled(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What stored values, of native byte order, mean; the same array where they are not scaled."""
        if self.slope is None:
            return values
        values = values.astype(self.header.dtype)
        values *= values.dtype.type(self.slope)
        values += values.dtype.type(self.intercept)
        return values


class VolumeFormat(Protocol):
    """A file format for volumes. Index order follows the affine's columns; affines are RAS+ millimetres.

    Implementations are registered by file name suffix in ``medseg.registry.VOLUME_FORMATS``.
    """

    writes: bool
    """Whether ``write`` works; a format that is only read says what to write instead in ``write``."""

    copies_to_write: int
    """How many whole volumes ``write`` holds in memory; 0 where it goes slab by slab."""

    def read_header(self, path: Path) -> VolumeHeader:
        """Read the header alone.

        Raises:
            InputError: The file is damaged, truncated, or of a kind that cannot be a volume.
            GeometryError: The geometry is missing, invalid or contradicts itself.
        """
        ...

    def opened(self, path: Path) -> AbstractContextManager[tuple[StoredVoxels, VoxelStream]]:
        """Read the header, and open the voxels: a stream at the first one, unpacked as it is read.

        While it is open, errors of reading and unpacking become medseg's.

        Raises:
            InputError: As ``read_header``; also if the file cannot hold what its header announces.
            GeometryError: As ``read_header``.
        """
        ...

    def write(self, volume: Slices, dtype: np.dtype[Any], path: Path) -> None:
        """Write a volume as ``dtype`` to ``path``, which does not exist yet.

        Raises:
            InputError: The format cannot be written.
            GeometryError: The format cannot hold the grid.
            OSError: The disk is full, or not writable.
        """
        ...
