"""A statistical shape model: the mean shape of labelled structures, and the ways in which they vary.

M. E. Leventon, W. E. L. Grimson and O. Faugeras, "Statistical shape influence in geodesic active contours",
CVPR 2000; for several structures at once as in A. Tsai et al., "A shape-based approach to the segmentation of
medical imagery using level sets", IEEE TMI 22, 2003. The atlases are laid upon each other by affine
registration; what is left in their signed distance maps is shape, and principal components describe it. To a
map of class probabilities the pose and the components are fitted together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.atlas.arrays import read_arrays, write_arrays
from medseg.atlas.transform import Transform
from medseg.components import bounding_box
from medseg.errors import BundleError, InputError
from medseg.geometry import Grid
from medseg.volume import Volume

__all__ = ["ShapeModel", "signed_distances"]

FloatArray = npt.NDArray[np.float32]
_FILE = "shape.npz"
_NO_VARIATION = 1e-6


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Signed distance maps: their mean, and their principal components.

    Attributes:
        grid: On which they lie, around the structures.
        mean: (K - 1, X, Y, Z), in millimetres, negative within the structure, for each class but the
            background.
        modes: (M, K - 1, X, Y, Z), each scaled to one standard deviation, the strongest first.
        explained: (M,), the part of the variance that each mode explains.
    """

    grid: Grid
    mean: FloatArray
    modes: FloatArray
    explained: npt.NDArray[np.float64]

    def distances(self, coefficients: npt.NDArray[np.floating]) -> FloatArray:
        """The signed distance maps of a shape, (K - 1, X, Y, Z).

        Args:
            coefficients: (M,), in standard deviations.
        """
        bent = np.tensordot(coefficients.astype(np.float32), self.modes, axes=1)
        found: FloatArray = self.mean + bent
        return found

    def coefficients_of(self, distances: FloatArray) -> npt.NDArray[np.float64]:
        """The coefficients whose shape is nearest to signed distance maps on the model's grid, (M,)."""
        modes = self.modes.reshape(len(self.modes), -1).astype(np.float64)
        off = (distances - self.mean).ravel().astype(np.float64)
        return np.asarray(modes @ off / np.maximum((modes**2).sum(axis=1), _NO_VARIATION))

    @classmethod
    def build(
        cls,
        labels: Sequence[npt.NDArray[Any]],
        transforms: Sequence[Transform],
        grids: Sequence[Grid],
        classes: int,
        *,
        modes: int = 20,
        reach_mm: float = 8.0,
    ) -> ShapeModel:
        """Learn the shapes of atlases.

        Args:
            labels: Class indices of each atlas, (X, Y, Z).
            transforms: From a common template to each atlas; what bends in them is left out, since it is what
                the model shall describe.
            grids: Of each atlas.
            classes: Number of classes, background first.
            modes: How many to keep at most.
            reach_mm: Distances are cut off there: how far away a structure is says nothing of its shape.

        Raises:
            InputError: Fewer than two atlases.
        """
        if len(labels) < 2:
            raise InputError("one atlas shows no variation of shape", fix="give two or more")
        maps = []
        for indices, transform, grid in zip(labels, transforms, grids, strict=True):
            stiff = Transform(transform.grid, transform.matrix)
            own = Volume(signed_distances(indices, classes, grid.spacing_mm, reach_mm), grid)
            maps.append(stiff.apply(own).array)
        stacked = np.stack(maps)
        box = bounding_box(stacked.min(axis=(0, 1)) < reach_mm)
        if box is None:
            raise InputError("no atlas holds a structure", fix="give atlases that are labelled")
        cropped = stacked[(slice(None), slice(None), *box)]
        grid = transforms[0].grid.cropped([part.start for part in box], [part.stop for part in box])
        mean = cropped.mean(axis=0)
        off = (cropped - mean).reshape(len(cropped), -1)
        # The small matrix between atlases has the components of the large one between voxels.
        values, vectors = np.linalg.eigh((off @ off.T).astype(np.float64) / (len(off) - 1))
        strongest = np.argsort(-values)[: min(modes, len(off) - 1)]
        strongest = strongest[values[strongest] > _NO_VARIATION * max(values.max(), _NO_VARIATION)]
        directions = vectors[:, strongest].T @ off / np.sqrt(len(off) - 1)
        return cls(
            grid,
            mean.astype(np.float32),
            directions.reshape(len(strongest), *mean.shape).astype(np.float32),
            values[strongest] / max(values.sum(), _NO_VARIATION),
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder."""
        write_arrays(
            Path(folder) / _FILE,
            affine=self.grid.affine,
            mean=self.mean,
            modes=self.modes,
            explained=self.explained,
        )

    @classmethod
    def open(cls, folder: str | os.PathLike[str], classes: int) -> ShapeModel:
        """What ``save`` wrote.

        Raises:
            BundleError: The file is missing, damaged, or of another number of classes.
        """
        path = Path(folder) / _FILE
        arrays = read_arrays(path, "affine", "mean", "modes", "explained")
        mean, modes = arrays["mean"], arrays["modes"]
        if mean.ndim != 4 or len(mean) != classes - 1 or modes.shape[1:] != mean.shape:
            raise BundleError(f"does not fit itself, or {classes} classes", where=path, fix="fit it anew")
        return cls(Grid(mean.shape[1:], arrays["affine"]), mean, modes, arrays["explained"])


def signed_distances(
    indices: npt.NDArray[Any], classes: int, spacing_mm: Sequence[float], reach_mm: float
) -> FloatArray:
    """How far each voxel is from the border of each class but the background, negative within it.

    Args:
        indices: Class of each voxel, (X, Y, Z).
        classes: Number of classes.
        spacing_mm: Of the voxels.
        reach_mm: Larger distances are cut off; a class that is missing is everywhere that far away.

    Returns:
        (K - 1, X, Y, Z), in millimetres. The border lies halfway between voxels.

    Example:
        >>> line = np.array([0, 0, 1, 1, 0]).reshape(5, 1, 1)
        >>> signed_distances(line, 2, (1.0, 1.0, 1.0), 9.0).ravel().tolist()
        [1.5, 0.5, -0.5, -0.5, 0.5]
    """
    found = np.full((classes - 1, *indices.shape), reach_mm, np.float32)
    half = min(spacing_mm) / 2.0
    for index in range(1, classes):
        mask = indices == index
        if mask.any():
            outside = np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing_mm)) - half
            inside = np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing_mm)) - half
            found[index - 1] = np.where(mask, -inside, outside) if not mask.all() else -reach_mm
    return np.clip(found, -reach_mm, reach_mm)
