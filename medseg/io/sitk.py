"""NRRD and MetaImage, by SimpleITK: the only place where volumes meet LPS.

SimpleITK says what a header means, and writes files. The voxels are read here: ITK takes a corrupt
compressed MetaImage for a good one, and would hold each volume twice.

ITK's world has x to the left and y to the back (LPS); medseg's has x to the right and y to the front (RAS).
"""

from __future__ import annotations

import gzip
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid
from medseg.io.contract import StoredVoxels, VolumeHeader
from medseg.io.sizes import require_in_file
from medseg.io.text_header import TextHeader, parse_metaimage, parse_nrrd
from medseg.io.voxels import InflatedStream, VoxelStream, explain_damage, pieces_to_write
from medseg.volume import Slices

__all__ = [
    "DetachedMetaImageFormat",
    "DetachedNrrdFormat",
    "MetaImageFormat",
    "NrrdFormat",
    "itk_image",
    "ras_displacements",
    "to_lps",
    "to_ras",
]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PROBE_BYTES = 1 << 20
_DTYPES: dict[int, np.dtype[Any]] = {
    getattr(sitk, f"sitk{prefix}{name}"): np.dtype(name.lower())
    for prefix in ("", "Vector")
    for name in (
        *("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"),
        *("Float32", "Float64"),
    )
}


def itk_image(volume: Slices, dtype: npt.DTypeLike = np.float32) -> sitk.Image:
    """A volume as an image of ITK's, at the same place in the patient.

    Args:
        volume: Array (C, X, Y, Z) and grid.
        dtype: Of the image's voxels.

    Example:
        >>> from medseg.volume import Volume
        >>> grid = Grid((2, 3, 4), np.diag([2.0, 1.0, 1.0, 1.0]))
        >>> image = itk_image(Volume(np.zeros((1, 2, 3, 4)), grid))
        >>> image.GetSize(), image.TransformIndexToPhysicalPoint((1, 0, 0))
        ((2, 3, 4), (-2.0, 0.0, 0.0))
    """
    return _to_image(volume, np.dtype(dtype))


