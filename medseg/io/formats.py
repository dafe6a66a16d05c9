"""Reading and writing volumes; the format follows from the file's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from medseg.errors import GeometryError, InputError, did_you_mean
from medseg.files import atomic_path
from medseg.io.contract import VolumeFormat, VolumeHeader
from medseg.io.sizes import require_memory
from medseg.io.values import stored_dtype
from medseg.io.voxels import read_voxels
from medseg.registry import VOLUME_FORMATS
from medseg.volume import Slices, Volume

__all__ = [
    "SUFFIXES",
    "format_of",
    "read_header",
    "read_headers",
    "read_volume",
    "split_suffix",
    "write_slices",
    "write_unnamed",
    "write_volume",
]

SUFFIXES = VOLUME_FORMATS.names()
"""The suffixes of files that can be read, such as ``".nii.gz"``."""


def split_suffix(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Split a file's name into what names the case and what names the format.

    Args:
        path: A file; its folder is dropped. Upper case is understood.

    Returns:
        The stem, and the suffix in lower case.

    Raises:
        InputError: The suffix is that of no known format.

    Example:
        >>> split_suffix("folder/case.001.nii.gz")
        ('case.001', '.nii.gz')
    """
    name = Path(path).name
    matching = [suffix for suffix in VOLUME_FORMATS.names() if name.lower().endswith(suffix)]
    suffix = max(matching, key=len, default="")
    if not suffix or len(suffix) == len(name):
        given = "".join(Path(name).suffixes[-2:]).lower()
        what = f"suffix '{given}' is that of no known image format" if given else "has no suffix"
        raise InputError(what, where=path, fix=did_you_mean(given, VOLUME_FORMATS.names()))
    return name[: -len(suffix)], suffix


def read_header(path: str | os.PathLike[str]) -> VolumeHeader:
    """Read what a file says about its volume, but no voxel.

    Raises:
        InputError: The file does not exist, is damaged, or holds no 3D volume.
        GeometryError: Its geometry is missing, invalid or contradicts itself.
    """
    return format_of(path).read_header(Path(path))


