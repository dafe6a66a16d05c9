"""Joint label fusion: weights that heed how atlases err together.

H. Wang, J. W. Suh, S. R. Das, J. B. Pluta, C. Craige and P. A. Yushkevich, "Multi-atlas segmentation with
joint label fusion", IEEE TPAMI 35, 2013.

At each voxel the expected error of atlases i and j together is estimated from patches of intensities: with
d the absolute difference of an atlas's patch to the target's, M(i, j) = (mean of d_i d_j) ** beta. The
weights that make the expected error of the weighted mean least, and sum to one, are (M + alpha I)^-1 1,
scaled. Before that each atlas's most similar patch is looked for in the neighbourhood. Its labels count for
the voxels around the one in question as well, with the same weights: a voxel's label is the sum over all
patches that hold it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.atlas.patches import box_mean, disputed, offsets_within, patch_statistics
from medseg.components import bounding_box

__all__ = ["best_offsets", "joint_fusion", "joint_weights"]

FloatArray = npt.NDArray[np.float32]
_BYTES_AT_A_TIME = 1 << 23
"""What the patches of some voxels take: they stay in the processor's cache between two steps."""


def joint_fusion(
    target: FloatArray,
    images: FloatArray,
    probabilities: FloatArray,
    *,
    patch_radius: int = 2,
    search_radius: int = 1,
    vote_radius: int = 1,
    beta: int = 2,
    alpha: float = 0.1,
) -> FloatArray:
    """Fuse the labels of atlases by joint weights.

    Only voxels on which the atlases differ are worked on; elsewhere any weights give the same.

    Args:
        target: (X, Y, Z).
        images: (N, X, Y, Z).
        probabilities: (N, K, X, Y, Z).
        patch_radius: Voxels around one that make its patch.
        search_radius: How far around a voxel an atlas's most similar patch may lie.
        vote_radius: How far from a patch's centre its labels count.
        beta: Power of the joint errors.
        alpha: Added to the diagonal of their matrix.

    Returns:
        (K, X, Y, Z), of sum 1.
    """
    fused: FloatArray = probabilities.mean(axis=0)
    open_voxels = disputed(probabilities)
    box = bounding_box(open_voxels)
    if box is None:
        return fused
    inside = open_voxels[box]
    margin = max(patch_radius, vote_radius) + search_radius
    near_target, *_ = _cropped(target[np.newaxis], box, margin)
    near_images = _cropped(images, box, margin)
    shape = near_images.shape[1:]
    inner = tuple(slice(margin, margin + size) for size in inside.shape)
    first = np.full(3, margin) @ _strides(shape)
    centres = np.argwhere(inside) @ _strides(shape) + first
    steps = best_offsets(near_target, near_images, patch_radius, search_radius)[(slice(None), *inner)]
    found_at = centres + _flat_offsets(search_radius, shape)[steps[:, inside]]
    weights = joint_weights(near_target, near_images, centres, found_at, patch_radius, beta, alpha)
    labels = _cropped(probabilities, box, margin).reshape(*probabilities.shape[:2], -1).transpose(0, 2, 1)
    votes = _votes(
        weights, np.ascontiguousarray(labels), centres, found_at, _flat_offsets(vote_radius, shape)
    )
    fused[(slice(None), *box)][:, inside] = votes[centres].T
    np.maximum(fused, 0.0, out=fused)  # weights may be negative
    fused /= np.maximum(fused.sum(axis=0), np.finfo(np.float32).tiny)
    return fused


def _votes(
    weights: FloatArray,
    labels: FloatArray,
    centres: npt.NDArray[np.intp],
    found_at: npt.NDArray[np.intp],
    steps: npt.NDArray[np.intp],
) -> FloatArray:
    """Sum of all patches' weighted labels at each voxel, (V, K).

    Args:
        weights: (N, P), of P patches.
        labels: (N, V, K).
        centres: (P,), their flat indices in the target.
        found_at: (N, P), and in the atlases.
        steps: From a patch's centre to the voxels that its labels count for.
    """
    votes = np.zeros(labels.shape[1:], np.float32)
    for step in steps:
        here = np.zeros((len(centres), labels.shape[2]), np.float32)
        for weight, label, place in zip(weights, labels, found_at, strict=True):
            here += weight[:, np.newaxis] * label[place + step]
        votes[centres + step] += here  # each voxel but once: they differ as their centres do
    return votes


