"""Overlap of regions: Dice, Jaccard, Tversky and generalised Dice, all of the same three sums over voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.errors import ConfigError, did_you_mean
from medseg.losses.functional.common import check_indices, full_precision
from medseg.processes import sum_over_processes

__all__ = [
    "CLASS_WEIGHTINGS",
    "RegionSums",
    "check_weighting",
    "generalized_dice",
    "region_sums",
    "soft_dice",
    "soft_jaccard",
    "soft_tversky",
]

CLASS_WEIGHTINGS = ("simple", "square", "uniform")
"""How generalised Dice weights a class: by one over its volume, over that squared, or all alike."""


@dataclass(frozen=True, eq=False)
class RegionSums:
    """Sums over voxels of probabilities p and memberships t with weights w, each of shape (B, C).

    Attributes:
        common: Σ w p t.
        predicted: Σ w p, or Σ w p².
        reference: Σ w t, or Σ w t².
    """

    common: Tensor
    predicted: Tensor
    reference: Tensor

    def without_background(self) -> RegionSums:
        """The sums of all channels but the first."""
        return RegionSums(self.common[:, 1:], self.predicted[:, 1:], self.reference[:, 1:])

    def over_processes(self) -> RegionSums:
        """The sums of all processes' batches, of which each has one row."""
        return RegionSums(
            *sum_over_processes(torch.stack([self.common, self.predicted, self.reference])).unbind()
        )


def region_sums(
    probabilities: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    *,
    batch: bool = False,
    squared: bool = False,
) -> RegionSums:
    """Sum over the voxels what every measure of overlap is made of.

    Args:
        probabilities: p, shape (B, C, X, Y[, Z]).
        target: t, class indices of shape (B, 1, X, Y[, Z]), or memberships from 0 to 1 (booleans too) of
            shape (B, C, X, Y[, Z]); one channel for one is a membership.
        weight_map: w, shape (B, 1, X, Y[, Z]); one everywhere if not given.
        batch: Whether to sum over the batch as if it were one image; the sums then have shape (1, C).
        squared: Whether ``predicted`` and ``reference`` are of squares, as in the V-Net paper.

    Raises:
        InputError: The target holds an index that is no class.

    Example:
        >>> p = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
        >>> sums = region_sums(p, torch.tensor([[[[True, True, False, False]]]]))
        >>> sums.common.item(), sums.predicted.item(), sums.reference.item()
        (1.5, 1.5, 2.0)
    """
    p = full_precision(probabilities)
    weights = None if weight_map is None else full_precision(weight_map)
    space = tuple(range(2, p.dim()))
    if p.shape[1] > 1 and target.shape[1] == 1:
        common, reference = _sums_by_index(p, target, weights)
    else:
        t = target.to(p.dtype)
        common = _weighted(p * t, weights).sum(space)
        reference = _weighted(t.square() if squared else t, weights).sum(space)
    predicted = _weighted(p.square() if squared else p, weights).sum(space)
    if batch:
        common, predicted, reference = (sums.sum(0, keepdim=True) for sums in (common, predicted, reference))
    return RegionSums(common, predicted, reference)


