"""NIfTI-1 and NIfTI-2 in one file, plain or gzipped.

nibabel reads and makes the headers; the voxels are streamed here, so that a truncated or corrupt file is
noticed, no array is held twice, and big-endian data are swapped in place.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np

from medseg.errors import InputError
from medseg.io.contract import StoredVoxels, VolumeHeader
from medseg.io.nifti_geometry import grid_of, set_grid
from medseg.io.sizes import require_in_file
from medseg.io.values import require_real, scaled_dtype
from medseg.io.voxels import VoxelStream, explain_damage, pieces_to_write, truncated
from medseg.volume import Slices

__all__ = ["NiftiFormat"]

_HEADER_TYPES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_GZIP_MAGIC = b"\x1f\x8b"
_EXTENSION_FLAG_BYTES = 4
_COMPRESSION_LEVEL = 1
_LARGEST_NIFTI1_SIZE = np.iinfo(np.int16).max


class NiftiFormat:
    """Reads and writes ``.nii`` and ``.nii.gz``."""

    writes = True
    copies_to_write = 0

    def read_header(self, path: Path) -> VolumeHeader:
        """Read the header; see ``VolumeFormat``."""
        with _unpacked(path) as stream:
            return _read_stored(stream, path).header

    @contextmanager
    def opened(self, path: Path) -> Iterator[tuple[StoredVoxels, VoxelStream]]:
        """Read the header and open the voxels; see ``VolumeFormat``."""
        with _unpacked(path) as stream:
            stored = _read_stored(stream, path)
            stream.seek(stored.offset)
            yield stored, cast(VoxelStream, stream)

    def write(self, volume: Slices, dtype: np.dtype[Any], path: Path) -> None:
        """Write a volume slab by slab; see ``VolumeFormat``."""
        header = _new_header(volume, dtype)
        with path.open("xb") as file:
            if not path.name.lower().endswith(".gz"):
                _write_stream(file, header, volume, dtype)
                return
            # Neither the name nor the time goes into the file: equal volumes make equal files.
            with gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, file, mtime=0) as stream:
                _write_stream(stream, header, volume, dtype)


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open for reading, unpacking if the name says so; damaged compression becomes an ``InputError``."""
    with explain_damage(path), path.open("rb") as file:
        magic = file.read(2)
        file.seek(0)
        if not magic:
            raise InputError("is empty", where=path, fix="copy or export it again")
        compressed = path.name.lower().endswith(".gz")
        if compressed != (magic == _GZIP_MAGIC):
            what, fix = ("is not", ".nii") if compressed else ("is", ".nii.gz")
            raise InputError(
                f"{what} compressed by gzip, against its name", where=path, fix=f"rename it to end in {fix}"
            )
        if not compressed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast(IO[bytes], stream)


def _read_stored(stream: IO[bytes], path: Path) -> StoredVoxels:
    header = _parse_header(stream, path)
    *space, channels = shape = _shape_of(header, path)
    stored_type = _dtype_of(header, path)
    offset = _offset_of(header, path)
    voxels = int(np.prod(shape, dtype=object))
    compressed = isinstance(stream, gzip.GzipFile)
    require_in_file(
        offset + voxels * stored_type.itemsize,
        path.stat().st_size,
        compressed=compressed,
        shape=shape if channels > 1 else space,
        where=path,
    )
    slope, intercept = _scaling_of(header, path)
    native = stored_type.newbyteorder("=")
    dtype = native if slope is None else scaled_dtype(native, slope, intercept)
    grid = grid_of(header, (shape[0], shape[1], shape[2]), path)
    return StoredVoxels(
        header=VolumeHeader(path, grid, channels, dtype),
        path=path,
        offset=offset,
        sizes=shape,
        channel_axis=3,
        dtype=stored_type,
        compressed=compressed,
        slope=slope,
        intercept=intercept,
    )


