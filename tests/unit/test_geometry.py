"""Grids, axis maps and slab maps, held against nibabel and SciPy."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from medseg.errors import ConfigError, GeometryError
from medseg.geometry import (
    GRID_TOLERANCE_VOXELS,
    SHEAR_TOLERANCE,
    AxisMap,
    Grid,
    axis_map,
    parse_axcodes,
)

ALL_AXCODES = [
    "".join(pair[side] for pair, side in zip(pairs, sides, strict=True))
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for sides in itertools.product((0, 1), repeat=3)
]

properties = settings(max_examples=60, deadline=None)
axcodes = st.sampled_from(ALL_AXCODES)
grids = st.from_type(Grid)  # these two are described in conftest.py
axis_maps = st.from_type(AxisMap)


def all_indices(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)


def affine_with(**entries: float) -> npt.NDArray[np.float64]:
    affine = np.eye(4)
    for place, value in entries.items():
        affine[int(place[1]), int(place[2])] = value
    return affine


# Orientations and axis maps


@pytest.mark.parametrize("codes", ALL_AXCODES)
def test_all_48_orientations_are_known(codes: str) -> None:
    assert parse_axcodes(codes.lower()) == codes


@pytest.mark.parametrize("text", ["", "RA", "RASL", "RAR", "RLS", "XAS", "R A S", "123"])
def test_what_is_no_orientation_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an orientation") as caught:
        parse_axcodes(text)
    assert f"'{text}'" in str(caught.value)


def test_axis_map_by_hand() -> None:
    array = np.arange(6).reshape(1, 2, 3)
    mapped = AxisMap((2, 0, 1), (False, False, True)).apply(array)
    assert mapped.shape == (3, 1, 2)
    assert mapped[:, 0, :].tolist() == [[3, 0], [4, 1], [5, 2]]


def test_axis_map_leaves_leading_axes_and_copies_nothing() -> None:
    array = np.arange(48).reshape(2, 1, 2, 3, 4)
    mapped = AxisMap((1, 2, 0), (True, False, False)).apply(array)
    assert mapped.shape == (2, 1, 3, 4, 2)
    assert np.shares_memory(mapped, array)
    assert mapped[1, 0, 0, 3, 1] == array[1, 0, 1, 2, 3]


@properties
@given(axis_maps, st.tuples(*[st.integers(1, 5)] * 3))
def test_axis_maps_invert(axes: AxisMap, shape: tuple[int, int, int]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    mapped = axes.apply(array)
    np.testing.assert_array_equal(axes.inverse().apply(mapped), array)
    assert axes.inverse().inverse() == axes
    there, back = axes.index_affine(shape), axes.inverse().index_affine(mapped.shape)
    np.testing.assert_array_equal(there @ back, np.eye(4))


@properties
@given(axis_maps, st.tuples(*[st.integers(1, 5)] * 3))
def test_index_affine_says_where_each_voxel_came_from(axes: AxisMap, shape: tuple[int, int, int]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    mapped = axes.apply(array)
    indices = all_indices(mapped.shape)
    came_from = nib.affines.apply_affine(axes.index_affine(shape), indices).astype(int)
    np.testing.assert_array_equal(mapped, array[tuple(np.moveaxis(came_from, -1, 0))])


@properties
@given(axcodes, axcodes)
def test_axis_map_agrees_with_nibabel(source: str, target: str) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    transform = ornt_transform(axcodes2ornt(source), axcodes2ornt(target))
    axes = axis_map(source, target)
    np.testing.assert_array_equal(axes.apply(array), nib.apply_orientation(array, transform))
    np.testing.assert_array_equal(axes.index_affine(array.shape), inv_ornt_aff(transform, array.shape))
    assert axis_map(target, source) == axes.inverse()


def test_axis_map_refuses_what_is_no_orientation() -> None:
    with pytest.raises(ConfigError, match="'RAX'"):
        axis_map("RAS", "RAX")
    with pytest.raises(ConfigError, match="'AXR'"):
        axis_map("AXR", "RAS")


# Grids


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((4, 5), np.eye(4), "three positive sizes"),
        ((4, 5, 6, 2), np.eye(4), "three positive sizes"),
        ((4, 0, 6), np.eye(4), "three positive sizes"),
        ((4, 5, -1), np.eye(4), "three positive sizes"),
        ((4, 5, 6), np.eye(3), "4x4 is needed"),
        ((4, 5, 6), affine_with(_00=np.nan), "NaN or infinite"),
        ((4, 5, 6), affine_with(_03=np.inf), "NaN or infinite"),
        ((4, 5, 6), affine_with(_30=0.5), "last row"),
        ((4, 5, 6), affine_with(_33=2.0), "last row"),
        ((4, 5, 6), affine_with(_11=0.0), "has a zero"),
        ((4, 5, 6), affine_with(_01=1.0, _11=1e-9), "one plane"),
    ],
)
def test_invalid_grids_are_refused(shape: tuple[int, ...], affine: npt.ArrayLike, words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        Grid(shape, affine)  # type: ignore[arg-type]


def test_grid_by_hand() -> None:
    # Stored from head to foot, right to left, front to back, 2 x 1 x 0.5 mm.
    grid = Grid((3, 4, 5), np.array([[0, -1, 0, 10], [0, 0, -0.5, 20], [-2, 0, 0, 30], [0, 0, 0, 1]]))
    assert grid.axcodes == "ILP"
    assert grid.spacing_mm == (2.0, 1.0, 0.5)
    assert grid.origin_mm.tolist() == [10, 20, 30]
    assert grid.directions.tolist() == [[0, -1, 0], [0, 0, -1], [-1, 0, 0]]
    assert grid.is_orthogonal
    assert grid.voxel_volume_ml == pytest.approx(0.001)
    assert grid.voxel_count == 60
    assert grid.to_world((1, 2, 4)).tolist() == [8, 18, 28]
    assert grid.to_index([[8, 18, 28], [10, 20, 29]]).tolist() == [[1, 2, 4], [0.5, 0, 0]]
    assert sorted(map(tuple, grid.corners_mm())) == sorted(itertools.product((10, 7), (20, 18), (30, 26)))


def test_grid_is_immutable_and_independent_of_the_array_it_was_made_from() -> None:
    affine = np.eye(4)
    grid = Grid((2, 2, 2), affine)
    affine[0, 0] = 5.0
    assert grid.spacing_mm == (1.0, 1.0, 1.0)
    for twin in (grid, copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert twin == grid
        assert hash(twin) == hash(grid)
        with pytest.raises(ValueError, match="read-only"):
            twin.affine[0, 0] = 5.0
        with pytest.raises(ValueError, match="read-only"):
            twin.origin_mm[0] = 5.0


def test_equality_is_exact() -> None:
    grid = Grid((2, 2, 2), np.eye(4))
    assert grid == Grid((2, 2, 2), np.eye(4))
    assert grid != Grid((2, 2, 3), np.eye(4))
    assert grid != Grid((2, 2, 2), affine_with(_03=1e-12))
    assert grid != "grid"
    minus_zero = Grid((2, 2, 2), affine_with(_01=-0.0))
    assert minus_zero == grid
    assert hash(minus_zero) == hash(grid)


@properties
@given(grids)
def test_world_and_index_invert(grid: Grid) -> None:
    indices = all_indices(grid.shape)
    np.testing.assert_allclose(grid.to_index(grid.to_world(indices)), indices, atol=1e-7)


@properties
@given(grids, axis_maps)
def test_mapped_grid_keeps_each_voxel_in_its_place(grid: Grid, axes: AxisMap) -> None:
    positions = np.moveaxis(grid.to_world(all_indices(grid.shape)), -1, 0)
    mapped = grid.mapped(axes)
    expected = np.moveaxis(axes.apply(positions), 0, -1)
    np.testing.assert_allclose(mapped.to_world(all_indices(mapped.shape)), expected, atol=1e-9)
    assert mapped.mapped(axes.inverse()).difference(grid) is None


@properties
@given(grids, axcodes)
def test_reoriented_grid_agrees_with_nibabel(grid: Grid, codes: str) -> None:
    transform = ornt_transform(io_orientation(grid.affine), axcodes2ornt(codes))
    reoriented = grid.reoriented(codes)
    assert reoriented.axcodes == codes
    np.testing.assert_allclose(
        reoriented.affine, grid.affine @ inv_ornt_aff(transform, grid.shape), atol=1e-9
    )
    assert reoriented.voxel_volume_ml == pytest.approx(grid.voxel_volume_ml)


def test_axcodes_name_the_nearest_axis() -> None:
    for degrees, codes in [(0, "RAS"), (44, "RAS"), (46, "ALS"), (134, "ALS"), (136, "LPS")]:
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
        assert Grid((2, 2, 2), affine).axcodes == codes


@pytest.mark.parametrize(("factor", "orthogonal"), [(0.9, True), (1.1, False)])
def test_shear_tolerance(factor: float, orthogonal: bool) -> None:
    assert Grid((2, 2, 2), affine_with(_12=factor * SHEAR_TOLERANCE)).is_orthogonal is orthogonal


def test_rotation_is_no_shear_but_a_tilted_gantry_is() -> None:
    affine = np.diag([0.5, 0.5, 5.0, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", (20, 30, 40), degrees=True).as_matrix() @ affine[:3, :3]
    assert Grid((2, 2, 2), affine).is_orthogonal
    tilted = Grid((2, 2, 2), affine_with(_12=np.tan(np.deg2rad(18.5))))
    assert not tilted.is_orthogonal
    assert tilted.spacing_mm[2] == pytest.approx(1 / np.cos(np.deg2rad(18.5)))
    assert tilted.voxel_volume_ml == pytest.approx(0.001)  # the distance between the slices is still 1 mm


@properties
@given(grids, st.data())
def test_cropped_grid_keeps_each_voxel_in_its_place(grid: Grid, data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, size - 1)) for size in grid.shape]
    stop = [data.draw(st.integers(first + 1, size)) for first, size in zip(start, grid.shape, strict=True)]
    cropped = grid.cropped(start, stop)
    box = tuple(slice(first, last) for first, last in zip(start, stop, strict=True))
    np.testing.assert_allclose(
        cropped.to_world(all_indices(cropped.shape)), grid.to_world(all_indices(grid.shape))[box], atol=1e-9
    )


def test_empty_crop_is_refused() -> None:
    with pytest.raises(GeometryError, match="three positive sizes"):
        Grid((4, 4, 4), np.eye(4)).cropped((0, 2, 0), (4, 2, 4))


# Differences


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((4, 5, 7), np.eye(4), "shape 4x5x7 instead of 4x5x6"),
        ((4, 5, 6), np.diag([1.0, -1.0, 1.0, 1.0]), "orientation RPS instead of RAS"),
        ((4, 5, 6), np.diag([1.0, 1.0, 1.25, 1.0]), "spacing 1x1x1.25 mm instead of 1x1x1 mm"),
        ((4, 5, 6), affine_with(_03=3.0, _13=4.0), "a corner is displaced by 5 mm"),
        ((4, 5, 6), affine_with(_01=0.01), "a corner is displaced by 0.04 mm"),
    ],
)
def test_difference_names_what_differs(
    shape: tuple[int, int, int], affine: npt.NDArray[np.float64], words: str
) -> None:
    grid, other = Grid((4, 5, 6), np.eye(4)), Grid(shape, affine)
    assert grid.difference(other) == words
    assert other.difference(grid) is not None


@properties
@given(grids, st.floats(0, 2 * np.pi), st.floats(0, np.pi), st.sampled_from([0.9, 1.1]))
def test_difference_begins_at_the_tolerance(
    grid: Grid, azimuth: float, inclination: float, factor: float
) -> None:
    direction = [
        np.cos(azimuth) * np.sin(inclination),
        np.sin(azimuth) * np.sin(inclination),
        np.cos(inclination),
    ]
    affine = grid.affine.copy()
    affine[:3, 3] += factor * GRID_TOLERANCE_VOXELS * min(grid.spacing_mm) * np.array(direction)
    assert (grid.difference(Grid(grid.shape, affine)) is None) == (factor < 1)


@properties
@given(grids)
def test_rounding_to_single_precision_is_no_difference(grid: Grid) -> None:
    assume(min(grid.spacing_mm) > 0.5)
    grid = Grid((512, 512, 300), grid.affine)
    assert grid.difference(Grid(grid.shape, grid.affine.astype(np.float32))) is None


@pytest.mark.data
def test_orientations_of_real_volumes(test_data: Path) -> None:
    found = {}
    for path in sorted((test_data / "mr" / "spinal_cord").rglob("*.nii.gz")):
        image = nib.load(path)
        if len(image.shape) == 3:
            grid = Grid(image.shape, image.affine)
            assert grid.axcodes == "".join(nib.aff2axcodes(image.affine))
            np.testing.assert_allclose(grid.spacing_mm, image.header.get_zooms()[:3], rtol=1e-4)
            found[grid.axcodes] = path
    assert {"RAS", "PSR", "LAS"} <= set(found)
