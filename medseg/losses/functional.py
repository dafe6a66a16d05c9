"""Losses as pure functions of class scores, targets and an optional weight for every voxel.

MONAI has the same losses without weights for voxels; its results are the tests' oracle. Scores come as
the network gives them, in any precision: half precisions are computed in float32, where sums over a
million voxels still count each one. Targets given as class indices are never spelt out as one channel a
class.

Shapes are (B, C, X, Y[, Z]) for what has a channel per class, (B, 1, X, Y[, Z]) for class indices and
weight maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.errors import ConfigError, InputError
from medseg.registry import did_you_mean

__all__ = [
    "REDUCTIONS",
    "binary_cross_entropy",
    "check_reduction",
    "class_masks",
    "cross_entropy",
    "deep_supervision_weights",
    "full_precision",
    "nearest_resize",
    "soft_dice",
    "soft_dice_loss",
]

REDUCTIONS = ("mean", "none", "sum")
"""How a loss becomes one number; ``"none"`` leaves it as it is."""


def check_reduction(reduction: str, choices: Sequence[str] = REDUCTIONS) -> str:
    """Return ``reduction`` if it is one of ``choices``.

    Raises:
        ConfigError: It is not.
    """
    if reduction not in choices:
        raise ConfigError(
            f"unknown reduction '{reduction}'", where="reduction", fix=did_you_mean(reduction, choices)
        )
    return reduction


def full_precision(values: Tensor) -> Tensor:
    """``values`` in at least float32, ready to be summed."""
    return values if values.dtype == torch.float64 else values.float()


def class_masks(target: Tensor, classes: int) -> Tensor:
    """Where each class is.

    Args:
        target: Class indices, shape (B, 1, X, Y[, Z]), of any number type.
        classes: How many classes there are.

    Returns:
        Booleans, shape (B, classes, X, Y[, Z]).

    Raises:
        InputError: The target has more than one channel or holds an index that is no class.

    Example:
        >>> class_masks(torch.tensor([[[[0, 1, 2]]]]), 3).int().squeeze().tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    _check_indices(target, classes)
    shape = (1, classes) + (1,) * (target.dim() - 2)
    return target.long() == torch.arange(classes, device=target.device).view(shape)