def soft_dice(sums: RegionSums, *, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Tensor:
    """Soft Dice of every class: (2 common + smooth_nr) / (predicted + reference + smooth_dr).

    Args:
        sums: Of :func:`region_sums`.
        smooth_nr: Added above.
        smooth_dr: Added below, so that nothing is divided by zero.

    Returns:
        Shape (B, C).

    Example:
        >>> p = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
        >>> t = torch.tensor([[[[True, True, False, False]]]])
        >>> round(soft_dice(region_sums(p, t)).item(), 3)
        0.857

    References:
        Milletari et al., V-Net, 3DV 2016.
    """
    return (2.0 * sums.common + smooth_nr) / (sums.predicted + sums.reference + smooth_dr)


def soft_tversky(
    sums: RegionSums, alpha: float, beta: float, *, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5
) -> Tensor:
    """Tversky index of every class: common over common + alpha · invented + beta · missed.

    Args:
        sums: Of :func:`region_sums`.
        alpha: Price of what is predicted and not there (false positives).
        beta: Price of what is there and not predicted (false negatives).
        smooth_nr: Added above.
        smooth_dr: Added below.

    Returns:
        Shape (B, C).

    Example:
        >>> p = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
        >>> t = torch.tensor([[[[True, True, False, False]]]])
        >>> round(soft_tversky(region_sums(p, t), alpha=0.3, beta=0.7).item(), 3)
        0.811

    References:
        Salehi, Erdogmus, Gholipour, Tversky loss function for image segmentation using 3D fully
        convolutional deep networks, MLMI 2017.
    """
    invented, missed = sums.predicted - sums.common, sums.reference - sums.common
    return (sums.common + smooth_nr) / (sums.common + alpha * invented + beta * missed + smooth_dr)


def soft_jaccard(sums: RegionSums, *, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Tensor:
    """Soft Jaccard index (intersection over union) of every class, shape (B, C).

    Args:
        sums: Of :func:`region_sums`.
        smooth_nr: Added above.
        smooth_dr: Added below.

    Example:
        >>> p = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
        >>> t = torch.tensor([[[[True, True, False, False]]]])
        >>> round(soft_jaccard(region_sums(p, t)).item(), 3)
        0.75
    """
    return soft_tversky(sums, 1.0, 1.0, smooth_nr=smooth_nr, smooth_dr=smooth_dr)


def generalized_dice(
    sums: RegionSums,
    weighting: str = "square",
    *,
    class_weights: Tensor | None = None,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Tensor:
    """Dice of all classes together, each with a weight that makes up for its volume.

    A class that is absent has the weight of the smallest one that is present. The weights are scaled so
    that the largest is one: as they are, of a structure of a million voxels they are 1e-12, and what is
    added for smoothing would be all that is left.

    Args:
        sums: Of :func:`region_sums`.
        weighting: One of :data:`CLASS_WEIGHTINGS`.
        class_weights: Further factors, shape (C,).
        smooth_nr: Added above.
        smooth_dr: Added below.

    Returns:
        Shape (B, 1).

    Raises:
        ConfigError: The weighting is unknown.

    Example:
        >>> p = torch.tensor([[[[0.5, 1.0, 1.0, 1.0]], [[0.5, 0.0, 0.0, 0.0]]]])
        >>> sums = region_sums(p, torch.tensor([[[[1, 0, 0, 0]]]]))
        >>> round(generalized_dice(sums).item(), 3)
        0.75

    References:
        Sudre et al., Generalised Dice overlap as a deep learning loss function for highly unbalanced
        segmentations, DLMIA 2017.
    """
    weights = _class_volume_weights(sums.reference.detach(), weighting)
    if class_weights is not None:
        weights = weights * class_weights.to(weights)
    common = (weights * sums.common).sum(1, keepdim=True)
    both = (weights * (sums.predicted + sums.reference)).sum(1, keepdim=True)
    return (2.0 * common + smooth_nr) / (both + smooth_dr)


def check_weighting(weighting: str, choices: Sequence[str] = CLASS_WEIGHTINGS) -> str:
    """Return ``weighting`` if it is one of ``choices``.

    Raises:
        ConfigError: It is not.
    """
    if weighting not in choices:
        raise ConfigError(
            f"unknown weighting '{weighting}'", where="w_type", fix=did_you_mean(str(weighting), choices)
        )
    return weighting


def _class_volume_weights(volumes: Tensor, weighting: str) -> Tensor:
    """Weights of classes of these volumes, shape (B, C), the largest of each image being one."""
    if check_weighting(weighting) == "uniform":
        return torch.ones_like(volumes)
    present = volumes > 0
    smallest = volumes.where(present, torch.inf).amin(1, keepdim=True)
    # Where no class is present, no voxel counts: any weight will do.
    ratio = (smallest / volumes).where(present, 1.0)
    return ratio if weighting == "simple" else ratio.square()


def _weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights


def _sums_by_index(p: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Σ w p t and Σ w t of each class, shape (B, C) both, of class indices.

    Each voxel adds to its own class's sum alone, so that no mask a class is made, which is several times
    faster. It adds in float64: one after another, float32 stops counting at 2^24 voxels.
    """
    check_indices(target, p.shape[1])
    indices = target.long()
    own = p.gather(1, indices)
    counts = torch.ones_like(own) if weights is None else weights.to(own.dtype).expand_as(own)
    zeros = p.new_zeros(p.shape[:2], dtype=torch.float64)
    flat = indices.flatten(1)
    common = zeros.scatter_add(1, flat, _weighted(own, weights).flatten(1).double())
    reference = zeros.scatter_add(1, flat, counts.flatten(1).double())
    return common.to(p.dtype), reference.to(p.dtype)
