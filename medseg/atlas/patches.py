"""Patches around voxels, as many at once: their means, and how alike they are."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["box_mean", "disputed", "offsets_within", "patch_statistics"]

FloatArray = npt.NDArray[np.float32]
_FLATTEST = 1e-3
"""Least standard deviation of a patch: below it is noise that must not be blown up."""
_AGREED = 1e-3


def offsets_within(radius: int) -> npt.NDArray[np.intp]:
    """Steps of up to ``radius`` voxels along each axis, ((2 radius + 1)^3, 3); the centre in the middle."""
    return np.array(list(itertools.product(range(-radius, radius + 1), repeat=3)), dtype=np.intp)


def box_mean(array: FloatArray, radius: int) -> FloatArray:
    """Mean over the patch around each voxel, along the last three axes; the border is continued.

    Example:
        >>> box_mean(np.arange(3.0, dtype=np.float32).reshape(3, 1, 1), 1).ravel().round(3).tolist()
        [0.3330000042915344, 1.0, 1.6670000553131104]
    """
    found = array
    for axis in range(array.ndim - 3, array.ndim):
        found = ndimage.uniform_filter1d(found, 2 * radius + 1, axis=axis, mode="nearest")
    return found


def patch_statistics(array: FloatArray, radius: int) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the patch around each voxel, along the last three axes."""
    mean = box_mean(array, radius)
    variance = box_mean(array * array, radius) - mean * mean
    return mean, np.sqrt(np.maximum(variance, _FLATTEST**2))


def disputed(probabilities: FloatArray) -> npt.NDArray[np.bool_]:
    """The voxels on which atlases differ, (X, Y, Z): elsewhere every weighting gives the same.

    Args:
        probabilities: (N, K, X, Y, Z).
    """
    spread: npt.NDArray[np.bool_] = (
        np.ptp(probabilities, axis=0).max(axis=0) > _AGREED  # over atlases, then over classes
    )
    return spread