def soft_dice(
    probabilities: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    *,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Tensor:
    """Soft Dice of every class: (2 Σ w p t + smooth_nr) / (Σ w p + Σ w t + smooth_dr).

    Args:
        probabilities: p, shape (B, C, X, Y[, Z]).
        target: t, class indices of shape (B, 1, X, Y[, Z]), or memberships from 0 to 1 (booleans too) of
            shape (B, C, X, Y[, Z]); one channel for one is a membership.
        weight_map: w, shape (B, 1, X, Y[, Z]); one everywhere if not given.
        batch: Whether to sum over the batch as if it were one image.
        smooth_nr: Added above.
        smooth_dr: Added below, so that nothing is divided by zero.

    Returns:
        Shape (B, C), or (1, C) with ``batch``.

    Raises:
        InputError: The target holds an index that is no class.

    Example:
        >>> p = torch.tensor([[[[1.0, 0.5, 0.0, 0.0]]]])
        >>> t = torch.tensor([[[[True, True, False, False]]]])
        >>> round(soft_dice(p, t).item(), 3)
        0.857

    References:
        Milletari et al., V-Net, 3DV 2016.
    """
    p = full_precision(probabilities)
    weights = None if weight_map is None else full_precision(weight_map)
    space = tuple(range(2, p.dim()))
    if p.shape[1] > 1 and target.shape[1] == 1:
        common, reference = _sums_by_index(p, target, weights)
    else:
        common = _weighted(p * target, weights).sum(space)
        reference = _weighted(target, weights).sum(space)
    predicted = _weighted(p, weights).sum(space)
    if batch:
        common, predicted, reference = (sums.sum(0, keepdim=True) for sums in (common, predicted, reference))
    return (2.0 * common + smooth_nr) / (predicted + reference + smooth_dr)


def soft_dice_loss(
    probabilities: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    *,
    include_background: bool = True,
    batch: bool = False,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Tensor:
    """One minus the soft Dice, over classes and batch.

    Args:
        probabilities: Shape (B, C, X, Y[, Z]).
        target: As in :func:`soft_dice`.
        weight_map: Shape (B, 1, X, Y[, Z]).
        include_background: Whether channel 0 counts.
        batch: Whether the batch is one image.
        class_weights: One factor for each class that counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        smooth_nr: As in :func:`soft_dice`.
        smooth_dr: As in :func:`soft_dice`.

    Returns:
        One number; with ``"none"`` shape (B, C, 1, 1[, 1]), B being 1 with ``batch``.

    Raises:
        InputError: The target holds an index that is no class; or the background is to be left out and
            there is nothing else.
    """
    check_reduction(reduction)
    values = 1.0 - soft_dice(
        probabilities, target, weight_map, batch=batch, smooth_nr=smooth_nr, smooth_dr=smooth_dr
    )
    if not include_background:
        if values.shape[1] == 1:
            raise InputError(
                "has one channel, and the background is to be left out",
                where="input",
                fix="pass include_background=True",
            )
        values = values[:, 1:]
    if class_weights is not None:
        values = values * class_weights.to(values)
    if reduction == "none":
        return values.reshape(*values.shape, *(1,) * (probabilities.dim() - 2))
    return values.mean() if reduction == "mean" else values.sum()


def cross_entropy(
    log_probabilities: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    *,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy, minus Σ_c w_c t_c log p_c at each voxel, times its weight w(x).

    ``"sum"`` is the energy of the U-Net paper. ``"mean"`` divides it by the sum of all weights
    w(x)·w_c, as torch does with class weights, so that the loss keeps its scale whatever part of an
    image counts; where no voxel counts it is zero.

    Args:
        log_probabilities: Shape (B, C, X, Y[, Z]).
        target: Class indices, shape (B, 1, X, Y[, Z]), or memberships, shape (B, C, X, Y[, Z]).
        weight_map: w, shape (B, 1, X, Y[, Z]).
        class_weights: w_c, shape (C,).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        One number; with ``"none"`` shape (B, 1, X, Y[, Z]).

    Raises:
        InputError: The target holds an index that is no class.

    References:
        Ronneberger, Fischer, Brox, U-Net, MICCAI 2015, equation 1.
    """
    check_reduction(reduction)
    log_p = full_precision(log_probabilities)
    factors = None if class_weights is None else class_weights.to(log_p)
    if target.shape[1] == log_p.shape[1] and log_p.shape[1] > 1:
        memberships = full_precision(target)
        if factors is not None:
            memberships = memberships * factors.view(-1, *(1,) * (log_p.dim() - 2))
        values = -(memberships * log_p).sum(1, keepdim=True)
        weights = memberships.sum(1, keepdim=True)
    else:
        _check_indices(target, log_p.shape[1])
        indices = target.long()
        values = -log_p.gather(1, indices)
        weights = torch.ones_like(values) if factors is None else factors[indices]
        values = values * weights
    return _reduce(values, weights, weight_map, reduction)


def binary_cross_entropy(
    logits: Tensor,
    memberships: Tensor,
    weight_map: Tensor | None = None,
    *,
    positive_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of every channel on its own, for classes that may overlap.

    Args:
        logits: Shape (B, C, X, Y[, Z]).
        memberships: Same shape, booleans or numbers from 0 to 1.
        weight_map: Shape (B, 1, X, Y[, Z]).
        positive_weights: Factors of the positive part, shape (C,).
        reduction: ``"mean"`` (over voxels, weighted, and channels), ``"sum"`` or ``"none"``.

    Returns:
        One number; with ``"none"`` shape (B, C, X, Y[, Z]).
    """
    check_reduction(reduction)
    scores = full_precision(logits)
    factors = None
    if positive_weights is not None:
        factors = positive_weights.to(scores).view(-1, *(1,) * (scores.dim() - 2))
    values = functional.binary_cross_entropy_with_logits(
        scores, memberships.to(scores.dtype), reduction="none", pos_weight=factors
    )
    return _reduce(values, torch.ones_like(values), weight_map, reduction)


def deep_supervision_weights(levels: int) -> tuple[float, ...]:
    """Weights of the levels, the finest first: each half of the one before, together one.

    Example:
        >>> [round(weight, 3) for weight in deep_supervision_weights(3)]
        [0.571, 0.286, 0.143]
    """
    halves = [0.5**level for level in range(levels)]
    return tuple(half / sum(halves) for half in halves)


def nearest_resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Take the nearest voxel, by centres, on a grid of ``size`` voxels over the same extent.

    Works on every number type, integers and booleans as well.

    Args:
        values: Shape (B, C, X, Y[, Z]).
        size: The new X, Y[, Z].

    Example:
        >>> nearest_resize(torch.arange(6).view(1, 1, 1, 6), (1, 3)).flatten().tolist()
        [1, 3, 5]
    """
    for axis, (old, new) in enumerate(zip(values.shape[2:], size, strict=True), start=2):
        if old != new:
            centres = (torch.arange(new, device=values.device, dtype=torch.float64) + 0.5) * (old / new)
            values = values.index_select(axis, centres.long().clamp_(max=old - 1))
    return values


def _reduce(values: Tensor, weights: Tensor, weight_map: Tensor | None, reduction: str) -> Tensor:
    """Reduce ``values``, which hold ``weights`` already, with those of ``weight_map`` on top."""
    if weight_map is not None:
        voxels = full_precision(weight_map)
        values, weights = values * voxels, weights * voxels
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    return values.sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def _weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights


def _sums_by_index(p: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Σ w p t and Σ w t of each class, shape (B, C) both, of class indices.

    Each voxel adds to its own class's sum alone, so that no mask a class is made, which is several times
    faster. It adds in float64: one after another, float32 stops counting at 2^24 voxels.
    """
    _check_indices(target, p.shape[1])
    indices = target.long()
    own = p.gather(1, indices)
    counts = torch.ones_like(own) if weights is None else weights.to(own.dtype).expand_as(own)
    zeros = p.new_zeros(p.shape[:2], dtype=torch.float64)
    flat = indices.flatten(1)
    common = zeros.scatter_add(1, flat, _weighted(own, weights).flatten(1).double())
    reference = zeros.scatter_add(1, flat, counts.flatten(1).double())
    return common.to(p.dtype), reference.to(p.dtype)


def _check_indices(target: Tensor, classes: int) -> None:
    """Refuse what are not class indices below ``classes``."""
    if target.shape[1] != 1:
        raise InputError(
            f"has {target.shape[1]} channels, class indices have one",
            where="target",
            fix=f"pass class indices (B, 1, ...), or {classes} channels with to_onehot_y=False",
        )
    if target.numel() == 0:
        return
    least, most = (int(value) for value in torch.aminmax(target))
    if least < 0 or most >= classes:
        raise InputError(
            f"holds labels {least} to {most}, the input has {classes} channels",
            where="target",
            fix=f"use labels 0 to {classes - 1}, or a network with more output channels",
        )
