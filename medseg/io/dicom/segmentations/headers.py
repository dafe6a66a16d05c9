"""Reading DICOM objects that may be damaged: whatever is wrong ends in one error that says so."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from medseg.errors import InputError, explain_os_errors
from medseg.geometry import FloatArray
from medseg.io.dicom.segmentations.planes import Lattice, declared_spacing_mm

__all__ = [
    "explain_damage",
    "frame_groups",
    "group_of",
    "lattice_of",
    "positions_of",
    "read_object",
    "text_of",
]

_FUNCTIONAL = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")


@contextmanager
def explain_damage(where: str | PathLike[str]) -> Iterator[None]:
    """Turn what pydicom raises on a damaged file into an ``InputError``."""
    damage = (
        InvalidDicomError, BytesLengthException, EOFError, OSError, struct.error, zlib.error, RecursionError,
        ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, NotImplementedError,
    )  # fmt: skip
    try:
        with explain_os_errors(where), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of the header, and so the patient
            yield
    except damage as error:
        # The text of the error may quote the header, and so the patient: its kind has to do.
        raise InputError(
            f"is no valid DICOM object, or damaged ({type(error).__name__})",
            where=where,
            fix="export or copy it again",
        ) from error


def read_object(path: str | PathLike[str], *, voxels: bool) -> Dataset:
    """Read a file, with its voxels or up to them.

    Raises:
        InputError: It is no DICOM file, or damaged.
    """
    with explain_damage(path):
        dataset = pydicom.dcmread(Path(path), stop_before_pixels=not voxels)
        if "SOPClassUID" not in dataset:
            raise InputError("does not say what kind of object it is", where=path, fix="export it again")
        return dataset


def text_of(dataset: Dataset, keyword: str) -> str:
    """A value as stripped text; empty if there is none."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def frame_groups(dataset: Dataset) -> Sequence[Dataset]:
    """The functional groups of each frame of a multi-frame object; none if it has a single frame."""
    groups: Sequence[Dataset] = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    return groups


def group_of(dataset: Dataset, frame: Dataset, keyword: str) -> Dataset | None:
    """A functional group of a frame: its own, or that which all frames share (PS3.3 C.7.6.16)."""
    for holder in (frame, *(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]):
        group = holder.get(keyword)
        if group:
            return group[0]  # type: ignore[no-any-return]
    return None


def lattice_of(dataset: Dataset, where: str | PathLike[str]) -> Lattice:
    """Size, directions and spacing, which all frames have to share.

    Raises:
        InputError: One is missing, or not the same for all frames.
    """
    frames = frame_groups(dataset)
    if not frames:
        return _lattice(dataset, dataset, dataset, where)
    own = [frame for frame in frames if any(keyword in frame for keyword in _FUNCTIONAL[1:])] or [frames[0]]
    found = {
        _lattice(
            dataset, group_of(dataset, frame, _FUNCTIONAL[1]), group_of(dataset, frame, _FUNCTIONAL[2]), where
        )
        for frame in own
    }
    if len(found) > 1:
        raise InputError(
            "its frames differ in orientation or spacing",
            where=where,
            fix="export each stack of frames alone",
        )
    return found.pop()


def _lattice(
    dataset: Dataset, orientation: Dataset | None, measures: Dataset | None, where: str | PathLike[str]
) -> Lattice:
    directions = None if orientation is None else orientation.get("ImageOrientationPatient")
    spacing = None if measures is None else measures.get("PixelSpacing")
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if directions is None or len(directions) != 6 or spacing is None or len(spacing) != 2:
        raise InputError(
            "does not say how its rows and columns lie in the patient, or how far apart they are",
            where=where,
            fix="export it with its plane orientation and pixel measures",
        )
    if not rows or not columns:
        raise InputError("has no rows or columns", where=where, fix="export it again")
    assert measures is not None  # noqa: S101  # spacing came from it
    return Lattice(
        rows=int(rows),
        columns=int(columns),
        orientation=tuple(float(part) for part in directions),
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        slice_spacing_mm=declared_spacing_mm(
            [measures.get("SpacingBetweenSlices"), measures.get("SliceThickness")]
        ),
    )


def positions_of(dataset: Dataset, where: str | PathLike[str]) -> FloatArray:
    """ImagePositionPatient of each frame, (N, 3), in LPS.

    Raises:
        InputError: A frame has none.
    """
    groups = [group_of(dataset, frame, _FUNCTIONAL[0]) for frame in frame_groups(dataset)]
    holders: Sequence[Any] = groups or [dataset]
    positions = [None if holder is None else holder.get("ImagePositionPatient") for holder in holders]
    if any(position is None or len(position) != 3 for position in positions):
        raise InputError(
            "a frame does not say where it lies in the patient",
            where=where,
            fix="export it with plane positions",
        )
    return np.array([[float(part) for part in position or ()] for position in positions], dtype=np.float64)
