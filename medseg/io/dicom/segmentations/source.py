"""The images that a segmentation was made on: their grid, and label maps brought onto it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from medseg.io.dicom.segmentations.nearest import nearest_on
from medseg.io.dicom.segmentations.planes import Lattice, even_grid
from medseg.io.dicom.verdict import DicomVolume, Reason, Status
from medseg.io.dicom.volumes import require_accepted
from medseg.volume import Volume

__all__ = ["RESAMPLED_NOTE", "Source", "SourceImages", "read_source"]

Source = DicomVolume | Sequence[str | PathLike[str]]
"""The images of an object: a volume of a scan; or the files of one volume, in any order."""

RESAMPLED_NOTE = "the gantry was tilted: labels were brought onto the stored slices by nearest neighbour"

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
        grid: Shape (columns, rows, planes), planes ascending along the slice normal; sheared where the gantry
            was tilted.
        frame_numbers: For each frame of a multi-frame object its number there, from 1; empty for others.
        resampled: The orthogonal grid onto which the slices of a tilted gantry are resampled for reading;
            ``None`` where they are read as they are.
    """

    datasets: tuple[Dataset, ...]
    planes: npt.NDArray[np.int64]
    grid: Grid
    frame_numbers: tuple[int, ...] = ()
    resampled: Grid | None = None

    @property
    def first(self) -> Dataset:
        """The header that speaks for all."""
        return self.datasets[0]

    def aligned(self, volume: Volume, where: str) -> Volume:
        """The same voxels in the index order of the frames; nothing is copied or interpolated.

        Of a tilted gantry, a volume on the grid of the resampled image is brought onto the stored slices by
        nearest neighbour.

        Args:
            volume: On the grid of the frames, its axes in any order and direction.
            where: What the volume is called in an error.

        Raises:
            GeometryError: The volume is on another grid.
        """
        mapped, difference = _mapped_onto(volume, self.grid)
        if difference is not None and self.resampled is not None:
            upright, other = _mapped_onto(volume, self.resampled)
            if other is None:
                return nearest_on(upright, self.grid)
        if difference is not None:
            raise GeometryError(
                f"is not on the grid of the source images: {difference}",
                where=where,
                fix="resample it onto the source series, or give the series that it was made on",
            )
        return mapped


def read_source(source: Source) -> SourceImages:
    """Read the headers of the images that a segmentation belongs to.

    Args:
        source: A volume of a scan. Or the files of one volume, one frame each, in any order: planes are
            ordered by their positions. Or one multi-frame file.

    Raises:
        InputError: No file, a damaged one, or files of several series.
        GeometryError: The frames are not evenly stacked, or several lie in one place; the volume is refused,
            slices of it were interpolated, or its slices share an image.
    """
    if not isinstance(source, DicomVolume):
        return _read_files(source)
    _require_stored_slices(source)
    numbers: dict[Path, list[int]] = {}
    for frame in source.frames:
        numbers.setdefault(frame.path, []).append(frame.number)
    images = _read_files(list(numbers), numbers)
    tilted = any(found.reason is Reason.GANTRY_TILT for found in source.verdict.findings)
    return replace(images, resampled=source.grid) if tilted else images


def _require_stored_slices(volume: DicomVolume) -> None:
    """Check that an image can be referred to for each slice of a volume."""
    require_accepted(volume)
    repaired = {found.reason for found in volume.verdict.findings if found.status is Status.REPAIRED}
    if repaired & {Reason.UNEVEN_SPACING, Reason.MISSING_SLICES}:
        what = "some of its slices were interpolated, and lie on no image"
    elif any(frame.tile is not None for frame in volume.frames):
        what = "its slices share one image (a mosaic), of which none can be named"
    else:
        return
    raise GeometryError(what, where=volume.frames[0].path.parent, fix="write the labels as NIfTI")


def _read_files(
    paths: Sequence[str | PathLike[str]], numbers: Mapping[Path, Sequence[int]] | None = None
) -> SourceImages:
    """As ``read_source``; of multi-frame files, only the frames that are asked for, numbered from 0."""
    if not paths:
        raise InputError(
            "no source image is given", fix="give the DICOM files that the label map was made on"
        )
    datasets = [read_object(path, voxels=False) for path in paths]
    chosen: tuple[int, ...] = ()
    first, where = datasets[0], Path(paths[0]).parent if len(paths) > 1 else Path(paths[0])
    with explain_damage(where):
        _require_one_series(datasets, where)
        if frame_groups(first):
            wanted = range(len(frame_groups(first))) if numbers is None else numbers[Path(paths[0])]
            chosen = _keep_frames(first, sorted(wanted))
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
    return SourceImages(tuple(datasets), planes, grid, chosen)


def _keep_frames(dataset: Dataset, wanted: Sequence[int]) -> tuple[int, ...]:
    """Leave the frames of other volumes out of a multi-frame object; gives the others' numbers, from 1."""
    groups = frame_groups(dataset)
    if len(wanted) < len(groups):
        dataset.PerFrameFunctionalGroupsSequence = [groups[number] for number in wanted]
        dataset.NumberOfFrames = len(wanted)
    return tuple(number + 1 for number in wanted)


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


def _mapped_onto(volume: Volume, grid: Grid) -> tuple[Volume, str | None]:
    """A volume with its axes as a grid has them, and how its grid differs from that one all the same."""
    axes = _axes_onto(volume.grid, grid)
    if axes is None:
        return volume, f"orientation {volume.grid.axcodes} instead of {grid.axcodes}"
    mapped = volume.mapped(axes)
    return mapped, grid.difference(mapped.grid)


def _axes_onto(own: Grid, target: Grid) -> AxisMap | None:
    """How the axes of ``own`` have to be exchanged and flipped to run as those of ``target`` do."""
    turn = np.linalg.inv(own.affine)[:3, :3] @ target.affine[:3, :3]
    axes = np.abs(turn).argmax(axis=0)
    if len(set(axes.tolist())) != 3:
        return None
    flips = [bool(turn[axis, index] < 0.0) for index, axis in enumerate(axes)]
    return AxisMap(tuple(int(axis) for axis in axes), tuple(flips))  # type: ignore[arg-type]