def to_ras(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A 4x4 matrix between points in LPS millimetres, as one between points in RAS millimetres."""
    return np.asarray(_LPS_TO_RAS @ matrix @ _LPS_TO_RAS)


to_lps = to_ras
"""The way back, which is the same: both axes are turned again."""


def ras_displacements(field: sitk.Image) -> npt.NDArray[np.float32]:
    """Vectors of ITK's displacement field as (3, X, Y, Z) in RAS millimetres."""
    vectors = sitk.GetArrayViewFromImage(field).transpose(3, 2, 1, 0)
    return np.ascontiguousarray(vectors * np.diag(_LPS_TO_RAS)[:3, None, None, None], dtype=np.float32)


class _ItkFormat(ABC):
    """What the formats have in common; each names its reader and the reader of its text header."""

    writes = True
    copies_to_write = 1
    _itk_name: ClassVar[str]

    @abstractmethod
    def _parse(self, path: Path) -> TextHeader: ...

    @abstractmethod
    def _unpack(self, file: IO[bytes]) -> VoxelStream: ...

    def read_header(self, path: Path) -> VolumeHeader:
        """Read the header; see ``VolumeFormat``."""
        with explain_damage(path):
            return self._read_stored(path).header

    @contextmanager
    def opened(self, path: Path) -> Iterator[tuple[StoredVoxels, VoxelStream]]:
        """Read the header and open the voxels; see ``VolumeFormat``."""
        with explain_damage(path):
            stored = self._read_stored(path)
            with stored.path.open("rb") as file:
                file.seek(stored.offset)
                yield stored, self._unpack(file) if stored.compressed else cast(VoxelStream, file)

    def write(self, volume: Slices, dtype: np.dtype[Any], path: Path) -> None:
        """Write a volume, compressed; see ``VolumeFormat``."""
        if not volume.grid.is_orthogonal:
            raise GeometryError(
                "programs that read this format expect axes at right angles, and this grid is sheared",
                where=path,
                fix="write .nii.gz, or resample onto an orthogonal grid",
            )
        image = _to_image(volume, dtype)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO(self._itk_name)
        writer.SetFileName(str(path))
        writer.SetUseCompression(True)
        try:
            writer.Execute(image)
        except RuntimeError as error:
            _ask_the_disk(path)
            raise InputError(
                f"could not be written ({_last_line(error)})", where=path, fix="write .nii.gz"
            ) from error

    def _read_stored(self, path: Path) -> StoredVoxels:
        text = self._parse(path)
        axes = len(text.sizes) - (text.channel_axis is not None)
        if axes != 3 and not (axes == 4 and text.channel_axis is None):
            raise InputError(
                f"is a {axes}D image ({'x'.join(map(str, text.sizes))}), 3D is needed "
                "(or 4D, channels in the fourth dimension)",
                where=path,
                fix="stack slices to a volume, or split it into volumes",
            )
        if not text.data_path.is_file():
            raise InputError(
                f"its voxels are in '{text.data_path.name}', which does not exist",
                where=path,
                fix="put that file beside it",
            )
        reader = sitk.ImageFileReader()
        reader.SetImageIO(self._itk_name)
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(
                f"its header is damaged ({_last_line(error)})", where=path, fix="export it again"
            ) from error
        header = _interpret(reader, text, path)
        require_in_file(
            header.nbytes,
            text.data_path.stat().st_size - text.data_offset,
            compressed=text.deflated,
            shape=text.sizes,
            where=text.data_path,
        )
        sizes = text.sizes if len(text.sizes) == 4 else (*text.sizes, 1)
        return StoredVoxels(
            header=header,
            path=text.data_path,
            offset=text.data_offset,
            sizes=(sizes[0], sizes[1], sizes[2], sizes[3]),
            channel_axis=3 if text.channel_axis is None else text.channel_axis,
            dtype=header.dtype.newbyteorder(">" if text.big_endian else "<"),
            compressed=text.deflated,
        )


class NrrdFormat(_ItkFormat):
    """Reads and writes ``.nrrd``."""

    _itk_name = "NrrdImageIO"

    def _parse(self, path: Path) -> TextHeader:
        return parse_nrrd(path)

    def _unpack(self, file: IO[bytes]) -> VoxelStream:
        return cast(VoxelStream, gzip.GzipFile(fileobj=file))


class MetaImageFormat(_ItkFormat):
    """Reads and writes ``.mha``."""

    _itk_name = "MetaImageIO"

    def _parse(self, path: Path) -> TextHeader:
        return parse_metaimage(path)

    def _unpack(self, file: IO[bytes]) -> VoxelStream:
        return InflatedStream(file)


class DetachedNrrdFormat(NrrdFormat):
    """Reads ``.nhdr``."""

    writes = False

    def write(self, volume: Slices, dtype: np.dtype[Any], path: Path) -> None:  # noqa: ARG002
        """Refuse: two files cannot be written at one stroke."""
        raise _two_files(path, ".nrrd")


class DetachedMetaImageFormat(MetaImageFormat):
    """Reads ``.mhd``."""

    writes = False

    def write(self, volume: Slices, dtype: np.dtype[Any], path: Path) -> None:  # noqa: ARG002
        """Refuse: two files cannot be written at one stroke."""
        raise _two_files(path, ".mha")


def _two_files(path: Path, instead: str) -> InputError:
    return InputError(
        "this format is two files, which cannot be written at one stroke", where=path, fix=f"write {instead}"
    )


def _interpret(reader: sitk.ImageFileReader, text: TextHeader, path: Path) -> VolumeHeader:
    """What ITK makes of the header, in RAS+ millimetres."""
    size, components = tuple(reader.GetSize()), int(reader.GetNumberOfComponents())
    expected = list(text.sizes)
    expected_components = 1 if text.channel_axis is None else expected.pop(text.channel_axis)
    if size != tuple(expected) or components != expected_components:
        raise InputError(
            f"its header contradicts itself (sizes {text.sizes}, read as {size} with {components} channels)",
            where=path,
            fix="export it again",
        )
    dtype = _DTYPES.get(reader.GetPixelID())
    if dtype is None:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise InputError(
            f"voxels are {kind}, real numbers are needed", where=path, fix="convert it to float32"
        )
    channels = size[3] if len(size) == 4 else components
    try:
        grid = Grid((size[0], size[1], size[2]), _ras_affine(reader, text.mm_per_unit))
    except GeometryError as error:
        error.where = str(path)
        raise
    return VolumeHeader(path, grid, channels, dtype)


def _ras_affine(reader: sitk.ImageFileReader, mm_per_unit: float) -> npt.NDArray[np.float64]:
    dimensions = reader.GetDimension()
    directions = np.array(reader.GetDirection(), dtype=np.float64).reshape(dimensions, dimensions)
    if directions[:3, 3:].any() or directions[3:, :3].any():
        raise GeometryError("space and the fourth axis are mixed", fix="repair the header")
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3] * np.array(reader.GetSpacing()[:3]) * mm_per_unit
    affine[:3, 3] = np.array(reader.GetOrigin()[:3]) * mm_per_unit
    return _LPS_TO_RAS @ affine


def _to_image(volume: Slices, dtype: np.dtype[Any]) -> sitk.Image:
    """An ITK image, filled slab by slab."""
    *plane, depth = shape = volume.grid.shape
    slice_bytes = volume.channels * plane[0] * plane[1] * dtype.itemsize
    voxel = _slab_image(np.zeros((volume.channels, 1, 1, 1)), dtype)
    image = sitk.Image(shape, voxel.GetPixelID(), voxel.GetNumberOfComponentsPerPixel())
    for start, stop in pieces_to_write(depth, slice_bytes):
        image[:, :, start:stop] = _slab_image(volume.slices(2, start, stop), dtype)
    affine = _LPS_TO_RAS @ volume.grid.affine  # the matrix is its own inverse
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(volume.grid.spacing_mm)
    image.SetDirection((affine[:3, :3] / np.asarray(volume.grid.spacing_mm)).ravel().tolist())
    return image


def _slab_image(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> sitk.Image:
    """SimpleITK wants (Z, Y, X) or (Z, Y, X, C)."""
    ordered = array[0].T if array.shape[0] == 1 else array.transpose(3, 2, 1, 0)
    return sitk.GetImageFromArray(np.ascontiguousarray(ordered, dtype=dtype), isVector=array.shape[0] > 1)


def _ask_the_disk(path: Path) -> None:
    """ITK does not say why it could not write. The operating system does, if one tries once more.

    Raises:
        OSError: The disk is full, or may not be written.
    """
    with path.open("ab") as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()
