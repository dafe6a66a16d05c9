"""Volumes, held against nibabel's and MONAI's own reorientation, and round trips through MetaTensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from medseg.errors import GeometryError
from medseg.geometry import AxisMap, Grid
from medseg.volume import Volume

properties = settings(max_examples=40, deadline=None)
grids = st.from_type(Grid)  # described in conftest.py
axcodes = st.sampled_from(["RAS", "LAS", "LPS", "PSR", "PIR", "SLA", "IPR", "ALI"])


def numbered(grid: Grid, channels: int = 2, dtype: npt.DTypeLike = np.int16) -> Volume:
    """A volume in which no two voxels are alike."""
    return Volume(np.arange(channels * grid.voxel_count, dtype=dtype).reshape(channels, *grid.shape), grid)


@pytest.fixture
def volume() -> Volume:
    return numbered(Grid((2, 3, 4), np.diag([-1.0, 2.0, 3.0, 1.0])))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 3, 4), "array has 3 dimensions"),
        ((1, 1, 2, 3, 4), "array has 5 dimensions"),
        ((1, 2, 3, 5), "does not fit the grid"),
        ((2, 3, 4, 1), "does not fit the grid"),
    ],
)
def test_array_must_fit_the_grid(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        Volume(np.zeros(shape), Grid((2, 3, 4), np.eye(4)))


def test_channels(volume: Volume) -> None:
    assert volume.channels == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_those_of_the_array_and_share_its_memory(volume: Volume, axis: int) -> None:
    slab = volume.slices(axis, 1, 2)
    np.testing.assert_array_equal(slab, np.take(volume.array, [1], axis=1 + axis))
    assert np.shares_memory(slab, volume.array)


def test_slices_come_in_native_byte_order(volume: Volume) -> None:
    swapped = Volume(big_endian(volume.array), volume.grid)
    slab = swapped.slices(2, 1, 3)
    assert slab.dtype == swapped.dtype == np.dtype("=i2")
    assert slab.dtype.isnative
    np.testing.assert_array_equal(slab, volume.array[..., 1:3])


def test_a_volume_in_memory_says_what_it_takes(volume: Volume) -> None:
    assert volume.resident_bytes == 2 * 24 * 2


@properties
@given(grids, st.from_type(AxisMap))
def test_mapping_moves_array_and_grid_together(grid: Grid, axes: AxisMap) -> None:
    positions = np.moveaxis(grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    mapped = Volume(positions, grid).mapped(axes)
    indices = np.moveaxis(np.indices(mapped.grid.shape), 0, -1)
    np.testing.assert_allclose(np.moveaxis(mapped.array, 0, -1), mapped.grid.to_world(indices), atol=1e-9)


def test_mapping_copies_nothing(volume: Volume) -> None:
    assert np.shares_memory(volume.reoriented("SRA").array, volume.array)


@properties
@given(grids, axcodes)
def test_reorientation_agrees_with_nibabel(grid: Grid, codes: str) -> None:
    volume = numbered(grid, channels=1)
    image = nib.Nifti1Image(volume.array[0], grid.affine)
    oracle = image.as_reoriented(ornt_transform(io_orientation(grid.affine), axcodes2ornt(codes)))
    reoriented = volume.reoriented(codes)
    np.testing.assert_array_equal(reoriented.array[0], np.asarray(oracle.dataobj))
    np.testing.assert_allclose(reoriented.grid.affine, oracle.affine, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(grids, axcodes)
def test_reorientation_agrees_with_monai(grid: Grid, codes: str) -> None:
    volume = numbered(grid)
    oracle = Volume.from_metatensor(Orientation(axcodes=codes, labels=None)(volume.to_metatensor()))
    reoriented = volume.reoriented(codes)
    np.testing.assert_array_equal(reoriented.array, oracle.array)
    np.testing.assert_allclose(reoriented.grid.affine, oracle.grid.affine, atol=1e-9)


@properties
@given(grids, axcodes)
def test_reorientation_and_back(grid: Grid, codes: str) -> None:
    volume = numbered(grid)
    back = volume.reoriented(codes).reoriented(grid.axcodes)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.grid.difference(grid) is None


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64", "bool"]
)
def test_metatensor_round_trip(volume: Volume, dtype: str) -> None:
    typed = Volume(volume.array.astype(dtype), volume.grid)
    tensor = typed.to_metatensor()
    assert isinstance(tensor, MetaTensor)
    back = Volume.from_metatensor(tensor)
    assert back.array.dtype == typed.array.dtype
    np.testing.assert_array_equal(back.array, typed.array)
    assert back.grid == typed.grid


def big_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(array.dtype.newbyteorder(">"))


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    locked = array.copy()
    locked.flags.writeable = False
    return locked


@pytest.mark.parametrize(
    "change", [big_endian, read_only, np.asfortranarray, lambda array: array[:, ::-1, :, ::-1]]
)
def test_arrays_that_torch_does_not_take_as_they_are(volume: Volume, change: Any) -> None:
    odd = Volume(change(volume.array), volume.grid)
    before = odd.array.copy()
    tensor = odd.to_metatensor()
    np.testing.assert_array_equal(tensor.numpy(), before)
    if not np.shares_memory(tensor.numpy(), odd.array):
        tensor[:] = 0
        np.testing.assert_array_equal(odd.array, before)


def test_read_only_memory_stays_unwritten(volume: Volume) -> None:
    locked = Volume(read_only(volume.array), volume.grid)
    locked.to_metatensor()[:] = 0
    np.testing.assert_array_equal(locked.array, volume.array)


def test_plain_arrays_are_shared_and_the_affine_is_not(volume: Volume) -> None:
    tensor = volume.to_metatensor()
    assert np.shares_memory(tensor.numpy(), volume.array)
    tensor.affine[0, 0] = 7.0
    assert volume.grid.affine[0, 0] == -1.0


def test_from_a_tensor_that_is_being_trained_on(volume: Volume) -> None:
    tensor = volume.to_metatensor().float().requires_grad_()
    np.testing.assert_array_equal(Volume.from_metatensor(tensor).array, volume.array)


def test_single_precision_affine_is_no_difference() -> None:
    grid = Grid(
        (20, 30, 40), np.array([[0.7, 0, 0, -123.4], [0, 0.7, 0, 56.7], [0, 0, 3.3, 891.2], [0, 0, 0, 1]])
    )
    tensor = MetaTensor(torch.zeros(1, 20, 30, 40), affine=torch.from_numpy(grid.affine.copy()).float())
    assert grid.difference(Volume.from_metatensor(tensor).grid) is None


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (1, 1, 2, 3, 4)])
def test_tensors_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError):
        Volume.from_metatensor(MetaTensor(torch.zeros(shape)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_from_a_device(volume: Volume) -> None:
    np.testing.assert_array_equal(Volume.from_metatensor(volume.to_metatensor().cuda()).array, volume.array)


@pytest.mark.data
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_reorientation_of_real_volumes(test_data: Path, codes: str) -> None:
    for path in sorted((test_data / "mr" / "spinal_cord").rglob("*.nii.gz")):
        image = nib.load(path)
        if len(image.shape) != 3:
            continue
        volume = Volume(np.asarray(image.dataobj)[None], Grid(image.shape, image.affine))
        oracle = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))
        np.testing.assert_array_equal(volume.reoriented(codes).array[0], np.asarray(oracle.dataobj))
        np.testing.assert_allclose(volume.reoriented(codes).grid.affine, oracle.affine, atol=1e-9)