def read_volume(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Volume:
    """Read a volume from one file, or its channels from several.

    Stored integers keep their type unless the file scales them; values may be NaN or infinite.

    Args:
        path: One file (3D, or 4D with channels in the fourth dimension), or one file per channel, all on the
            same grid.

    Returns:
        Array (C, X, Y, Z) whose index order follows the affine's columns, in RAS+ millimetres.

    Raises:
        InputError: A file does not exist, is damaged, or holds no 3D volume.
        GeometryError: A geometry is missing, invalid or contradicts itself, or the files' grids differ.
        ResourceError: The volume does not fit into memory.
    """
    paths = _paths_of(path)
    return _read_one(paths[0]) if len(paths) == 1 else _read_channels(read_headers(paths))


def write_volume(volume: Volume, path: str | os.PathLike[str], *, labels: bool = False) -> None:
    """Write a volume atomically, in the format that ``path`` names; channels become a fourth dimension.

    The header is read back before the file takes its name. Values are kept exactly: 64-bit integers, which
    many programs cannot read, take the smallest integer type that holds them, booleans uint8.

    Args:
        volume: Array (C, X, Y, Z) and grid.
        path: The file to write; its folder is created.
        labels: Whether this is a label map: integers only, in the smallest type that holds them.

    Raises:
        InputError: The suffix is unknown, or the voxels' type cannot be written.
        GeometryError: The format cannot hold the grid.
        ResourceError: The disk is full or not writable; nothing is left behind.
    """
    dtype = stored_dtype(volume.array, labels=labels, where=path)
    write_slices(volume, dtype, path)


def write_slices(volume: Slices, dtype: np.dtype[Any], path: str | os.PathLike[str]) -> None:
    """Write a volume that is read slab by slab, as ``dtype``; else as ``write_volume``.

    Args:
        volume: What to write; its values fit ``dtype``.
        dtype: The type in the file.
        path: The file to write; its folder is created.

    Raises:
        InputError: The suffix is unknown, or the format is only read.
        GeometryError: The format cannot hold the grid.
        ResourceError: The disk is full or not writable; nothing is left behind.
    """
    target = Path(path)
    with atomic_path(target) as temporary:
        write_unnamed(volume, dtype, temporary, target)


def write_unnamed(volume: Slices, dtype: np.dtype[Any], temporary: Path, target: Path) -> None:
    """Write a volume under a temporary name of ``atomic_path`` and read its header back.

    Args:
        volume: As ``write_slices``.
        dtype: As ``write_slices``.
        temporary: The file to write; it ends as ``target`` does.
        target: The name it will get, for errors.

    Raises:
        MedsegError: As ``write_slices``.
    """
    chosen = format_of(target)
    try:
        chosen.write(volume, dtype, temporary)
        written = chosen.read_header(temporary)
    except (InputError, GeometryError) as error:
        error.where = str(target)  # the user knows nothing of the temporary name
        raise
    _require_same(volume, dtype, written, target)


def format_of(path: str | os.PathLike[str]) -> VolumeFormat:
    """The format that a file's name stands for.

    Raises:
        InputError: The suffix is that of no known format, or ``path`` is a folder.
    """
    if Path(path).is_dir():
        raise InputError("is a folder, a file is needed", where=path, fix="name a file in it")
    return cast(VolumeFormat, VOLUME_FORMATS.resolve(split_suffix(path)[1])())


def read_headers(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[VolumeHeader]:
    """Read the headers of an image's files, which have to lie on one grid.

    Args:
        path: One file, or one file per channel.

    Raises:
        InputError: No file is given; otherwise as ``read_header``.
        GeometryError: The files' grids differ; otherwise as ``read_header``.
    """
    first, *others = headers = [read_header(one) for one in _paths_of(path)]
    for header in others:
        difference = first.grid.difference(header.grid)
        if difference is not None:
            raise GeometryError(
                f"lies on another grid than {first.path}: {difference}",
                where=header.path,
                fix="resample one onto the other's grid",
            )
    return headers


def _paths_of(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    paths = [path] if isinstance(path, str | os.PathLike) else path
    if not paths:
        raise InputError("no file is given", fix="give one file, or one per channel")
    return [Path(one) for one in paths]


def _require_same(volume: Slices, dtype: np.dtype[Any], written: VolumeHeader, target: Path) -> None:
    difference = volume.grid.difference(written.grid)
    if difference is not None:
        raise GeometryError(
            f"this format cannot hold the grid: read back, it has {difference}",
            where=target,
            fix="write another format, or resample onto an orthogonal grid near the origin",
        )
    if (written.channels, written.dtype) != (volume.channels, dtype):
        raise GeometryError(
            f"read back, it has {written.channels} channels of {written.dtype} instead of "
            f"{volume.channels} of {dtype}",
            where=target,
            fix="write another format",
        )


def _read_one(path: Path) -> Volume:
    with format_of(path).opened(path) as (stored, stream):
        scaled_bytes = 0 if stored.slope is None else stored.header.nbytes
        require_memory(stored.nbytes + scaled_bytes, path)
        flat = read_voxels(stream, stored.count, stored.dtype, compressed=stored.compressed, path=path)
    array = stored.scaled(flat).reshape(stored.sizes, order="F")
    return Volume(np.moveaxis(array, stored.channel_axis, 0), stored.header.grid)


def _read_channels(headers: Sequence[VolumeHeader]) -> Volume:
    grid = headers[0].grid
    dtype = np.result_type(*(header.dtype for header in headers))
    channels = sum(header.channels for header in headers)
    needed = channels * grid.voxel_count * dtype.itemsize
    require_memory(needed + max(header.nbytes for header in headers), headers[0].path)
    # Files store x fastest: in the same order, copying is one straight run.
    array = np.empty((channels, *grid.shape[::-1]), dtype).transpose(0, 3, 2, 1)
    start = 0
    for header in headers:
        array[start : start + header.channels] = _read_one(header.path).array
        start += header.channels
    return Volume(array, grid)
