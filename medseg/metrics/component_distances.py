"""How far the connected components of two masks are apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from medseg.metrics.contingency import Contingency

__all__ = ["ROUNDING", "centroid_distances", "voxel_distances"]

ROUNDING = 1e-9
"""Relative: what lies at a limit counts as within it, whatever the spacing's rounding."""


def voxel_distances(
    pred_numbers: npt.NDArray[np.int32],
    ref_numbers: npt.NDArray[np.int32],
    table: Contingency,
    spacing_mm: npt.NDArray[np.float64],
    within_mm: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How far the nearest voxels of a predicted and a reference component are apart, centre to centre.

    Args:
        pred_numbers: Components of the prediction, shape (X, Y, Z).
        ref_numbers: Components of the reference, of the same shape.
        table: The contingency of both.
        spacing_mm: Shape (3,).
        within_mm: Pairs farther apart may be left out; the fewer are left, the faster.

    Returns:
        The pairs' positions in the table, shape (N, 2), and their distances in mm, shape (N,).
    """
    pairs: list[tuple[int, int]] = [(int(pred), int(ref)) for pred, ref in table.pairs]
    distances = [0.0] * len(pairs)
    overlapping = set(pairs)
    if len(table.pred_ids) == 0 or len(table.ref_ids) == 0:
        return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(distances)
    preds = _Surfaces(pred_numbers, table.pred_ids, spacing_mm)
    refs = _Surfaces(ref_numbers, table.ref_ids, spacing_mm)
    for ref in range(len(table.ref_ids)):
        gaps = np.maximum(preds.lower_mm - refs.upper_mm[ref], refs.lower_mm[ref] - preds.upper_mm)
        apart = np.linalg.norm(np.maximum(gaps, 0), axis=1)
        for pred in np.flatnonzero(apart <= within_mm * (1 + ROUNDING)).tolist():
            if (pred, ref) not in overlapping:
                pairs.append((pred, ref))
                distances.append(_smallest_distance(preds.tree(pred), refs.tree(ref)))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(distances)


class _Surfaces:
    """The voxels of each component that have a face outside of it, as trees, and the boxes around them."""

    def __init__(
        self,
        numbers: npt.NDArray[np.int32],
        present: npt.NDArray[np.int64],
        spacing_mm: npt.NDArray[np.float64],
    ) -> None:
        extents = ndimage.find_objects(numbers)
        self._numbers = numbers
        self._present = present.tolist()
        self._spacing_mm = spacing_mm
        self._extents = [extents[number - 1] for number in self._present]
        self._trees: dict[int, cKDTree] = {}
        self.lower_mm = np.array([[axis.start for axis in box] for box in self._extents]) * spacing_mm
        self.upper_mm = np.array([[axis.stop - 1 for axis in box] for box in self._extents]) * spacing_mm

    def tree(self, position: int) -> cKDTree:
        """The centres of the surface's voxels, in mm."""
        if position not in self._trees:
            mask = self._numbers[self._extents[position]] == self._present[position]
            surface = np.argwhere(mask & ~ndimage.binary_erosion(mask))
            self._trees[position] = cKDTree(surface * self._spacing_mm + self.lower_mm[position])
        return self._trees[position]


def _smallest_distance(one: cKDTree, other: cKDTree) -> float:
    """Between any point of one set and any of another."""
    if one.n > other.n:
        one, other = other, one
    # Going back and forth a few times ends near the closest places: few points are left to be looked at then.
    point, bound = one.data[0], np.inf
    for _ in range(3):
        point = other.data[other.query(point)[1]]
        distance, nearest = one.query(point)
        point, bound = one.data[nearest], float(distance)
    distances, _ = other.query(one.data, distance_upper_bound=bound)
    return min(bound, float(np.min(distances)))


def centroid_distances(
    pred_numbers: npt.NDArray[np.int32],
    ref_numbers: npt.NDArray[np.int32],
    table: Contingency,
    spacing_mm: npt.NDArray[np.float64],
    within_mm: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How far the centroids of a predicted and a reference component are apart; see ``voxel_distances``."""
    pred = _centroids(pred_numbers, table.pred_ids) * spacing_mm
    ref = _centroids(ref_numbers, table.ref_ids) * spacing_mm
    distances = cdist(pred, ref)
    pairs = np.argwhere(distances <= within_mm * (1 + ROUNDING))
    return pairs, distances[tuple(pairs.T)]


def _centroids(numbers: npt.NDArray[np.int32], present: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Shape (N, 3), in voxels, of the components that are present."""
    places = np.nonzero(numbers)
    owners = numbers[places]
    sizes = np.bincount(owners)[present]
    sums = [np.bincount(owners, weights=axis)[present] for axis in places]
    return np.stack(sums, axis=1) / sizes[:, None]
