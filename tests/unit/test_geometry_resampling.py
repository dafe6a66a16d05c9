"""New grids by spacing, and how slabs of one grid read another, held against SciPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medseg.errors import ConfigError, GeometryError
from medseg.geometry import GRID_TOLERANCE_VOXELS, Grid, slab_maps

properties = settings(max_examples=60, deadline=None)
axcodes = st.sampled_from(["RAS", "LPS", "PIR", "SRA", "ALI"])
lengths_mm = st.floats(0.2, 9.0).map(lambda length: round(length, 3))
spacings = st.tuples(lengths_mm, lengths_mm, lengths_mm)
grids = st.from_type(Grid)  # described in conftest.py


def along_x(spacing_mm: float, offset_mm: float) -> npt.NDArray[np.float64]:
    affine = np.diag([spacing_mm, 1.0, 1.0, 1.0])
    affine[0, 3] = offset_mm
    return affine


# Resampling


@pytest.mark.parametrize(
    "spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, np.nan, 1), (1, np.inf, 1), (1, 1, 1, 1)]
)
def test_resampling_refuses_what_is_no_spacing(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="three positive lengths"):
        Grid((4, 4, 4), np.eye(4)).resampled(spacing)


@pytest.mark.parametrize(
    ("size", "old", "new", "expected"),
    [
        (10, 1.0, 2.0, 6),  # nine intervals of 1 mm need five of 2 mm
        (9, 1.0, 2.0, 5),
        (5, 4.0, 2.0, 9),
        (3, 1.0, 10.0, 2),  # never less than what encloses the old centres
        (1, 5.0, 1.0, 1),  # a single slice has no extent to resample
        (513, 0.5, 0.500005, 513),  # rounding of the header
    ],
)
def test_resampled_shape_by_hand(size: int, old: float, new: float, expected: int) -> None:
    grid = Grid((size, 4, 4), np.diag([old, 1.0, 1.0, 1.0])).resampled((new, 1.0, 1.0))
    assert grid.shape == (expected, 4, 4)


def test_resampling_to_the_same_spacing_is_the_same_grid() -> None:
    grid = Grid((7, 8, 9), np.diag([-0.7, 0.7, 3.0, 1.0]))
    assert grid.resampled((0.7, 0.7, 3.0)) is grid


def test_a_single_slice_keeps_its_thickness() -> None:
    resampled = Grid((4, 4, 1), np.diag([1.0, 1.0, 5.0, 1.0])).resampled((0.5, 1.0, 2.0))
    assert (resampled.shape, resampled.spacing_mm) == ((7, 4, 1), (0.5, 1.0, 5.0))


@properties
@given(grids, spacings)
def test_resampled_grid(grid: Grid, spacing: tuple[float, float, float]) -> None:
    resampled = grid.resampled(spacing)
    np.testing.assert_allclose(resampled.directions, grid.directions, atol=1e-9)
    centre, old_centre = (g.to_world((np.array(g.shape) - 1) / 2) for g in (resampled, grid))
    np.testing.assert_allclose(centre, old_centre, atol=1e-9)
    for axis in range(3):
        kept = grid.shape[axis] == 1 or resampled.shape[axis] == grid.shape[axis]
        near = (spacing[axis], grid.spacing_mm[axis]) if kept else (spacing[axis],)
        assert any(resampled.spacing_mm[axis] == pytest.approx(value) for value in near)
    corners = resampled.to_index(grid.corners_mm())
    last = np.array(resampled.shape) - 1
    overhang = np.minimum(corners, last - corners).min(axis=0)
    assert (overhang >= -GRID_TOLERANCE_VOXELS).all(), "a voxel centre lies outside the new grid"
    assert (overhang <= 0.5 + 1e-7).all(), "the new grid is larger than need be"


# Slab maps


def interpolate(source: npt.NDArray[np.float64], source_grid: Grid, target: Grid) -> npt.NDArray[np.float64]:
    """Linear interpolation axis by axis, as slab maps tell it."""
    maps = slab_maps(source_grid, target)
    result = source.transpose([one.source_axis for one in maps])
    for axis, one in enumerate(maps):
        positions = one.source_positions(0, one.target_length)
        weights = np.maximum(0.0, 1.0 - np.abs(positions[:, None] - np.arange(one.source_length)))
        result = np.moveaxis(np.tensordot(weights, result, axes=(1, axis)), 0, axis)
    return result


@properties
@given(grids, spacings, axcodes, st.integers(0, 2**32 - 1))
def test_slab_maps_agree_with_scipy(
    grid: Grid, spacing: tuple[float, float, float], codes: str, seed: int
) -> None:
    target = grid.resampled(spacing).reoriented(codes)
    source = np.random.default_rng(seed).normal(size=grid.shape)
    indices = np.moveaxis(np.indices(target.shape), 0, -1)
    positions = np.moveaxis(grid.to_index(target.to_world(indices)), -1, 0)
    oracle = map_coordinates(source, positions, order=1, mode="nearest")
    np.testing.assert_allclose(interpolate(source, grid, target), oracle, atol=2e-5)


@properties
@given(grids, spacings, axcodes, st.data())
def test_source_range_is_what_interpolation_reads(
    grid: Grid, spacing: tuple[float, float, float], codes: str, data: st.DataObject
) -> None:
    for one in slab_maps(grid, grid.resampled(spacing).reoriented(codes)):
        start = data.draw(st.integers(0, one.target_length - 1))
        stop = data.draw(st.integers(start + 1, one.target_length))
        positions = one.source_positions(start, stop)
        read = set(np.floor(positions).astype(int)) | set(np.ceil(positions).astype(int))
        assert one.source_range(start, stop) == (min(read), max(read) + 1)
        assert 0 <= min(read) <= max(read) < one.source_length


def test_slab_map_by_hand() -> None:
    source = Grid((9, 3, 3), np.eye(4))
    target = Grid((3, 3, 5), np.array([[0, 0, -2, 8], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
    first, second, third = slab_maps(source, target)
    assert (first.source_axis, second.source_axis, third.source_axis) == (1, 2, 0)
    assert (third.scale, third.offset) == (-2.0, 8.0)
    assert third.source_positions(0, 5).tolist() == [8, 6, 4, 2, 0]
    assert third.source_range(1, 3) == (4, 7)
    assert first.is_identity
    assert not third.is_identity


def test_positions_are_held_within_the_source() -> None:
    source, target = Grid((4, 4, 4), np.eye(4)), Grid((8, 4, 4), along_x(1.0, -2.0))
    along = slab_maps(source, target)[0]
    assert along.source_positions(0, 8).tolist() == [0, 0, 0, 1, 2, 3, 3, 3]
    assert along.source_range(0, 2) == (0, 1)


@pytest.mark.parametrize(
    ("size", "spacing", "offset", "identity"),
    [
        (10, 1.0, 0.0, True),
        (10, 1.0, 0.9 * GRID_TOLERANCE_VOXELS, True),
        (10, 1.0, 1.1 * GRID_TOLERANCE_VOXELS, False),
        (10, 1.001, 0.0, True),  # displaces the last voxel by 0.009
        (10, 1.0012, 0.0, False),  # displaces the last voxel by 0.0108
        (11, 1.0, 0.0, False),
        (10, -1.0, 9.0, False),
    ],
)
def test_identity(size: int, spacing: float, offset: float, identity: bool) -> None:
    source, target = Grid((10, 4, 4), np.eye(4)), Grid((size, 4, 4), along_x(spacing, offset))
    assert slab_maps(source, target)[0].is_identity is identity


@pytest.mark.parametrize(("degrees", "refused"), [(0.05, False), (0.2, True), (30, True), (45, True)])
def test_rotated_grids_have_no_slab_maps(degrees: float, refused: bool) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    source, target = Grid((9, 9, 9), np.eye(4)), Grid((9, 9, 9), affine)
    if refused:
        with pytest.raises(GeometryError, match="rotated against each other"):
            slab_maps(source, target)
    else:
        assert all(one.is_identity for one in slab_maps(source, target))
