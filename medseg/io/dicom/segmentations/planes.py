"""From the planes of frames to a grid that their positions prove, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.geometry import SHEAR_TOLERANCE, FloatArray, Grid

__all__ = [
    "PLANE_TOLERANCE_MM",
    "Lattice",
    "declared_spacing_mm",
    "even_grid",
    "lps_from_ras",
    "nearest_planes",
    "plane_tolerance_mm",
]

PLANE_TOLERANCE_MM = 0.05
"""How far a frame may lie from its plane of the grid. Headers round positions; a twentieth of a millimetre
keeps every centroid within the tenth that is promised."""

_PLANE_TOLERANCE_PART = 0.1
"""The same as a part of the slice spacing, for grids finer than half a millimetre."""

_MOST_PLANES = 20_000
"""More than any scan has. A file whose positions ask for more is damaged."""

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Lattice:
    """What the frames of an object share. Lengths are millimetres, directions DICOM's own (LPS).

    Attributes:
        rows: Voxels along a column.
        columns: Voxels along a row.
        orientation: ImageOrientationPatient.
        spacing_mm: PixelSpacing: between rows, then between columns.
        slice_spacing_mm: What the header says of the distance between planes, if it does.
    """

    rows: int
    columns: int
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None


def lps_from_ras(positions_mm: npt.ArrayLike) -> FloatArray:
    """Positions (..., 3) from RAS+ to DICOM's LPS, or the other way round."""
    turned: FloatArray = np.asarray(positions_mm, dtype=np.float64) * np.array([-1.0, -1.0, 1.0])
    return turned


def plane_tolerance_mm(slice_spacing_mm: float) -> float:
    """How far off its plane a frame or contour may lie."""
    return min(PLANE_TOLERANCE_MM, _PLANE_TOLERANCE_PART * slice_spacing_mm)


def even_grid(
    lattice: Lattice, positions: FloatArray, where: str | PathLike[str]
) -> tuple[Grid, npt.NDArray[np.int64]]:
    """The grid on which frames lie, planes ascending along the slice normal.

    Planes between frames may be missing, and several frames may lie on one plane. Slices of a tilted gantry
    give a sheared grid.

    Args:
        lattice: What the frames share.
        positions: ImagePositionPatient of each frame, (N, 3), in LPS.
        where: The file, for the error.

    Returns:
        The grid, shape (columns, rows, planes), and the plane of each frame.

    Raises:
        GeometryError: The directions, spacings or positions make no even grid.
    """
    across, down = _directions(lattice, where)
    along = positions @ np.cross(across, down)
    order = np.argsort(along, kind="stable")
    plane, step_mm = _even_planes(along[order], lattice.slice_spacing_mm, where)
    planes = np.empty(len(plane), dtype=np.int64)
    planes[order] = plane
    first, last = positions[order[0]], positions[order[-1]]
    step = (last - first) / plane[-1] if plane[-1] else np.cross(across, down) * step_mm
    strays = np.linalg.norm(first + planes[:, None] * step - positions, axis=1)
    if strays.max() > plane_tolerance_mm(step_mm):
        raise GeometryError(
            f"frames do not lie on one even stack: one is {strays.max():.3g} mm beside its place",
            where=where,
            fix="export it again from the program that made it",
        )
    affine = np.eye(4)
    affine[:3, 0] = across * lattice.spacing_mm[1]
    affine[:3, 1] = down * lattice.spacing_mm[0]
    affine[:3, 2], affine[:3, 3] = step, first
    return Grid((lattice.columns, lattice.rows, int(plane[-1]) + 1), _RAS_FROM_LPS @ affine), planes


