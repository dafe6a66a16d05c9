"""Siemens mosaics: all slices of a volume as tiles of one stored plane.

DICOM's own elements describe the plane of tiles as if it were one slice, with the slice's centre in its
centre; how many tiles there are and which way they are stacked stands in Siemens' private header alone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from medseg.io.dicom.csa import CsaError, csa_texts
from medseg.io.dicom.elements import raw_bytes
from medseg.io.dicom.frames import Frame, Tile
from medseg.io.dicom.header_file import open_header
from medseg.io.dicom.stored_voxels import MOST_FRAMES

__all__ = ["MosaicError", "mosaic_frames"]

_CREATORS: Final = tuple(range(0x00290010, 0x00290018))
_CSA_CREATOR: Final = b"SIEMENS CSA HEADER"
_COUNT: Final = "NumberOfImagesInMosaic"
_NORMAL: Final = "SliceNormalVector"
_PARALLEL: Final = 0.999


class MosaicError(Exception):
    """A mosaic of which it is not known where its slices lie."""


def mosaic_frames(plane: Frame) -> list[Frame]:
    """A frame for each tile of a mosaic, in the order in which they are stored.

    Args:
        plane: What the header says of the whole plane.

    Raises:
        MosaicError: Siemens' private header is missing, or it contradicts the rest.
    """
    count, normal = _layout(plane.path)
    across = math.ceil(math.sqrt(count))
    if plane.rows % across or plane.columns % across:
        raise MosaicError(f"its {count} slices do not divide its rows and columns")
    rows, columns = plane.rows // across, plane.columns // across
    first, step = _first_slice(plane, normal, rows, columns)
    corners = first + np.arange(count)[:, None] * step
    return [
        replace(
            plane,
            tile=Tile((index // across) * rows, (index % across) * columns),
            rows=rows,
            columns=columns,
            position=(float(corner[0]), float(corner[1]), float(corner[2])),
        )
        for index, corner in enumerate(corners)
    ]


def _first_slice(
    plane: Frame, normal: npt.NDArray[np.float64], rows: int, columns: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Position of the first tile's first voxel, and the step to the next tile's, LPS millimetres."""
    if plane.position is None or plane.orientation is None or plane.spacing is None:
        raise MosaicError("its position, orientation or pixel spacing is missing")
    distance = plane.spacing_between or plane.thickness
    if not distance:
        raise MosaicError("the distance between its slices is missing")
    directions = np.asarray(plane.orientation).reshape(2, 3)
    if abs(np.cross(directions[0], directions[1]) @ normal) < _PARALLEL:
        raise MosaicError("its slice normal contradicts its orientation")
    between_rows, between_columns = plane.spacing
    corner = (
        np.asarray(plane.position)
        + directions[0] * between_columns * (plane.columns - columns) / 2
        + directions[1] * between_rows * (plane.rows - rows) / 2
    )
    return corner, normal * distance


def _layout(path: Path) -> tuple[int, npt.NDArray[np.float64]]:
    """How many slices a mosaic has, and the direction in which they are stacked."""
    values = _private_texts(path)
    try:
        count = int(values[_COUNT][0])
        normal = np.array([float(text) for text in values[_NORMAL][:3]])
    except (KeyError, IndexError, ValueError):
        raise MosaicError("Siemens' header does not say how many slices it has, and where they lie") from None
    if (
        not 1 <= count <= MOST_FRAMES
        or normal.shape != (3,)
        or not np.isfinite(normal).all()
        or abs(np.linalg.norm(normal) - 1) > 0.01
    ):
        raise MosaicError("Siemens' header contradicts itself")
    return count, normal / np.linalg.norm(normal)


def _private_texts(path: Path) -> dict[str, list[str]]:
    # A private block may lie anywhere; the file is opened again, since few files are mosaics.
    images = [0x00290000 | (creator & 0xFF) << 8 | 0x10 for creator in _CREATORS]
    header = open_header(path, [*_CREATORS, *images])
    if header is not None:
        for creator, image in zip(_CREATORS, images, strict=True):
            if raw_bytes(header.dataset, creator).rstrip(b" \0") == _CSA_CREATOR and image in header.dataset:
                try:
                    return csa_texts(raw_bytes(header.dataset, image), {_COUNT, _NORMAL})
                except CsaError as error:
                    raise MosaicError(str(error)) from None
    raise MosaicError(
        "Siemens' private header is missing, perhaps removed to hide names: where its slices lie is not known"
    )
