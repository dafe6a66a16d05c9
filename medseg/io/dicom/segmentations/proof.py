"""What was written is read back and compared before it gets its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.geometry import FloatArray, Grid
from medseg.io.dicom.segmentations.layers import Segmentation
from medseg.io.dicom.segmentations.planes import nearest_planes
from medseg.io.dicom.segmentations.read_contours import read_contours
from medseg.io.dicom.segmentations.read_seg import read_segmentation
from medseg.io.dicom.segmentations.segments import open_segments
from medseg.labels import LabelScheme

__all__ = [
    "CENTROID_TOLERANCE_MM",
    "centroids_mm",
    "prove_contours",
    "prove_fractions",
    "prove_label_map",
    "require_same_masks",
]

CENTROID_TOLERANCE_MM = 0.1
"""How far the centroid of a structure may move between what was given and what is read back."""


def prove_label_map(path: Path, expected: npt.NDArray[Any], grid: Grid, names: Mapping[int, str]) -> None:
    """Check that a segmentation file says what a label map says.

    Args:
        path: The file.
        expected: Segment numbers, shape (planes, rows, columns).
        grid: Of ``expected``, shape (columns, rows, planes).
        names: Of the segments by number.

    Raises:
        InputError: It does not.
    """
    found = read_segmentation(path)
    if len(found.label_maps) != 1:
        raise _disagreement(path, "segments overlap")
    if found.scheme.values[1:] != tuple(sorted(names)):
        raise _disagreement(path, "segments are missing")
    require_same_masks(path, found, expected, grid, names)


def prove_contours(path: Path, expected: npt.NDArray[Any], grid: Grid, scheme: LabelScheme) -> None:
    """Check that the contours of a file, filled on a grid, give a label map.

    Args:
        path: The file.
        expected: Class indices, shape (planes, rows, columns).
        grid: Shape (columns, rows, planes).
        scheme: The classes.

    Raises:
        InputError: They do not.
    """
    found = read_contours(path, grid)
    if len(found.label_maps) != 1 or len(found.scheme) != len(scheme):
        raise _disagreement(path, "regions overlap or are missing")
    indices = found.scheme.to_indices(found.label_maps[0].array[0].transpose(2, 1, 0))
    given = np.where(expected == scheme.ignore_index, 0, expected) if scheme.ignore is not None else expected
    if not np.array_equal(indices, given):
        raise _disagreement(path, "voxels differ")


def require_same_masks(
    path: Path, found: Segmentation, expected: npt.NDArray[Any], grid: Grid, names: Mapping[int, str]
) -> None:
    """Compare voxel by voxel, and centroids in millimetres, each on its own grid.

    Raises:
        InputError: They differ.
    """
    values = found.label_maps[0].array[0].transpose(2, 1, 0)
    planes = np.rint(
        grid.to_index(found.grid.to_world([(0, 0, k) for k in range(len(values))]))[:, 2]
    ).astype(int)
    if values.shape[1:] != expected.shape[1:] or planes.min() < 0 or planes.max() >= len(expected):
        raise _disagreement(path, "its frames lie outside the source images")
    rest = np.ones(len(expected), dtype=bool)
    rest[planes] = False
    same = all(np.array_equal(values[k], expected[plane]) for k, plane in enumerate(planes))
    if not same or expected[rest].any():
        raise _disagreement(path, "voxels differ")
    given, written = centroids_mm(expected, grid), centroids_mm(values, found.grid)
    for value, centroid in given.items():
        distance = float(np.linalg.norm(centroid - written[value]))
        if not distance <= CENTROID_TOLERANCE_MM:
            raise _disagreement(path, f"the centroid of '{names[value]}' moved by {distance:.3g} mm")


def prove_fractions(path: Path, expected: npt.NDArray[Any], grid: Grid, largest: int) -> None:
    """Check that a fractional segmentation file holds fractions, rounded to its steps.

    Args:
        path: The file.
        expected: Shape (planes, rows, columns, segments), in 0..1.
        grid: Shape (columns, rows, planes).
        largest: The stored value that stands for 1.

    Raises:
        InputError: It does not.
    """
    stored = open_segments(path)
    planes = nearest_planes(grid, stored.lattice, stored.positions, path)
    absent = np.ones((expected.shape[0], expected.shape[3]), dtype=bool)
    for index, (segment, plane) in enumerate(zip(stored.segment_of - 1, planes, strict=True)):
        absent[plane, segment] = False
        if not np.array_equal(
            stored.frame(index), np.around(expected[plane, :, :, segment] * float(largest))
        ):
            raise _disagreement(path, "fractions differ")
    if any(
        np.around(expected[plane, :, :, segment] * largest).any() for plane, segment in np.argwhere(absent)
    ):
        raise _disagreement(path, "a frame is missing")


def centroids_mm(labels: npt.NDArray[Any], grid: Grid) -> dict[int, FloatArray]:
    """The mean position of the voxels of each value but 0, in RAS+ millimetres.

    Args:
        labels: Shape (planes, rows, columns).
        grid: Shape (columns, rows, planes).

    Example:
        >>> labels = np.zeros((1, 1, 4), dtype=np.uint8)
        >>> labels[0, 0, 2:] = 1
        >>> centroids_mm(labels, Grid((4, 1, 1), np.eye(4)))[1].tolist()
        [2.5, 0.0, 0.0]
    """
    largest = int(labels.max(initial=0))
    sums = np.zeros((4, largest + 1))
    for plane, (value, row, column) in enumerate(_voxels(labels)):
        count = np.bincount(value, minlength=largest + 1)
        sums[0] += np.bincount(value, column, largest + 1)
        sums[1] += np.bincount(value, row, largest + 1)
        sums[2] += count * float(plane)
        sums[3] += count
    present = [value for value in range(1, largest + 1) if sums[3, value]]
    return {value: grid.to_world(sums[:3, value] / sums[3, value]) for value in present}


def _voxels(
    labels: npt.NDArray[Any],
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    for plane in labels:
        row, column = np.nonzero(plane)
        yield plane[row, column], row, column


def _disagreement(path: Path, what: str) -> InputError:
    return InputError(
        f"what was written is not what was given: {what}", where=path.name.split(".part.")[-1],
        fix="report this; nothing was kept",
    )  # fmt: skip
