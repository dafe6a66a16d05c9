"""Errors weighted by how far from a border they are: boundary and Hausdorff-distance-transform losses.

Distances are computed on the CPU, by SciPy, one transform each for the inside and the outside of every
class and image, each within the box where it is not zero. Nothing else in a training step grows so much
with the number of classes: count with half a second a class for a patch of 128³ voxels, and for the
Hausdorff loss, which looks at the prediction too, with up to three times that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from medseg.errors import ConfigError
from medseg.losses.functional.common import full_precision

__all__ = ["boundary_errors", "hausdorff_errors", "signed_distances"]


@torch.no_grad()
def signed_distances(
    masks: Tensor,
    spacing_mm: Sequence[float] | None = None,
    known: Tensor | None = None,
    *,
    without_border: float = 0.0,
) -> Tensor:
    """How far each voxel is from the other side of a structure's border, negative inside.

    Both sides are measured alike: to the centre of the nearest voxel of the other side, so that the two
    classes of a pair see the same distances.

    Args:
        masks: Booleans, shape (B, C, X, Y[, Z]).
        spacing_mm: Size of a voxel along each axis; one if not given, so that the distances are in voxels.
        known: Where it is known which side a voxel is on, booleans of shape (B, 1, X, Y[, Z]). Others are
            no voxel's nearest; their own distances mean nothing.
        without_border: The distance where there is no other side: the structure is absent, or everywhere.

    Returns:
        Float32, shape (B, C, X, Y[, Z]), on the masks' device.

    Raises:
        ConfigError: There is not one spacing per axis.

    Example:
        >>> signed_distances(torch.tensor([[[[False, True, True, False]]]]), (1.0, 2.0)).tolist()
        [[[[2.0, -2.0, -2.0, 2.0]]]]
    """
    dims = masks.dim() - 2
    spacing = (1.0,) * dims if spacing_mm is None else tuple(float(size) for size in spacing_mm)
    if len(spacing) != dims:
        raise ConfigError(
            f"{len(spacing)} spacings for {dims} axes", where="spacing_mm", fix="give one in mm for each axis"
        )
    inside = masks.cpu().numpy()
    certain = np.ones_like(inside[:, :1]) if known is None else known.cpu().numpy()
    distances = np.empty(inside.shape, dtype=np.float32)
    for image, channel in np.ndindex(*inside.shape[:2]):
        mask, sure = inside[image, channel], certain[image, 0]
        if (mask & sure).any() and (~mask & sure).any():
            distances[image, channel] = _distance_to(mask & sure, spacing)
            distances[image, channel] -= _distance_to(~mask & sure, spacing)
        else:
            distances[image, channel] = np.where(mask, -without_border, without_border)
    return torch.from_numpy(distances).to(masks.device)


def boundary_errors(
    probabilities: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """The boundary loss of every class: the mean over voxels of φ (p - t), φ the signed distance.

    Of the paper's integrals, which differ by a constant, it is the one that is zero where p = t: no error
    is negative, and those far from the border weigh most. Where a class is absent, or everywhere, the
    distance is the image's diagonal, so that what is invented far from anything does not go free.

    Args:
        probabilities: p, shape (B, C, X, Y[, Z]).
        target: t, memberships from 0 to 1 of the same shape; the border is where they pass 1/2.
        weight_map: Shape (B, 1, X, Y[, Z]), for a weighted mean. Where it is zero a voxel is neither
            counted nor measured to, as if it were not there.
        spacing_mm: As in :func:`signed_distances`.

    Returns:
        Shape (B, C), in millimetres, or in voxels without spacing.

    Example:
        >>> p = torch.tensor([[[[1.0, 0.0, 0.0, 0.5]]]])
        >>> boundary_errors(p, torch.tensor([[[[True, False, False, False]]]])).item()  # 3 · 0.5 / 4
        0.375

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019.
    """
    p = full_precision(probabilities)
    distances = _distances_of_target(target, spacing_mm, weight_map)
    return _mean_over_space(distances.to(p.dtype) * (p - target.to(p.dtype)), weight_map)


def hausdorff_errors(
    probabilities: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    alpha: float = 2.0,
) -> Tensor:
    """The Hausdorff loss of every class: the mean over voxels of (p - t)² (d_p^alpha + d_t^alpha).

    d_t is the distance to the target's border, d_p that to the border of where p is above 1/2, which has
    no gradient. A prediction without border adds nothing; a target without counts with the image's
    diagonal.

    Args:
        probabilities: p, shape (B, C, X, Y[, Z]).
        target: As in :func:`boundary_errors`.
        weight_map: As in :func:`boundary_errors`.
        spacing_mm: As in :func:`signed_distances`.
        alpha: How much more far errors count than near ones; the paper takes 2.

    Returns:
        Shape (B, C), in millimetres (or voxels) to the power of ``alpha``.

    Example:
        >>> p = torch.tensor([[[[1.0, 0.0, 0.0, 0.4]]]])
        >>> round(hausdorff_errors(p, torch.tensor([[[[1, 0, 0, 0]]]])).item(), 4)  # 0.16 · (9 + 9) / 4
        0.72

    References:
        Karimi, Salcudean, Reducing the Hausdorff distance in medical image segmentation with convolutional
        neural networks, IEEE TMI 39(2), 2020.
    """
    p = full_precision(probabilities)
    of_target = _distances_of_target(target, spacing_mm, weight_map)
    of_prediction = signed_distances(p.detach() > 0.5, spacing_mm, _known(weight_map))
    far = of_target.abs().to(p.dtype).pow(alpha) + of_prediction.abs().to(p.dtype).pow(alpha)
    return _mean_over_space((p - target.to(p.dtype)).square() * far, weight_map)


def _distances_of_target(
    target: Tensor, spacing_mm: Sequence[float] | None, weight_map: Tensor | None
) -> Tensor:
    size = target.shape[2:]
    diagonal = math.hypot(
        *(n * step for n, step in zip(size, spacing_mm or (1.0,) * len(size), strict=False))
    )
    masks = target if target.dtype == torch.bool else target > 0.5
    return signed_distances(masks, spacing_mm, _known(weight_map), without_border=diagonal)


def _known(weight_map: Tensor | None) -> Tensor | None:
    return None if weight_map is None else weight_map > 0


def _mean_over_space(values: Tensor, weight_map: Tensor | None) -> Tensor:
    space = tuple(range(2, values.dim()))
    if weight_map is None:
        return values.mean(space)
    weights = full_precision(weight_map)
    return (values * weights).sum(space) / weights.sum(space).clamp_min(torch.finfo(values.dtype).tiny)


def _distance_to(voxels: npt.NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Distance of each voxel to the nearest of ``voxels``, of which there is one at least.

    It is zero at those, so that only the box around the others is looked at, one voxel larger: whichever
    voxel outside is nearest, one of the box's own margin is no farther.
    """
    distances = np.zeros(voxels.shape)
    box = ndimage.find_objects((~voxels).view(np.uint8))
    if box:
        grown = tuple(slice(max(0, along.start - 1), along.stop + 1) for along in box[0])
        distances[grown] = ndimage.distance_transform_edt(~voxels[grown], sampling=spacing_mm)
    return distances
