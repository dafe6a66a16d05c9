"""A shape model fitted to class probabilities: its pose and its modes together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt
from scipy import optimize
from scipy.special import log_softmax, softmax

from medseg.atlas.shape_model import ShapeModel
from medseg.atlas.transform import Transform
from medseg.errors import GeometryError
from medseg.geometry import Grid
from medseg.runs.part import Part
from medseg.volume import Volume

__all__ = ["Objective", "ShapeChoice", "ShapeFit", "fit_shape"]

Array = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
_NEAR = 0.75
"""Of the largest distance that the mean holds."""
_MOST_OF_RADIUS = 0.3
_MOST_DEVIATIONS = 3.0


class ShapeChoice(Part):
    """How a shape model is learnt and fitted.

    Attributes:
        modes: Principal components that are kept at most.
        reach_mm: Distances to borders beyond are cut off.
        border_mm: How wide the border between two classes is: over so many millimetres the odds change by e.
        sharpness: Power that probabilities are raised to before the fit: blurred ones shrink thin shapes.
        prior_weight: Of the shape's own probability, in voxels that would speak as loudly: the higher, the
            nearer to the mean shape.
        iterations: Of the fit, at most.
    """

    modes: PositiveInt = 20
    reach_mm: PositiveFloat = 8.0
    border_mm: PositiveFloat = 0.7
    sharpness: PositiveFloat = 3.0
    prior_weight: float = Field(default=5.0, ge=0.0)
    iterations: PositiveInt = 60


@dataclass(frozen=True, eq=False)
class ShapeFit:
    """A shape in an image.

    Attributes:
        matrix: 4x4, from points of the model to points of the image, in RAS+ millimetres.
        coefficients: (M,), of the modes, in standard deviations.
        probabilities: (K, X, Y, Z), of the classes on the image's grid, of sum 1.
        cost: Mean cross-entropy of the voxels around the model, with the shape's own.
    """

    matrix: Array
    coefficients: Array
    probabilities: FloatArray
    cost: float


def fit_shape(
    model: ShapeModel, probabilities: FloatArray, grid: Grid, matrix: Array, choice: ShapeChoice
) -> ShapeFit:
    """Find the pose and the modes whose shape agrees best with class probabilities.

    What is made least is the cross-entropy between the probabilities and those of the shape, summed over what
    the model's grid covers of the image, plus half the sum of the squared coefficients, weighted. Pose and
    modes are found together, by L-BFGS.

    Args:
        model: The shapes.
        probabilities: (K, X, Y, Z), of sum 1.
        grid: Theirs.
        matrix: 4x4, where to begin: from points of the model to points of the image.
        choice: How.

    Raises:
        GeometryError: The model has other classes, or lies outside the image.
    """
    if len(probabilities) != len(model.mean) + 1:
        raise GeometryError(
            f"probabilities of {len(probabilities)} classes, and a model of {len(model.mean) + 1}"
        )
    if not Transform(model.grid, matrix).covers(grid).any():
        raise GeometryError("the shape lies outside the image", fix="begin at another pose")
    sharp = probabilities.astype(np.float32) ** np.float32(choice.sharpness)
    sharp /= np.maximum(sharp.sum(axis=0), np.finfo(np.float32).tiny)
    objective = Objective(model, sharp, grid, matrix, choice)
    found = optimize.minimize(
        objective,
        np.zeros(objective.size),
        jac=True,
        method="L-BFGS-B",
        bounds=objective.bounds,
        options={"maxiter": choice.iterations},
    )
    pose, coefficients = objective.matrix_of(found.x), found.x[12:]
    shape = Volume(model.distances(coefficients), model.grid)
    brought = Transform(grid, np.asarray(np.linalg.inv(pose), dtype=np.float64)).apply(shape).array
    fitted = softmax(_scores(brought, choice.border_mm), axis=0).astype(np.float32)
    return ShapeFit(pose, coefficients, fitted, float(found.fun))


class Objective:
    """What is made least, and its gradient.

    The parameters are nine of the pose's linear part and three of its shift, all in millimetres at the
    model's edge, then the coefficients of the modes.

    Args:
        model: The shapes.
        probabilities: (K, X, Y, Z).
        grid: Theirs.
        matrix: The pose at which the parameters are 0.
        choice: Border and weight of the prior.
    """

    def __init__(
        self, model: ShapeModel, probabilities: FloatArray, grid: Grid, matrix: Array, choice: ShapeChoice
    ) -> None:
        self.size = 12 + len(model.modes)
        self._choice, self._matrix = choice, matrix
        # Far from all shapes the background is certain, and nothing can be learnt.
        near = model.mean.min(axis=0) < _NEAR * model.mean.max()
        points = model.grid.to_world(np.argwhere(near))
        self._centre = points.mean(axis=0)
        self._radius = float(np.abs(points - self._centre).max())
        self._rays = (points - self._centre) / self._radius  # (V, 3)
        self._mean, self._modes = model.mean[:, near], model.modes[:, :, near]
        self._into = np.linalg.inv(grid.affine)
        self._volume = float(np.linalg.det(matrix[:3, :3]))
        # Beyond the image's border the background goes on.
        self._padded = np.pad(probabilities, ((0, 0), (1, 1), (1, 1), (1, 1)))
        self._padded[0] = 1.0 - self._padded[1:].sum(axis=0)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """How far each parameter may go: a pose that turns the model inside out fits nothing."""
        most = _MOST_OF_RADIUS * self._radius
        return [(-most, most)] * 12 + [(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)] * (self.size - 12)

    def matrix_of(self, parameters: Array) -> Array:
        """The pose of parameters, 4x4."""
        pose = self._matrix.copy()
        turn = parameters[:9].reshape(3, 3) / self._radius
        pose[:3, :3] += turn
        pose[:3, 3] += parameters[9:12] - turn @ self._centre
        return pose

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """The mean over the model's voxels, and its gradient."""
        pose, coefficients = self.matrix_of(parameters), parameters[12:]
        seen, slopes = self._seen(pose)
        distances = self._mean + np.tensordot(coefficients, self._modes, axes=1)
        scores = _scores(distances, self._choice.border_mm)
        logs = log_softmax(scores, axis=0)
        voxels = logs.shape[1]
        weight = self._choice.prior_weight
        # Summed over the image, not over the model: else the structures would shrink by being drawn apart.
        turn = pose[:3, :3]
        grown = float(np.linalg.det(turn)) / self._volume
        entropy = -float((seen * logs).sum())
        by_point = -grown * np.einsum("kv,kvi->vi", logs, slopes)
        gradient = np.empty(self.size)
        gradient[:9] = (
            by_point.T @ self._rays + entropy * grown * np.linalg.inv(turn).T / self._radius
        ).ravel()
        gradient[9:12] = by_point.sum(axis=0)
        by_distance = grown * (seen - np.exp(logs) * seen.sum(axis=0))[1:] / self._choice.border_mm
        gradient[12:] = np.tensordot(self._modes, by_distance, axes=2) + weight * coefficients
        cost = grown * entropy + 0.5 * weight * float(coefficients @ coefficients)
        return cost / voxels, gradient / voxels

    def _seen(self, pose: Array) -> tuple[Array, Array]:
        """Probabilities at the model's voxels, (K, V), and their slopes by millimetre, (K, V, 3)."""
        turn = self._into[:3, :3] @ pose[:3, :3]
        first = self._into[:3] @ np.append(pose[:3, :3] @ self._centre + pose[:3, 3], 1.0)
        indices = self._rays @ (turn * self._radius).T + first + 1.0  # 1 of padding
        last = np.array(self._padded.shape[1:]) - 1.0
        held = np.clip(indices, 0.0, last)
        low = np.minimum(held.astype(np.intp), (last - 1.0).astype(np.intp))
        return self._interpolated(held - low, low, (indices == held).astype(np.float64))

    def _interpolated(self, part: Array, low: npt.NDArray[np.intp], free: Array) -> tuple[Array, Array]:
        """Linear interpolation, and its exact derivative, of all classes at once."""
        shape = self._padded.shape[1:]
        flat = self._padded.reshape(len(self._padded), -1)
        start = np.ravel_multi_index(tuple(low.T), shape)
        values = np.zeros((len(flat), len(start)))
        by_index = np.zeros((len(flat), len(start), 3))
        for corner in np.ndindex(2, 2, 2):
            factors = np.where(corner, part, 1.0 - part)  # (V, 3)
            signs = np.where(corner, 1.0, -1.0)
            here = flat[:, start + int(np.ravel_multi_index(corner, shape))]
            values += factors.prod(axis=1) * here
            for axis in range(3):
                others = factors[:, [other for other in range(3) if other != axis]].prod(axis=1)
                by_index[:, :, axis] += (signs[axis] * others) * here
        return values, (by_index * free) @ self._into[:3, :3]


def _scores(distances: npt.NDArray[np.floating], border_mm: float) -> Array:
    """Logarithms of the odds of each class against the background, which has 0; (K, …)."""
    background = np.zeros((1, *distances.shape[1:]))
    return np.concatenate([background, -distances.astype(np.float64) / border_mm])
