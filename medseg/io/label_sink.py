"""Label maps that are written as their slabs come, and whole or not at all."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid
from medseg.io.formats import format_of, write_slices
from medseg.io.spool import DiskArray, scratch_array
from medseg.labels import smallest_integer_dtype
from medseg.volume import Volume

__all__ = ["LabelSink"]

_COUNTED_AT_A_TIME = 1 << 20
_WIDEST_TABLE = 1 << 16


class LabelSink:
    """Takes a label map slab by slab, or box by box, and writes it when all of it is there.

    Labels wait in a temporary file without a name. When the ``with`` block is left without an error, the file
    is written, byte by byte as ``write_volume`` with ``labels=True`` would write the whole map, and takes its
    name when it is complete; otherwise nothing is left.

    Args:
        path: The file to write.
        grid: Of the whole map.
        dtype: Type of the labels that come; the file takes the smallest type that holds those that did.
        scratch_folder: Where temporary files take their space; by default the system's folder, ``TMPDIR``.

    Raises:
        InputError: ``dtype`` is no integer type, or the suffix is unknown or that of a format only read.
        GeometryError: The format cannot hold the grid.

    Example:
        >>> from medseg.io import read_volume
        >>> path = Path(tempfile.mkdtemp()) / "labels.nii.gz"
        >>> with LabelSink(path, Grid((2, 2, 3), np.eye(4)), np.dtype(np.uint8)) as sink:
        ...     sink.write(2, 1, np.full((2, 2, 2), 7, np.uint8))
        ...     sink.write(2, 0, np.zeros((2, 2, 1), np.uint8))
        >>> dict(sink.counts), read_volume(path).array[0, 0, 0].tolist()
        ({0: 4, 7: 8}, [0, 7, 7])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        grid: Grid,
        dtype: npt.DTypeLike,
        *,
        scratch_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.grid = grid
        self.dtype = np.dtype(dtype).newbyteorder("=")
        if self.dtype.kind not in "iu":
            raise InputError(
                f"a label map of type {self.dtype.name} cannot be written, integers are needed", where=path
            )
        self._copies = format_of(self.path).copies_to_write
        _try_to_write(grid, self.path)
        self._scratch_folder = scratch_folder
        self._labels: DiskArray | None = None
        self._written = _Boxes(grid.shape)
        self._counts: Counter[int] = Counter()

    @property
    def counts(self) -> Mapping[int, int]:
        """Voxels of each label that has come so far, by ascending label."""
        return dict(sorted(self._counts.items()))

    @property
    def resident_bytes(self) -> int:
        """Memory that writing the file takes in the end, beyond a few slabs."""
        return self._copies * self.grid.voxel_count * self.dtype.itemsize

    def write(
        self, axis: int, start: int, labels: npt.NDArray[Any], corner: tuple[int, int] = (0, 0)
    ) -> None:
        """Take slices from ``start`` on along ``axis``, or a tile of them; in any order, each voxel once.

        Args:
            axis: The spatial axis along which slabs come.
            start: The first slice.
            labels: Shape (X, Y, Z): that axis has as many slices as are written.
            corner: Where a tile begins along the two other axes, in their order.

        Raises:
            GeometryError: They reach beyond the grid, or on voxels that were written before.
            InputError: Their type does not fit the map's.
            ResourceError: The disk is full.
        """
        if labels.ndim != 3:
            raise GeometryError(f"labels have {labels.ndim} dimensions, (X, Y, Z) is needed", where=self.path)
        if not np.can_cast(labels.dtype, self.dtype, "safe"):
            raise InputError(
                f"labels are {labels.dtype.name}, announced as {self.dtype.name}", where=self.path
            )
        first = list(corner)
        first.insert(axis, start)
        self._written.add(first, labels.shape, self.path)
        self._scratch(axis).write((0, *first), labels[np.newaxis])
        _count(labels, self._counts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            if self._labels is not None:
                self._labels.close()

    def _scratch(self, axis: int) -> DiskArray:
        """The temporary array, made with the axis slowest along which the first slab comes."""
        if self._labels is None:
            order = (1 + axis, *(other for other in (0, 3, 2, 1) if other != 1 + axis))
            self._labels = scratch_array((1, *self.grid.shape), order, self.dtype, self._scratch_folder)
        return self._labels

    def _finish(self) -> None:
        missing = self.grid.voxel_count - self._written.voxels
        if self._labels is None or missing:
            raise GeometryError(
                f"labels of {missing} voxels never came, so it is not written", where=self.path
            )
        stored = smallest_integer_dtype(list(self._counts))
        write_slices(_Spooled(self.grid, self._labels), stored, self.path)


@dataclass(frozen=True)
class _Spooled:
    """The labels on the disk, as ``medseg.volume.Slices``."""

    grid: Grid
    labels: DiskArray
    name: str = "the label map"
    channels: int = 1
    resident_bytes: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.labels.dtype

    def slices(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        first, last = [0] * 4, list(self.labels.shape)
        first[1 + axis], last[1 + axis] = start, stop
        return self.labels.read(first, last)


class _Boxes:
    """Which voxels have come: boxes within a grid that do not overlap."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.voxels = 0
        self._shape = shape
        self._starts = np.empty((0, 3), np.int64)
        self._stops = np.empty((0, 3), np.int64)

    def add(self, start: list[int], lengths: tuple[int, ...], where: Path) -> None:
        stop = np.add(start, lengths)
        if min(start) < 0 or (stop > self._shape).any():
            raise GeometryError(
                f"labels at {tuple(start)} to {tuple(stop.tolist())} lie outside the grid {self._shape}",
                where=where,
            )
        if ((self._starts < stop) & (self._stops > start)).all(axis=1).any():
            raise GeometryError(f"labels at {tuple(start)} came a second time", where=where)
        self._starts = np.vstack([self._starts, start])
        self._stops = np.vstack([self._stops, stop])
        self.voxels += math.prod(lengths)


def _count(labels: npt.NDArray[Any], counts: Counter[int]) -> None:
    flat = labels.ravel(order="K")  # in memory's order, so that nothing is copied
    for start in range(0, flat.size, _COUNTED_AT_A_TIME):
        part = flat[start : start + _COUNTED_AT_A_TIME]
        low, high = int(part.min()), int(part.max())
        if high - low < _WIDEST_TABLE:
            found = np.bincount(part.astype(np.int64) - low)
            present = np.flatnonzero(found)
            values, numbers = present + low, found[present]
        else:
            values, numbers = np.unique(part, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            counts[value] += number


def _try_to_write(grid: Grid, path: Path) -> None:
    """Write a single voxel, so that a format that cannot hold the grid is refused before work starts."""
    voxel = Volume(np.zeros((1, 1, 1, 1), np.uint8), Grid((1, 1, 1), grid.affine))
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_slices(voxel, voxel.dtype, Path(folder) / path.name)
        except (InputError, GeometryError) as error:
            error.where = str(path)
            raise
