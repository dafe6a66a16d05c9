"""Connected components of masks, and how far those of two masks are apart."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg.metrics.contingency import Contingency

__all__ = ["ROUNDING", "Connectivity", "bounding_box", "centroid_distances", "components", "voxel_distances"]

Connectivity = Literal["faces", "edges", "corners"]

ROUNDING = 1e-9
"""Relative: what lies at a limit counts as within it, whatever the spacing's rounding."""


def components(
    mask: npt.NDArray[np.bool_], connectivity: Connectivity, smallest_voxels: float
) -> npt.NDArray[np.int32]:
    """Number the connected components of a mask; those that are too small become background.

    Args:
        mask: Of any shape, such as (X, Y, Z).
        connectivity: Voxels are neighbours if they share a face, at least an edge, or at least a corner.
        smallest_voxels: The smallest size that is kept.

    Returns:
        Of the mask's shape, 0 for background. Components keep the numbers that ``scipy.ndimage.label`` gave
        them before any was taken out.

    Example:
        >>> components(np.array([True, False, True, True]), "faces", smallest_voxels=2).tolist()
        [0, 0, 2, 2]
    """
    rank = get_args(Connectivity).index(connectivity) + 1
    numbers = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, rank), output=numbers)
    if smallest_voxels <= 1:
        return numbers
    sizes = np.bincount(numbers.ravel())
    kept = np.where(sizes >= smallest_voxels, np.arange(len(sizes)), 0)
    return kept.astype(np.int32)[numbers]


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds all of a mask; the whole grid where the mask is empty.

    Example:
        >>> bounding_box(np.array([False, True, True, False]))
        (slice(1, 3, None),)
    """
    if not mask.any():
        return (slice(None),) * mask.ndim
    return ndimage.find_objects(mask.view(np.uint8))[0]


def voxel_distances(
    pred_numbers: npt.NDArray[np.int32],
    ref_numbers: npt.NDArray[np.int32],
    table: Contingency,
    spacing_mm: npt.NDArray[np.float64],
    within_mm: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How far the nearest voxels of a predicted and a reference component are apart, centre to centre.

    Distances from each reference component are computed in its bounding box, grown by ``within_mm``.

    Args:
        pred_numbers: Components of the prediction, shape (X, Y, Z).
        ref_numbers: Components of the reference, of the same shape.
        table: The contingency of both.
        spacing_mm: Shape (3,).
        within_mm: Pairs farther apart may be left out.

    Returns:
        The pairs' positions in the table, shape (N, 2), and their distances in mm, shape (N,).
    """
    reach = np.minimum(np.ceil(within_mm / spacing_mm * (1 + ROUNDING)), ref_numbers.shape).astype(int)
    extents = ndimage.find_objects(ref_numbers) if len(table.ref_ids) else []
    pairs: list[tuple[int, int]] = []
    distances: list[float] = []
    for own, number in enumerate(table.ref_ids.tolist()):
        box = tuple(
            slice(max(axis.start - grow, 0), axis.stop + grow)
            for axis, grow in zip(extents[number - 1], reach.tolist(), strict=True)
        )
        around = pred_numbers[box]
        others = np.unique(around[around > 0])
        if len(others) == 0:
            continue
        to_lesion = ndimage.distance_transform_edt(ref_numbers[box] != number, sampling=spacing_mm)
        pairs.extend((other, own) for other in np.searchsorted(table.pred_ids, others).tolist())
        distances.extend(ndimage.minimum(to_lesion, around, others).tolist())
    return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(distances)


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
