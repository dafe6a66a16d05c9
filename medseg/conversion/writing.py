"""Files that are read back and compared before they get their name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medseg.errors import MedsegError, ResourceError
from medseg.files import atomic_path
from medseg.io import read_volume, write_volume
from medseg.volume import Volume

__all__ = ["write_and_compare"]


def write_and_compare(
    image: Volume, path: Path, before_it_is_named: Callable[[Path], None] | None = None
) -> None:
    """Write an image, read it back, and compare every voxel and the grid; only then it gets its name.

    Args:
        image: What to write.
        path: The file; its suffix names the format.
        before_it_is_named: Called with the written file, under its temporary name.

    Raises:
        InputError: The format cannot be written.
        GeometryError: The format cannot hold the grid.
        ResourceError: The disk is full or not writable, or does not give back what was written.
    """
    try:
        with atomic_path(path) as temporary:
            write_volume(image, temporary)
            _require_equal(image, read_volume(temporary), path)
            if before_it_is_named is not None:
                before_it_is_named(temporary)
    except MedsegError as error:
        error.where = str(path)  # the user knows nothing of the temporary name
        raise


def _require_equal(image: Volume, written: Volume, path: Path) -> None:
    difference = image.grid.difference(written.grid)
    same_shape = image.array.shape == written.array.shape
    floats = image.dtype.kind == "f"
    if difference is None and same_shape:
        channels = zip(image.array, written.array, strict=True)
        slices = (
            pair
            for channel in channels
            for pair in zip(*(a.transpose(2, 1, 0) for a in channel), strict=True)
        )
        if all(np.array_equal(one, other, equal_nan=floats) for one, other in slices):
            return
        difference = "other voxels"
    raise ResourceError(
        f"read back, it is not what was written: {difference or 'another shape'}",
        where=path,
        fix="check the disk and its memory, and try again",
    )