def nearest_planes(
    grid: Grid, lattice: Lattice, positions: FloatArray, where: str | PathLike[str]
) -> npt.NDArray[np.int64]:
    """The plane of ``grid``, shape (columns, rows, planes), on which each frame lies.

    Raises:
        GeometryError: A frame lies beside the grid, is turned against it, or has other voxels.
    """
    across, down = _directions(lattice, where)
    reach = [across * lattice.spacing_mm[1], down * lattice.spacing_mm[0]]
    sizes = (lattice.columns, lattice.rows)
    drift = [
        np.linalg.norm((lps_from_ras(grid.affine[:3, axis]) - vector) * (size - 1))
        for axis, (vector, size) in enumerate(zip(reach, sizes, strict=True))
    ]
    tolerance = plane_tolerance_mm(grid.spacing_mm[2])
    indices = grid.to_index(lps_from_ras(positions))
    planes = np.rint(indices[:, 2]).astype(np.int64)
    ideal = grid.to_world(np.stack([np.zeros_like(planes), np.zeros_like(planes), planes], axis=1))
    stray = np.linalg.norm(lps_from_ras(ideal) - positions, axis=1).max()
    within = planes.min() >= 0 and planes.max() < grid.shape[2]
    if sizes != grid.shape[:2] or max(drift) > tolerance or stray > tolerance or not within:
        raise GeometryError(
            "its frames do not lie on the grid of the source images",
            where=where,
            fix="give the series that it was drawn on, or read it on its own grid and resample",
        )
    return planes


def _directions(lattice: Lattice, where: str | PathLike[str]) -> tuple[FloatArray, FloatArray]:
    vectors = np.asarray(lattice.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(vectors, axis=1)
    spacing = np.asarray(lattice.spacing_mm)
    if not np.isfinite(spacing).all() or spacing.min() <= 0.0:
        raise GeometryError("its pixel spacing is not positive", where=where, fix="repair the header")
    if not np.isfinite(vectors).all() or np.abs(lengths - 1.0).max() > SHEAR_TOLERANCE:
        raise GeometryError("its directions are no unit vectors", where=where, fix="repair the header")
    across, down = vectors / lengths[:, None]
    if abs(across @ down) > SHEAR_TOLERANCE:
        raise GeometryError(
            "its rows and columns are not at right angles", where=where, fix="repair the header"
        )
    return across, down


def _even_planes(
    along: FloatArray, declared_mm: float | None, where: str | PathLike[str]
) -> tuple[npt.NDArray[np.int64], float]:
    """The plane number of each position (ascending), and the spacing that all of them fit."""
    if not np.isfinite(along).all():
        raise GeometryError("a frame's position is not finite", where=where, fix="repair the header")
    gaps = np.diff(along)
    real = gaps > PLANE_TOLERANCE_MM * _PLANE_TOLERANCE_PART
    usable = declared_mm is not None and np.isfinite(declared_mm) and declared_mm > 0.0
    if not real.any():
        if not usable:
            raise GeometryError(
                "it has one plane and says nothing of its thickness",
                where=where,
                fix="give the images it was drawn on",
            )
        return np.zeros(len(along), dtype=np.int64), float(declared_mm or 0.0)
    for step in ([float(declared_mm or 0.0)] if usable else []) + [float(gaps[real].min())]:
        if (along[-1] - along[0]) / step > _MOST_PLANES:
            continue
        counts = np.where(real, np.rint(gaps / step), 0)
        plane = np.concatenate([[0], np.cumsum(counts)])
        even_mm = float((along[-1] - along[0]) / max(plane[-1], 1.0))
        fits = np.abs(along - along[0] - plane * even_mm).max() <= plane_tolerance_mm(even_mm)
        if fits and (counts[real] >= 1).all():
            return plane.astype(np.int64), even_mm
    raise GeometryError(
        f"its planes are not evenly spaced (gaps of {gaps[real].min():.4g} to {gaps[real].max():.4g} mm)",
        where=where,
        fix="give the images it was drawn on, or export it again",
    )


def declared_spacing_mm(values: Sequence[object]) -> float | None:
    """The first of ``SpacingBetweenSlices`` and ``SliceThickness`` that is a positive length."""
    for value in values:
        try:
            length = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if np.isfinite(length) and length > 0.0:
            return length
    return None
