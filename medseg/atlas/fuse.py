"""Label fusion: the labels of several atlases on one image become one.

All ways take and give class probabilities, so that no atlas's partial volumes are rounded away. ``majority``
is the mean; ``local`` weighs each atlas at each voxel by the likeness of the patches around it
(X. Artaechevarria et al., IEEE TMI 28, 2009); ``staple`` estimates how reliable each atlas is; ``joint``
heeds that atlases err together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.atlas.choices import FusionChoice
from medseg.atlas.joint import joint_fusion
from medseg.atlas.patches import box_mean, patch_statistics
from medseg.atlas.staple import staple
from medseg.errors import GeometryError

__all__ = ["fuse", "local_fusion", "local_weights", "majority"]

FloatArray = npt.NDArray[np.float32]
_LEAST = 1e-6


def fuse(
    target: FloatArray, images: FloatArray, probabilities: FloatArray, choice: FusionChoice
) -> FloatArray:
    """Class probabilities of a target image.

    Args:
        target: (X, Y, Z), intensities standardised.
        images: (N, X, Y, Z), the atlases' images on the target's grid.
        probabilities: (N, K, X, Y, Z), their class probabilities there.
        choice: How.

    Returns:
        (K, X, Y, Z), of sum 1.

    Raises:
        GeometryError: Shapes differ, or there is no atlas.
    """
    _require_shapes(target, images, probabilities)
    if choice.method == "majority" or len(images) == 1:
        return majority(probabilities)
    if choice.method == "staple":
        return staple(probabilities).probabilities
    if choice.method == "local":
        return local_fusion(target, images, probabilities, choice)
    return joint_fusion(
        target,
        images,
        probabilities,
        patch_radius=choice.patch_radius,
        search_radius=choice.search_radius,
        vote_radius=choice.vote_radius,
        beta=choice.beta,
        alpha=choice.alpha,
    )


def majority(probabilities: FloatArray) -> FloatArray:
    """The mean of the atlases: each has one vote.

    Args:
        probabilities: (N, K, X, Y, Z).

    Example:
        >>> votes = np.asarray([[1, 0], [1, 0], [0, 1]], np.float32).reshape(3, 2, 1, 1, 1)
        >>> majority(votes).ravel().round(2).tolist()
        [0.6700000166893005, 0.33000001311302185]
    """
    mean: FloatArray = probabilities.mean(axis=0)
    return mean


def local_fusion(
    target: FloatArray, images: FloatArray, probabilities: FloatArray, choice: FusionChoice
) -> FloatArray:
    """The mean of the atlases, weighted at each voxel; see ``local_weights``."""
    weights = local_weights(target, images, choice.patch_radius, choice.beta)
    fused: FloatArray = np.einsum("nxyz,nkxyz->kxyz", weights, probabilities, optimize=True)
    return fused


def local_weights(target: FloatArray, images: FloatArray, patch_radius: int, beta: int) -> FloatArray:
    """Weights of the atlases at each voxel, (N, X, Y, Z), of sum 1.

    An atlas weighs the mean squared difference of its patch to the target's to the power of ``-beta``; each
    patch has its own mean and standard deviation taken out. This is what joint fusion would give if no two
    atlases erred together.
    """
    mean, deviation = patch_statistics(target, patch_radius)
    means, deviations = patch_statistics(images, patch_radius)
    together = box_mean(images * target, patch_radius) - means * mean
    difference = 2.0 - 2.0 * together / (deviations * deviation)
    log_weights = -beta * np.log(np.maximum(difference, _LEAST))
    log_weights -= log_weights.max(axis=0)
    weights = np.exp(log_weights)
    normalized: FloatArray = (weights / weights.sum(axis=0)).astype(np.float32)
    return normalized


def _require_shapes(target: FloatArray, images: FloatArray, probabilities: FloatArray) -> None:
    count = len(images)
    if count == 0 or probabilities.ndim != 5:
        raise GeometryError("no atlas is given" if count == 0 else "probabilities are not (N, K, X, Y, Z)")
    for what, shape in (("images", images.shape[1:]), ("probabilities", probabilities.shape[2:])):
        if shape != target.shape:
            raise GeometryError(f"the atlases' {what} are {shape}, the target is {target.shape}")
    if len(probabilities) != count:
        raise GeometryError(f"{count} images and {len(probabilities)} label maps are given")