def best_offsets(
    target: FloatArray, images: FloatArray, patch_radius: int, search_radius: int
) -> npt.NDArray[np.uint8 | np.uint16]:
    """Where around each voxel each atlas's patch is most like the target's.

    Patches have their own mean and standard deviation taken out; of equal ones the nearest is taken.

    Args:
        target: (X, Y, Z).
        images: (N, X, Y, Z).
        patch_radius: Of the patches.
        search_radius: How far to look.

    Returns:
        (N, X, Y, Z), the number of the offset in ``offsets_within(search_radius)``. Within ``search_radius``
        of the border it is not to be relied on.
    """
    offsets = offsets_within(search_radius)
    # From the centre outwards, so that of two equally similar patches the nearer one stays.
    order = np.argsort(np.abs(offsets).sum(axis=1), kind="stable")
    mean, _ = patch_statistics(target, patch_radius)
    kind = np.min_scalar_type(len(offsets))
    best = np.full(images.shape, len(offsets) // 2, kind)
    for atlas, image in enumerate(images):
        means, deviations = patch_statistics(image, patch_radius)
        highest = np.full(target.shape, -np.inf, np.float32)
        for number in order:
            shift = tuple(-step for step in offsets[number])
            moved = np.roll(image, shift, axis=(0, 1, 2))
            together = box_mean(target * moved, patch_radius)
            together -= mean * np.roll(means, shift, axis=(0, 1, 2))
            together /= np.roll(deviations, shift, axis=(0, 1, 2))  # the target's own is the same for all
            better = together > highest
            np.copyto(highest, together, where=better)
            best[atlas][better] = number
    return best


def joint_weights(
    target: FloatArray,
    images: FloatArray,
    centres: npt.NDArray[np.intp],
    found_at: npt.NDArray[np.intp],
    patch_radius: int,
    beta: int,
    alpha: float,
) -> FloatArray:
    """Weights of the atlases at some voxels, (N, V), of sum 1; some may be negative.

    Args:
        target: (X, Y, Z).
        images: (N, X, Y, Z).
        centres: (V,), flat indices of voxels at least ``patch_radius`` from the border.
        found_at: (N, V), flat indices of the voxels whose patches are compared with theirs, as far from it.
        patch_radius: Of the patches.
        beta: Power of the joint errors.
        alpha: Added to the diagonal of their matrix.
    """
    count = len(images)
    steps = _flat_offsets(patch_radius, target.shape)
    flat, flat_target = images.reshape(count, -1), target.ravel()
    mean, deviation = (part.ravel() for part in patch_statistics(target, patch_radius))
    means, deviations = (part.reshape(count, -1) for part in patch_statistics(images, patch_radius))
    weights = np.empty((count, len(centres)), np.float32)
    ridge = alpha * np.eye(count, dtype=np.float32)
    at_a_time = max(1, _BYTES_AT_A_TIME // (4 * count * len(steps)))
    for start in range(0, len(centres), at_a_time):
        here = centres[start : start + at_a_time]
        wanted = (flat_target[here[:, None] + steps] - mean[here, None]) / deviation[here, None]
        errors = np.empty((len(here), count, len(steps)), np.float32)
        for atlas, there in enumerate(found_at[:, start : start + at_a_time]):
            patch = flat[atlas][there[:, None] + steps]
            patch -= means[atlas][there, None]
            patch /= deviations[atlas][there, None]
            np.abs(np.subtract(patch, wanted, out=patch), out=errors[:, atlas])
        together = errors @ errors.transpose(0, 2, 1)
        together /= len(steps)
        together **= beta
        together += ridge
        solved = np.linalg.solve(together, np.ones((count, 1), np.float32))[..., 0]
        weights[:, start : start + at_a_time] = (solved / solved.sum(axis=1, keepdims=True)).T
    return weights


def _flat_offsets(radius: int, shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """``offsets_within(radius)`` as steps between flat indices of an array."""
    flat: npt.NDArray[np.intp] = offsets_within(radius) @ _strides(shape)
    return flat


def _strides(shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """From one voxel to the next along each axis, in flat indices."""
    return np.array([shape[1] * shape[2], shape[2], 1], dtype=np.intp)


def _cropped(array: FloatArray, box: tuple[slice, ...], margin: int) -> FloatArray:
    """The part of an array within a box and a margin around it; beyond its border the border is continued."""
    found = array
    for axis, part in enumerate(box):
        place = array.ndim - len(box) + axis
        indices = np.arange(part.start - margin, part.stop + margin).clip(0, array.shape[place] - 1)
        found = found.take(indices, axis=place)
    return np.ascontiguousarray(found)
