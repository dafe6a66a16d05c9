"""Files as label maps: whole numbers from 0, and which of them there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.errors import InputError
from medseg.io import read_volume
from medseg.labels import smallest_integer_dtype
from medseg.volume import Volume

__all__ = ["MOST_CLASSES", "read_label_map", "values_in"]

MOST_CLASSES = 1000
"""More values than this are not taken for classes where none are declared: it may be an image."""

_LARGEST_IN_TABLE = 1 << 24
_CHUNK_VOXELS = 1 << 20
_LARGEST_EXACT = 2.0**53


def read_label_map(path: Path) -> Volume:
    """Read a label map of one channel; floating-point files are fine if they hold whole numbers.

    Returns:
        Label values from 0, of an integer type, (1, X, Y, Z).

    Raises:
        InputError: The file is damaged, or holds something else.
    """
    volume = read_volume(path)
    array = volume.array
    if array.dtype.kind == "u":
        return volume
    # NaN is neither below nor above anything, hence the "not".
    if not (array.min() >= 0 and array.max() <= _LARGEST_EXACT):
        raise _no_label_map(path)
    if array.dtype.kind != "f":
        return volume
    if (array != np.rint(array)).any():
        raise _no_label_map(path)
    return Volume(array.astype(smallest_integer_dtype([0, int(array.max())])), volume.grid)


def values_in(labels: Volume, where: Path) -> set[int]:
    """The values of a label map.

    Args:
        labels: As ``read_label_map`` gives them.
        where: The file, for errors.

    Raises:
        InputError: There are more than ``MOST_CLASSES``.

    Example:
        >>> from medseg.geometry import Grid
        >>> labels = np.array([0, 7, 7, 2]).reshape(1, 4, 1, 1)
        >>> sorted(values_in(Volume(labels, Grid((4, 1, 1), np.eye(4))), Path("a.nii")))
        [0, 2, 7]
    """
    array = labels.array
    high = int(array.max())
    if high > _LARGEST_IN_TABLE:
        present = np.unique(array)
    else:
        # Marking what occurs takes one pass; np.unique sorts every voxel.
        table = np.zeros(high + 1, dtype=bool)
        voxels = array.ravel(order="K")
        for start in range(0, voxels.size, _CHUNK_VOXELS):
            table[voxels[start : start + _CHUNK_VOXELS]] = True
        present = np.flatnonzero(table)
    if len(present) > MOST_CLASSES:
        raise InputError(
            f"holds {len(present)} different values, too many for classes that nobody declared",
            where=where,
            fix="check the path, give --labels, or --instances if the values are objects",
        )
    return {int(value) for value in present}


def _no_label_map(path: Path) -> InputError:
    return InputError(
        "is no label map: it holds values that are not 0, 1, 2, …", where=path, fix="check the path"
    )
