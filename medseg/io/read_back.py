"""What a file holds against what was to be written into it, read a piece at a time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from medseg.io.formats import format_of
from medseg.io.voxels import pieces_to_write, read_voxels, require_end
from medseg.volume import Volume

__all__ = ["difference_from_file"]


def difference_from_file(volume: Volume, path: str | os.PathLike[str]) -> str | None:
    """What a file has otherwise than a volume: grid, channels or any voxel; ``None`` if nothing.

    Types may differ, values may not; NaN equals NaN. The file is read once and never held as a whole.

    Args:
        volume: What it should hold.
        path: The file.

    Raises:
        InputError: The file does not exist or is damaged.
        GeometryError: Its geometry is missing, invalid or contradicts itself.

    Example:
        >>> import tempfile
        >>> from medseg.geometry import Grid
        >>> from medseg.io import write_volume
        >>> image = Volume(np.arange(24.0).reshape(1, 2, 3, 4), Grid((2, 3, 4), np.eye(4)))
        >>> path = Path(tempfile.mkdtemp()) / "image.nii.gz"
        >>> write_volume(image, path)
        >>> difference_from_file(image, path) is None
        True
        >>> difference_from_file(Volume(image.array + 1, image.grid), path)
        'other voxels'
    """
    with format_of(path).opened(Path(path)) as (stored, stream):
        difference = volume.grid.difference(stored.header.grid)
        if difference is not None:
            return difference
        if stored.header.channels != volume.channels:
            return f"{stored.header.channels} channels instead of {volume.channels}"
        with_nan = volume.dtype.kind == "f"
        for block in volume.array.transpose(stored.order):
            slice_voxels = block[0].size
            for start, stop in pieces_to_write(len(block), slice_voxels * stored.dtype.itemsize):
                count = (stop - start) * slice_voxels
                found = read_voxels(stream, count, stored.dtype, compressed=False, path=Path(path))
                given = block[start:stop]
                if not np.array_equal(stored.scaled(found).reshape(given.shape), given, equal_nan=with_nan):
                    return "other voxels"
        if stored.compressed:
            require_end(stream)
    return None
