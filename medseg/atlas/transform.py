"""Where the points of one image lie in another: an affine map, and a field of displacements before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.geometry import Grid
from medseg.volume import Volume

__all__ = ["Transform"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Transform:
    """Takes each point x of a fixed image to ``matrix @ (x + displacement(x))`` in a moving one.

    Attributes:
        grid: Of the fixed image.
        matrix: 4x4, RAS+ millimetres to RAS+ millimetres.
        displacement_mm: (3, X, Y, Z) on the grid, in RAS+ millimetres; none if ``None``.

    Raises:
        GeometryError: The field does not fit the grid.

    Example:
        >>> grid = Grid((3, 1, 1), np.eye(4))
        >>> shift = np.eye(4)
        >>> shift[0, 3] = 1.0  # what lies at x + 1 in the moving image comes to x
        >>> moving = Volume(np.asarray([1.0, 2.0, 3.0], np.float32).reshape(1, 3, 1, 1), grid)
        >>> Transform(grid, shift).apply(moving).array.ravel().tolist()
        [2.0, 3.0, 3.0]
    """

    grid: Grid
    matrix: npt.NDArray[np.float64]
    displacement_mm: FloatArray | None = None

    def __post_init__(self) -> None:
        field = self.displacement_mm
        if field is not None and field.shape != (3, *self.grid.shape):
            raise GeometryError(f"displacements {field.shape} do not fit the grid {self.grid.shape}")

    def positions(self, moving: Grid) -> FloatArray:
        """Fractional indices in ``moving`` of each voxel of the grid, (3, X, Y, Z)."""
        into = np.linalg.inv(moving.affine) @ self.matrix
        whole = into @ self.grid.affine
        axes = (np.arange(size, dtype=np.float32) for size in self.grid.shape)
        i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
        found = np.empty((3, *self.grid.shape), np.float32)
        for axis, (a, b, c, start) in enumerate(whole[:3].astype(np.float32)):
            found[axis] = a * i + (b * j + (c * k + start))
        if self.displacement_mm is not None:
            turn = into[:3, :3].astype(np.float32)
            found += np.tensordot(turn, self.displacement_mm, axes=1)
        return found

    def apply(self, moving: Volume, *, outside: float | None = None) -> Volume:
        """A moving image on the fixed grid, linearly interpolated.

        Args:
            moving: (C, X, Y, Z).
            outside: Value of points outside the moving image; that of its nearest voxel if ``None``.
        """
        positions = self.positions(moving.grid)
        mode: Literal["nearest", "constant"] = "nearest" if outside is None else "constant"
        value = 0.0 if outside is None else outside
        array = np.empty((moving.channels, *self.grid.shape), np.float32)
        for channel, source in enumerate(moving.array):
            values: FloatArray = source.astype(np.float32, copy=False)
            array[channel] = ndimage.map_coordinates(values, positions, order=1, mode=mode, cval=value)
        return Volume(array, self.grid)

    def apply_to_labels(self, indices: npt.NDArray[Any], moving: Grid, classes: int) -> FloatArray:
        """Class probabilities of an atlas on the fixed grid.

        Args:
            indices: Class index of each voxel of the atlas, (X, Y, Z). One that is no class counts as
                background.
            moving: The atlas's grid.
            classes: Number of classes, background first.

        Returns:
            (K, X, Y, Z), of sum 1: the weights of linear interpolation between the labels of eight voxels.
            Outside the atlas all is background.
        """
        masks = np.stack([indices == index for index in range(1, classes)]).astype(np.float32)
        found = np.empty((classes, *self.grid.shape), np.float32)
        found[1:] = self.apply(Volume(masks, moving), outside=0.0).array
        found[0] = np.maximum(1.0 - found[1:].sum(axis=0), 0.0)
        return found

    def covers(self, moving: Grid) -> npt.NDArray[np.bool_]:
        """The voxels of the fixed grid that lie within a moving image, (X, Y, Z)."""
        last = np.asarray(moving.shape, dtype=np.float32)[:, None, None, None] - 1.0
        positions = self.positions(moving)
        i, j, k = (positions >= -0.5) & (positions <= last + 0.5)
        inside: npt.NDArray[np.bool_] = i & j & k
        return inside

    def jacobian_determinants(self) -> FloatArray:
        """How much each voxel's volume grows on its way to the moving image, (X, Y, Z); below 0 it folds."""
        scale = np.linalg.det(self.matrix[:3, :3])
        if self.displacement_mm is None:
            return np.full(self.grid.shape, scale, np.float32)
        # By index, then by millimetre: the chain rule.
        by_index = np.stack(
            [
                np.stack(np.gradient(part), axis=-1) if min(part.shape) > 1 else np.zeros((*part.shape, 3))
                for part in self.displacement_mm
            ],
            axis=-2,
        )
        by_mm = by_index @ np.linalg.inv(self.grid.affine[:3, :3])
        determinants: FloatArray = (scale * np.linalg.det(np.eye(3) + by_mm)).astype(np.float32)
        return determinants
