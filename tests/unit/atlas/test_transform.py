"""Transforms: hand-made maps, SimpleITK as an independent implementation, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from medseg.atlas.transform import Transform
from medseg.errors import GeometryError
from medseg.geometry import Grid
from medseg.io.sitk import itk_image, ras_displacements, to_lps, to_ras
from medseg.volume import Volume

OBLIQUE = np.array(
    [[0.0, -1.9, 0.3, 10.0], [1.5, 0.0, 0.0, -20.0], [0.0, 0.3, 1.2, 5.0], [0.0, 0.0, 0.0, 1.0]]
)


def volume(shape: tuple[int, int, int], affine: np.ndarray, seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).random((1, *shape)).astype(np.float32), Grid(shape, affine))


def test_it_resamples_as_itk_does() -> None:
    fixed, moving = Grid((7, 6, 5), np.diag([-1.5, 1.5, 2.0, 1.0])), volume((8, 9, 7), OBLIQUE)
    centre = fixed.corners_mm().mean(axis=0)
    matrix = np.eye(4)
    matrix[:3, :3] += 0.1 * np.random.default_rng(1).normal(size=(3, 3))
    matrix[:3, 3] = moving.grid.corners_mm().mean(axis=0) - matrix[:3, :3] @ centre
    field = np.random.default_rng(2).normal(0.0, 0.7, (3, *fixed.shape)).astype(np.float32)
    ours = Transform(fixed, matrix, field).apply(moving, outside=-1.0).array[0]

    lps = to_lps(matrix)
    affine = sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())
    reference = itk_image(Volume(np.zeros((1, *fixed.shape), np.float32), fixed))
    turned = field * np.array([-1.0, -1.0, 1.0])[:, None, None, None]
    vectors = sitk.GetImageFromArray(turned.transpose(3, 2, 1, 0).astype(np.float64), isVector=True)
    vectors.CopyInformation(reference)
    np.testing.assert_array_equal(ras_displacements(vectors), field)
    both = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(vectors)])
    theirs = sitk.Resample(itk_image(moving), reference, both, sitk.sitkLinear, -1.0)
    # At the very border ITK continues by half a voxel, where SciPy already blends with what is outside.
    inside = sitk.GetArrayFromImage(theirs).T != -1.0
    positions = Transform(fixed, matrix, field).positions(moving.grid)
    last = np.array(moving.grid.shape)[:, None, None, None] - 1.0
    well_inside = inside & ((positions > 0.0) & (positions < last)).all(axis=0)
    assert well_inside.sum() > 60
    np.testing.assert_allclose(ours[well_inside], sitk.GetArrayFromImage(theirs).T[well_inside], atol=2e-5)
    np.testing.assert_array_equal(inside, Transform(fixed, matrix, field).covers(moving.grid))


def test_matrices_go_to_lps_and_back() -> None:
    np.testing.assert_allclose(to_ras(to_lps(OBLIQUE)), OBLIQUE)
    point = np.array([1.0, 2.0, 3.0, 1.0])
    turned = np.array([-1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(to_lps(OBLIQUE) @ (turned * point), turned * (OBLIQUE @ point))


def test_labels_are_weights_of_their_neighbours() -> None:
    grid = Grid((4, 1, 1), np.eye(4))
    half = np.eye(4)
    half[0, 3] = 0.5
    indices = np.array([0, 2, 2, 1]).reshape(4, 1, 1)
    found = Transform(grid, half).apply_to_labels(indices, grid, 3)[:, :, 0, 0]
    np.testing.assert_allclose(found.T, [[0.5, 0, 0.5], [0, 0, 1], [0, 0.5, 0.5], [1, 0, 0]], atol=1e-6)


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
def test_probabilities_sum_to_one(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    fixed, moving = Grid((5, 4, 3), OBLIQUE), Grid((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))
    matrix = np.eye(4)
    matrix[:3, 3] = moving.corners_mm().mean(axis=0) - fixed.corners_mm().mean(axis=0)
    field = rng.normal(size=(3, *fixed.shape)).astype(np.float32)
    found = Transform(fixed, matrix, field).apply_to_labels(
        rng.integers(0, classes, moving.shape), moving, classes
    )
    assert found.min() >= 0.0
    np.testing.assert_allclose(found.sum(axis=0), 1.0, atol=1e-5)


def test_volumes_grow_and_fold() -> None:
    grid = Grid((6, 6, 6), OBLIQUE)
    np.testing.assert_allclose(Transform(grid, np.diag([2.0, 1, 1, 1])).jacobian_determinants(), 2.0)
    # A field that is itself affine: x + A x has the determinant of I + A everywhere.
    slope = np.array([[0.2, 0.1, 0.0], [0.0, -0.1, 0.05], [0.3, 0.0, 0.1]])
    points = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    field = np.moveaxis(points @ slope.T, -1, 0).astype(np.float32)
    np.testing.assert_allclose(
        Transform(grid, np.eye(4), field).jacobian_determinants(),
        np.linalg.det(np.eye(3) + slope),
        rtol=1e-4,
    )
    mirrored = np.moveaxis(points @ np.diag([-2.0, 0.0, 0.0]), -1, 0).astype(np.float32)
    assert Transform(grid, np.eye(4), mirrored).jacobian_determinants().max() < 0.0


def test_a_field_of_another_grid_is_refused() -> None:
    with pytest.raises(GeometryError, match="do not fit the grid"):
        Transform(Grid((2, 2, 2), np.eye(4)), np.eye(4), np.zeros((3, 2, 2, 3), np.float32))
