"""Shapes: ellipsoids whose ways of varying are known, scikit-learn's PCA, and numerical gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.atlas.shape_fit import Objective, ShapeChoice, fit_shape
from medseg.atlas.shape_model import ShapeModel, signed_distances
from medseg.atlas.transform import Transform
from medseg.errors import BundleError, GeometryError, InputError
from medseg.geometry import Grid

GRID = Grid((22, 20, 18), np.diag([-1.0, 1.0, 1.0, 1.0]))
CENTRE = np.array([10.5, 9.5, 8.5])


def ellipsoid(length: float, width: float, centre: np.ndarray = CENTRE) -> np.ndarray:
    """Two classes: the lower and the upper half of an ellipsoid."""
    x, y, z = np.moveaxis(np.indices(GRID.shape), 0, -1).transpose(3, 0, 1, 2) - centre[:, None, None, None]
    inside = (x / length) ** 2 + (y / width) ** 2 + (z / 5.0) ** 2 < 1.0
    return np.where(inside, np.where(z < 0, 1, 2), 0).astype(np.uint8)


def model_of(shapes: list[np.ndarray], modes: int = 5) -> ShapeModel:
    stay = [Transform(GRID, np.eye(4))] * len(shapes)
    return ShapeModel.build(shapes, stay, [GRID] * len(shapes), 3, modes=modes)


@pytest.fixture(scope="module")
def model() -> ShapeModel:
    rng = np.random.default_rng(0)
    return model_of([ellipsoid(*rng.uniform((4.5, 3.5), (8.5, 6.5))) for _ in range(14)], modes=4)


def one_hot(indices: np.ndarray) -> np.ndarray:
    return np.stack([indices == label for label in range(3)]).astype(np.float32)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(
        np.mean(
            [2 * ((one == k) & (other == k)).sum() / ((one == k).sum() + (other == k).sum()) for k in (1, 2)]
        )
    )


def test_components_are_scikit_learns() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(1)
    shapes = [ellipsoid(*rng.uniform((5.0, 3.0), (8.0, 6.0))) for _ in range(8)]
    ours = model_of(shapes)
    whole = np.stack([signed_distances(shape, 3, GRID.spacing_mm, 8.0) for shape in shapes])
    # The model keeps what lies within reach of a structure; nothing varies elsewhere.
    theirs = decomposition.PCA(5).fit(whole.reshape(8, -1).astype(np.float64))
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, atol=1e-4)
    lengths = np.linalg.norm(ours.modes.reshape(5, -1), axis=1)
    np.testing.assert_allclose(lengths, np.sqrt(theirs.explained_variance_), rtol=1e-3)


def test_a_shape_is_its_coefficients(model: ShapeModel) -> None:
    for coefficients in (np.array([1.0, -0.5, 0.2, 0.0]), np.zeros(4)):
        found = model.coefficients_of(model.distances(coefficients))
        np.testing.assert_allclose(found, coefficients, atol=1e-3)
    assert model.explained[:2].sum() > 0.85  # there are two ways of varying


def test_gradients_are_those_of_differences(model: ShapeModel) -> None:
    rng = np.random.default_rng(2)
    grid = Grid(GRID.shape, np.diag([1.0, 1.2, 0.9, 1.0]))
    probabilities = rng.dirichlet(np.ones(3), grid.shape).transpose(3, 0, 1, 2).astype(np.float32)
    matrix = np.eye(4)
    matrix[:3, :3] += 0.05 * rng.normal(size=(3, 3))
    matrix[:3, 3] = grid.corners_mm().mean(axis=0) - matrix[:3, :3] @ model.grid.corners_mm().mean(axis=0)
    objective = Objective(model, probabilities, grid, matrix, ShapeChoice())
    at, step = rng.normal(0.0, 0.3, objective.size), 1e-5
    _, gradient = objective(at)
    steps = step * np.eye(objective.size)
    numeric = [(objective(at + each)[0] - objective(at - each)[0]) / (2.0 * step) for each in steps]
    np.testing.assert_allclose(gradient, numeric, atol=2e-5 + 1e-3 * np.abs(gradient).max())


def test_pose_and_shape_are_found_together(model: ShapeModel) -> None:
    truth = ellipsoid(7.5, 4.0, CENTRE + np.array([2.0, -1.0, 0.5]))
    found = fit_shape(model, one_hot(truth), GRID, np.eye(4), ShapeChoice())
    assert dice(model_start(model), truth) < 0.75
    assert dice(found.probabilities.argmax(axis=0), truth) > 0.87
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1.0, atol=1e-5)
    assert np.abs(found.coefficients).max() <= 3.0


def model_start(model: ShapeModel) -> np.ndarray:
    mean = np.full((3, *GRID.shape), 0.0)
    offset = np.round(GRID.to_index(model.grid.origin_mm)).astype(int)
    part = tuple(slice(first, first + size) for first, size in zip(offset, model.grid.shape, strict=True))
    mean[(slice(1, None), *part)] = -model.mean
    mean[0] = 0.0
    return mean.argmax(axis=0)


def test_what_no_shape_has_is_repaired(model: ShapeModel) -> None:
    truth = ellipsoid(6.5, 5.0)
    damaged = truth.copy()
    damaged[9:13, 8:12, 4:10] = 0  # a hole
    damaged[0:3, 0:3, :] = 2  # and something far off
    found = fit_shape(model, one_hot(damaged), GRID, np.eye(4), ShapeChoice(prior_weight=20.0))
    assert dice(found.probabilities.argmax(axis=0), truth) > dice(damaged, truth) + 0.05


def test_distances_of_what_is_missing_or_everywhere() -> None:
    line = np.array([0, 0, 2, 2]).reshape(4, 1, 1)
    found = signed_distances(line, 3, (2.0, 1.0, 1.0), 3.0)
    np.testing.assert_allclose(found[0], 3.0)
    np.testing.assert_allclose(found[1].ravel(), [3.0, 1.5, -1.5, -3.0])
    np.testing.assert_allclose(signed_distances(np.ones((2, 2, 2), int), 2, (1.0,) * 3, 4.0), -4.0)


def test_it_is_read_as_it_was_written(model: ShapeModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = ShapeModel.open(tmp_path, 3)
    np.testing.assert_array_equal(again.modes, model.modes)
    assert again.grid == model.grid
    with pytest.raises(BundleError, match="does not fit itself, or 2 classes"):
        ShapeModel.open(tmp_path, 2)


def test_what_does_not_fit_is_refused(model: ShapeModel) -> None:
    with pytest.raises(InputError, match="no variation of shape"):
        model_of([ellipsoid(5.0, 5.0)])
    with pytest.raises(InputError, match="no atlas holds a structure"):
        model_of([np.zeros(GRID.shape, np.uint8)] * 2)
    with pytest.raises(GeometryError, match="2 classes, and a model of 3"):
        fit_shape(model, np.ones((2, *GRID.shape), np.float32), GRID, np.eye(4), ShapeChoice())
    away = np.eye(4)
    away[0, 3] = 500.0
    with pytest.raises(GeometryError, match="outside the image"):
        fit_shape(model, np.ones((3, *GRID.shape), np.float32), GRID, away, ShapeChoice())
