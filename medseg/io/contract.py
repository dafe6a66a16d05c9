"""What every volume format promises: the same axes, the same frame, the same errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.geometry import Grid
from medseg.volume import Volume

__all__ = ["VolumeFormat", "VolumeHeader"]


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


class VolumeFormat(Protocol):
    """A file format for volumes. Index order follows the affine's columns; affines are RAS+ millimetres.

    Implementations are registered by file name suffix in ``medseg.registry.VOLUME_FORMATS``.
    """

    writes: bool
    """Whether ``write`` works; a format that is only read says what to write instead in ``write``."""

    def read_header(self, path: Path) -> VolumeHeader:
        """Read the header alone.

        Raises:
            InputError: The file is damaged, truncated, or of a kind that cannot be a volume.
            GeometryError: The geometry is missing, invalid or contradicts itself.
        """
        ...

    def read(self, path: Path) -> Volume:
        """Read header and voxels; sizes are checked before memory is taken.

        Raises:
            InputError: As ``read_header``.
            GeometryError: As ``read_header``.
            ResourceError: The volume does not fit into memory.
        """
        ...

    def write(self, array: npt.NDArray[Any], dtype: np.dtype[Any], grid: Grid, path: Path) -> None:
        """Write (C, X, Y, Z) as ``dtype`` to ``path``, which does not exist yet.

        Raises:
            InputError: The format cannot be written.
            GeometryError: The format cannot hold the grid.
            OSError: The disk is full, or not writable.
        """
        ...