def _parse_header(stream: IO[bytes], path: Path) -> nib.Nifti1Header:
    size_field = stream.read(4)
    sizes = {int.from_bytes(size_field, "little"): "<", int.from_bytes(size_field, "big"): ">"}
    size = next((size for size in sizes if size in _HEADER_TYPES), None)
    if size is None:
        if len(size_field) < 4:
            raise truncated(path)
        raise InputError("is no NIfTI file", where=path, fix="check where it comes from, or its suffix")
    block = size_field + stream.read(size - 4)
    if len(block) < size:
        raise truncated(path)
    header = _HEADER_TYPES[size](block, endianness=sizes[size], check=False)
    magic = bytes(header["magic"])[:3].rstrip(b"\0")
    if magic in (b"ni1", b"ni2"):
        raise InputError(
            "is the header of a pair of files (.hdr and .img)", where=path, fix="convert the pair to one .nii"
        )
    if magic not in (b"n+1", b"n+2"):
        raise InputError(
            "is no NIfTI file (it may be Analyze 7.5, which does not tell left from right)",
            where=path,
            fix="convert it again from the source",
        )
    return header


def _shape_of(header: nib.Nifti1Header, path: Path) -> tuple[int, int, int, int]:
    """The shape (X, Y, Z, C); dimensions of size one at the end do not count."""
    dimensions = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1:8]]
    if not 1 <= dimensions <= 7 or min(sizes[:dimensions]) < 1:
        raise InputError(
            f"the header's dimensions {[dimensions, *sizes]} are not valid", where=path, fix="export it again"
        )
    sizes = sizes[:dimensions]
    while len(sizes) > 4 and sizes[-1] == 1:
        sizes.pop()
    shown = "x".join(map(str, sizes))
    if len(sizes) < 3:
        raise InputError(
            f"is a {len(sizes)}D image ({shown}), 3D is needed",
            where=path,
            fix="stack the slices to a volume, with their spacing and position",
        )
    if len(sizes) > 4:
        raise InputError(
            f"is a {len(sizes)}D image ({shown}), 3D is needed (or 4D, channels last)",
            where=path,
            fix="split it into volumes; a deformation field is no image",
        )
    channels = sizes[3] if len(sizes) == 4 else 1
    return sizes[0], sizes[1], sizes[2], channels


def _dtype_of(header: nib.Nifti1Header, path: Path) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except KeyError as error:
        raise InputError(
            f"datatype code {int(header['datatype'])} is unknown", where=path, fix="convert it to float32"
        ) from error
    require_real(dtype, path)
    return dtype


def _offset_of(header: nib.Nifti1Header, path: Path) -> int:
    offset = float(header["vox_offset"])
    smallest = int(header["sizeof_hdr"]) + _EXTENSION_FLAG_BYTES
    if not np.isfinite(offset) or offset < smallest or offset != int(offset):
        raise InputError(
            f"the voxels cannot start at byte {offset:g} (vox_offset), behind the header is {smallest}",
            where=path,
            fix="export it again",
        )
    return int(offset)


def _scaling_of(header: nib.Nifti1Header, path: Path) -> tuple[float | None, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0.0 or not np.isfinite(slope):
        return None, 0.0
    if not np.isfinite(intercept):
        raise InputError(
            f"values are scaled by {slope:g} but shifted by {intercept:g} (scl_inter)",
            where=path,
            fix="set scl_inter to the right value",
        )
    if (slope, intercept) == (1.0, 0.0):
        return None, 0.0
    return slope, intercept


def _new_header(volume: Slices, dtype: np.dtype[Any]) -> nib.Nifti1Header:
    """A header that says what must be said and nothing of patient, place or program."""
    grid = volume.grid
    shape = grid.shape if volume.channels == 1 else (*grid.shape, volume.channels)
    header = nib.Nifti1Header() if max(shape) <= _LARGEST_NIFTI1_SIZE else nib.Nifti2Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    set_grid(header, grid)
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = int(header["sizeof_hdr"]) + _EXTENSION_FLAG_BYTES
    return header


def _write_stream(stream: Any, header: nib.Nifti1Header, volume: Slices, dtype: np.dtype[Any]) -> None:
    stream.write(header.binaryblock + bytes(_EXTENSION_FLAG_BYTES))
    *plane, depth = volume.grid.shape
    for channel in range(volume.channels):
        for start, stop in pieces_to_write(depth, plane[0] * plane[1] * dtype.itemsize):
            chosen = volume.slices(2, start, stop)[channel]
            # Files have x fastest, hence the transpose; one slab at a time, hence no second volume.
            stream.write(np.ascontiguousarray(chosen.T, dtype=dtype).data.cast("B"))
