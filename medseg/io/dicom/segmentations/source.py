"""The images that a segmentation was made on: their grid, and label maps brought onto it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg.errors import GeometryError, InputError
from medseg.geometry import AxisMap, Grid
from medseg.io.dicom.segmentations.headers import (
    explain_damage,
    frame_groups,
    lattice_of,
    positions_of,
    read_object,
)
from medseg.io.dicom.segmentations.planes import Lattice, even_grid
from medseg.volume import Volume

__all__ = ["SourceImages", "read_source"]

# Attributes that every object has to carry, if only empty (PS3.3 C.7.1.1, C.7.2.1).
_TO_BE_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_ROUNDING = 1e-4
"""How far directions, and spacings as a part of themselves, may differ between the images of a series."""

_SAME_FOR_ALL = (
    "SOPClassUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
)


@dataclass(frozen=True)
class SourceImages:
    """Frames of one volume.

    Attributes:
        datasets: Headers without voxels, a file each: in the order of the planes, or one multi-frame object.
        planes: For each frame in the order of ``datasets``, its plane of the grid.
        grid: Shape (columns, rows, planes), planes ascending along the slice normal.
    """

    datasets: tuple[Dataset, ...]
    planes: npt.NDArray[np.int64]
    grid: Grid

    @property
    def first(self) -> Dataset:
        """The header that speaks for all."""
        return self.datasets[0]

    def aligned(self, volume: Volume, where: str) -> Volume:
        """The same voxels in the index order of the frames; nothing is copied or interpolated.

        Args:
            volume: On the grid of the frames, its axes in any order and direction.
            where: What the volume is called in an error.

        Raises:
            GeometryError: The volume is on another grid.
        """
        axes = _axes_onto(volume.grid, self.grid)
        mapped = None if axes is None else volume.mapped(axes)
        if mapped is None:
            difference: str | None = f"orientation {volume.grid.axcodes} instead of {self.grid.axcodes}"
        else:
            difference = self.grid.difference(mapped.grid)
        if mapped is None or difference is not None:
            raise GeometryError(
                f"is not on the grid of the source images: {difference}",
                where=where,
                fix="resample it onto the source series, or give the series that it was made on",
            )
        return mapped


def read_source(paths: Sequence[str | PathLike[str]]) -> SourceImages:
    """Read the headers of the images that a segmentation belongs to.

    Args:
        paths: The files of one volume, one frame each, in any order: planes are ordered by their positions.
            Or one multi-frame file.

    Raises:
        InputError: No file, a damaged one, or files of several series.
        GeometryError: The frames are not evenly stacked, or several lie in one place.
    """
    if not paths:
        raise InputError(
            "no source image is given", fix="give the DICOM files that the label map was made on"
        )
    datasets = [read_object(path, voxels=False) for path in paths]
    first, where = datasets[0], Path(paths[0]).parent if len(paths) > 1 else Path(paths[0])
    with explain_damage(where):
        _require_one_series(datasets, where)
        for dataset in datasets:
            for keyword in _TO_BE_COPIED:
                if keyword not in dataset:
                    setattr(dataset, keyword, "")
        lattices = [lattice_of(dataset, path) for dataset, path in zip(datasets, paths, strict=True)]
        positions = np.concatenate([positions_of(dataset, where) for dataset in datasets])
        if not all(_agree(lattice, lattices[0]) for lattice in lattices):
            raise GeometryError(
                "source images differ in orientation or spacing",
                where=where,
                fix="give the images of one volume",
            )
        for dataset in datasets:
            _share_geometry(dataset, first)
    grid, planes = even_grid(lattices[0], positions, where)
    if sorted(planes.tolist()) != list(range(grid.shape[2])):
        raise GeometryError(
            f"{len(planes)} source frames do not fill {grid.shape[2]} planes once each",
            where=where,
            fix="give every image of one volume, and no other",
        )
    if not frame_groups(first):
        order = np.argsort(planes)
        datasets, planes = [datasets[index] for index in order], planes[order]
    return SourceImages(tuple(datasets), planes, grid)


def _require_one_series(datasets: Sequence[Dataset], where: Path) -> None:
    if len(datasets) > 1 and any(frame_groups(dataset) for dataset in datasets):
        raise InputError(
            "several multi-frame source images are given",
            where=where,
            fix="give the one that holds the volume",
        )
    for keyword in _SAME_FOR_ALL:
        if len({dataset.get(keyword) for dataset in datasets}) > 1:
            raise InputError(
                f"source images differ in {keyword}", where=where, fix="give the images of one series"
            )
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        if any(not dataset.get(keyword) for dataset in datasets):
            raise InputError(f"a source image has no {keyword}", where=where, fix="export the series again")


def _agree(one: Lattice, other: Lattice) -> bool:
    """Whether orientations and spacings are the same but for their rounding."""
    return np.allclose(one.orientation, other.orientation, rtol=0.0, atol=_ROUNDING) and np.allclose(
        one.spacing_mm, other.spacing_mm, rtol=_ROUNDING
    )


def _share_geometry(dataset: Dataset, first: Dataset) -> None:
    """Say once for all frames how they lie, as highdicom expects it; that they agree has been checked."""
    frames = frame_groups(dataset)
    if not frames:
        dataset.ImageOrientationPatient = first.ImageOrientationPatient
        dataset.PixelSpacing = first.PixelSpacing
        return
    if not dataset.get("SharedFunctionalGroupsSequence"):
        dataset.SharedFunctionalGroupsSequence = [Dataset()]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared:
            setattr(shared, keyword, frames[0][keyword].value)


def _axes_onto(own: Grid, target: Grid) -> AxisMap | None:
    """How the axes of ``own`` have to be exchanged and flipped to run as those of ``target`` do."""
    turn = np.linalg.inv(own.affine)[:3, :3] @ target.affine[:3, :3]
    axes = np.abs(turn).argmax(axis=0)
    if len(set(axes.tolist())) != 3:
        return None
    flips = [bool(turn[axis, index] < 0.0) for index, axis in enumerate(axes)]
    return AxisMap(tuple(int(axis) for axis in axes), tuple(flips))  # type: ignore[arg-type]
