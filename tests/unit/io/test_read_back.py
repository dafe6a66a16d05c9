"""A file against the volume that it should hold: every voxel, the grid, the channels, to the last byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.io.read_back import difference_from_file
from medseg.registry import VOLUME_FORMATS
from medseg.volume import Volume

GRID = Grid((5, 4, 3), np.diag([-2.0, 2.0, 3.0, 1.0]))
WRITERS = [suffix for suffix in VOLUME_FORMATS.names() if VOLUME_FORMATS.resolve(suffix).writes]


def image_of(dtype: str = "int16", channels: int = 1) -> Volume:
    values = np.random.default_rng(0).integers(0, 100, (channels, *GRID.shape)).astype(dtype)
    return Volume(values, GRID)


def changed(image: Volume, place: tuple[int, ...]) -> Volume:
    array = image.array.copy()
    array[place] += 1
    return Volume(array, image.grid)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_voxel_counts(tmp_path: Path, suffix: str, channels: int) -> None:
    image, path = image_of(channels=channels), tmp_path / f"image{suffix}"
    write_volume(image, path)
    assert difference_from_file(image, path) is None
    for place in np.ndindex(image.array.shape):
        assert difference_from_file(changed(image, place), path) == "other voxels", place


def test_pieces_of_a_large_volume_are_all_looked_at(tmp_path: Path) -> None:
    shape = (1024, 1024, 20)  # three pieces
    image = Volume(np.zeros((1, *shape[::-1]), np.uint16).transpose(0, 3, 2, 1), Grid(shape, np.eye(4)))
    path = tmp_path / "image.nii"
    write_volume(image, path)
    for index in (0, 7, 8, 19):
        assert difference_from_file(changed(image, (0, 1023, 1023, index)), path) == "other voxels"
    assert difference_from_file(image, path) is None


def test_nan_is_nan_and_minus_zero_is_zero(tmp_path: Path) -> None:
    image, path = image_of("float32"), tmp_path / "image.nii.gz"
    image.array[0, 0, 0, :2] = np.nan, -0.0
    write_volume(image, path)
    assert difference_from_file(image, path) is None
    image.array[0, 0, 0, 0] = 1.0
    assert difference_from_file(image, path) == "other voxels"


def test_types_may_differ(tmp_path: Path) -> None:
    image, path = image_of("int64"), tmp_path / "image.nii"
    write_volume(image, path)
    assert read_volume(path).dtype != image.dtype
    assert difference_from_file(image, path) is None


def test_another_grid_or_number_of_channels(tmp_path: Path) -> None:
    image, path = image_of(channels=2), tmp_path / "image.nii"
    write_volume(image, path)
    moved = Volume(image.array, Grid(GRID.shape, GRID.affine @ np.diag([1.0, 1.0, 1.1, 1.0])))
    assert "mm" in str(difference_from_file(moved, path))
    assert difference_from_file(Volume(image.array[:1], GRID), path) == "2 channels instead of 1"
    longer = Volume(np.zeros((2, 5, 4, 4)), Grid((5, 4, 4), GRID.affine))
    assert difference_from_file(longer, path) is not None


@pytest.mark.parametrize("end", ["checksum", "nothing"])
def test_the_checksum_behind_the_last_voxel_counts(tmp_path: Path, end: str) -> None:
    image, path = image_of(), tmp_path / "image.nii.gz"
    write_volume(image, path)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content if end == "checksum" else content[:-8])
    with pytest.raises(InputError, match=r"corrupt|too early"):
        difference_from_file(image, path)
