"""DICOM SEG in: label maps on a grid that the frames' positions prove (PS3.3 A.51, C.8.20)."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid
from medseg.io.dicom.segmentations.headers import explain_damage
from medseg.io.dicom.segmentations.layers import LayerBuilder, Segmentation
from medseg.io.dicom.segmentations.planes import even_grid, nearest_planes
from medseg.io.dicom.segmentations.segments import StoredSegments, open_segments
from medseg.io.dicom.segmentations.source import Source, read_source
from medseg.io.sizes import require_memory
from medseg.labels import LabelScheme
from medseg.volume import Volume

__all__ = ["read_fractions", "read_segmentation"]


def read_segmentation(path: str | PathLike[str], source: Source | None = None) -> Segmentation:
    """Read a binary, fractional or label map segmentation.

    Frames are placed by their positions. Planes without a frame are empty. Segments that overlap go into
    several label maps: none overwrites another. The value of a segment is its segment number. A voxel of a
    fractional segmentation belongs to a segment if its fraction is at least one half; ``read_fractions``
    gives the fractions.

    Args:
        path: The file.
        source: The images that it was made on: a volume of a scan, or the files of one. The label maps are
            then on the grid of those images, shape (columns, rows, slices), slices ascending along their
            normal; where the gantry was tilted it is sheared. Without it they are on the even grid that the
            frames themselves prove, from the first to the last plane that has one.

    Raises:
        InputError: No segmentation, a tiled one, a damaged or lying one.
        GeometryError: The frames are not evenly stacked, or not on the grid of ``source``.
        ResourceError: A label map does not fit into memory.

    Example:
        >>> read_segmentation("liver.dcm").mask(1).sum()  # doctest: +SKIP
        107098
    """
    stored = open_segments(path)
    grid, planes = _placed(stored, source)
    builder = LayerBuilder(grid, stored.scheme.values, path)
    if stored.kind == "LABELMAP":
        _fill_label_map(builder, stored, planes)
    else:
        _add_segments(builder, stored, planes)
    return Segmentation(stored.scheme, builder.volumes(), builder.layer_of)


def read_fractions(path: str | PathLike[str], source: Source | None = None) -> tuple[Volume, LabelScheme]:
    """Read a fractional segmentation as it is stored: probability or occupancy in 0..1.

    Args:
        path: The file.
        source: As for ``read_segmentation``.

    Returns:
        Shape (segments, X, Y, Z), float32, segments in the order of the scheme's foreground; and the scheme.

    Raises:
        InputError: As ``read_segmentation``; also if the segmentation is not fractional.
        GeometryError: As ``read_segmentation``.
        ResourceError: The fractions of all segments do not fit into memory.
    """
    stored = open_segments(path)
    if stored.kind != "FRACTIONAL":
        raise InputError("holds no fractions", where=path, fix="read it as a label map")
    grid, planes = _placed(stored, source)
    channels = {value: channel for channel, value in enumerate(stored.scheme.values[1:])}
    require_memory(len(channels) * grid.voxel_count * 4, path)
    fractions = np.zeros((len(channels), *grid.shape[::-1]), dtype=np.float32)
    for index, (segment, plane) in enumerate(zip(stored.segment_of, planes, strict=True)):
        place = fractions[channels[int(segment)], plane]
        np.maximum(place, stored.frame(index) / np.float32(stored.largest), out=place)
    return Volume(fractions.transpose(0, 3, 2, 1), grid), stored.scheme


def _placed(stored: StoredSegments, source: Source | None) -> tuple[Grid, npt.NDArray[np.int64]]:
    if source is None:
        return even_grid(stored.lattice, stored.positions, stored.path)
    images = read_source(source)
    with explain_damage(stored.path):
        reference = stored.dataset.get("FrameOfReferenceUID")
    if reference not in (None, "", images.first.FrameOfReferenceUID):
        raise GeometryError(
            "lies in another frame of reference than the source images",
            where=stored.path,
            fix="give the series that it was made on",
        )
    return images.grid, nearest_planes(images.grid, stored.lattice, stored.positions, stored.path)


def _add_segments(builder: LayerBuilder, stored: StoredSegments, planes: npt.NDArray[np.int64]) -> None:
    for value in stored.scheme.values[1:]:
        frames = np.flatnonzero(stored.segment_of == value).tolist()

        def mask_of(index: int, frames: list[int] = frames) -> npt.NDArray[np.bool_]:
            values = stored.frame(frames[index])
            if stored.kind == "BINARY":
                return np.asarray(values != 0)
            return np.asarray(2 * values.astype(np.int32) >= stored.largest)

        builder.add(value, planes[frames].tolist(), mask_of)


def _fill_label_map(builder: LayerBuilder, stored: StoredSegments, planes: npt.NDArray[np.int64]) -> None:
    layer = builder.first
    known = np.zeros(1 << 16, dtype=bool)
    known[[*stored.scheme.values[1:], *stored.background]] = True
    for index, plane in enumerate(planes):
        values = _without_background(stored.frame(index), stored.background)
        if not known[values].all():
            raise InputError(
                "a voxel holds the number of a segment that is not described", where=stored.path,
                fix="export it again",
            )  # fmt: skip
        if (layer[plane][values != 0] != 0).any():
            raise InputError("two frames hold the same voxels", where=stored.path, fix="export it again")
        np.copyto(layer[plane], values, where=values != 0, casting="unsafe")
    builder.layer_of.update(dict.fromkeys(stored.scheme.values[1:], 0))


def _without_background(values: npt.NDArray[Any], background: frozenset[int]) -> npt.NDArray[Any]:
    others = [value for value in background if value != 0]
    return np.where(np.isin(values, others), 0, values) if others else values
