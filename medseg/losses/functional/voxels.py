"""Cross-entropy of every voxel; with a focus on the hard ones it is focal, of the hardest alone top-k."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medseg.losses.functional.common import check_indices, full_precision, per_channel, reduce_voxels
from medseg.processes import gather_from_processes, sum_over_processes

__all__ = ["binary_cross_entropy", "cross_entropy"]


def cross_entropy(
    log_probabilities: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    *,
    class_weights: Tensor | None = None,
    gamma: float = 0.0,
    fraction: float = 1.0,
    reduction: str = "mean",
    over_processes: bool = False,
) -> Tensor:
    """Cross-entropy, minus Σ_c w_c t_c (1 - p_c)^gamma log p_c at each voxel, times its weight w(x).

    ``"sum"`` is the energy of the U-Net paper. ``"mean"`` divides it by the sum of all weights
    w(x)·w_c, as torch does with class weights, so that the loss keeps its scale whatever part of an
    image counts; where no voxel counts it is zero.

    Args:
        log_probabilities: Shape (B, C, X, Y[, Z]).
        target: Class indices, shape (B, 1, X, Y[, Z]), or memberships, shape (B, C, X, Y[, Z]).
        weight_map: w, shape (B, 1, X, Y[, Z]).
        class_weights: w_c, shape (C,).
        gamma: How much less a voxel counts that is nearly right; 0 is plain cross-entropy, more is the
            focal loss.
        fraction: Which part of the voxels that count at all is taken, those with the highest values of the
            whole batch (and their equals).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        over_processes: Whether each process has a part of the batch; the mean of their losses is then that of
            the whole batch.

    Returns:
        One number; with ``"none"`` shape (B, 1, X, Y[, Z]), zero where a voxel is not taken.

    Raises:
        InputError: The target holds an index that is no class.

    Example:
        >>> log_p = torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]]).log()
        >>> target = torch.tensor([[[[0, 1]]]])
        >>> cross_entropy(log_p, target, torch.tensor([[[[1.0, 0.0]]]])).item() == -log_p[0, 0, 0, 0].item()
        True

    References:
        Ronneberger, Fischer, Brox, U-Net, MICCAI 2015, equation 1. Lin et al., Focal loss for dense object
        detection, ICCV 2017. Wu, Shen, van den Hengel, Bridging category-level and instance-level semantic
        image segmentation, 2016 (the hardest voxels).
    """
    log_p = full_precision(log_probabilities)
    factors = None if class_weights is None else class_weights.to(log_p)
    if target.shape[1] == log_p.shape[1] and log_p.shape[1] > 1:
        memberships = full_precision(target)
        if factors is not None:
            memberships = memberships * per_channel(factors, log_p.dim())
        values = (memberships * _focal(log_p, gamma)).sum(1, keepdim=True)
        weights = memberships.sum(1, keepdim=True)
    else:
        check_indices(target, log_p.shape[1])
        indices = target.long()
        values = _focal(log_p.gather(1, indices), gamma)
        weights = torch.ones_like(values) if factors is None else factors[indices]
        values = values * weights
    return _reduce(values, weights, weight_map, fraction, reduction, over_processes)


def binary_cross_entropy(
    logits: Tensor,
    memberships: Tensor,
    weight_map: Tensor | None = None,
    *,
    positive_weights: Tensor | None = None,
    gamma: float = 0.0,
    fraction: float = 1.0,
    reduction: str = "mean",
    over_processes: bool = False,
) -> Tensor:
    """Cross-entropy of every channel on its own, for classes that may overlap.

    Args:
        logits: Shape (B, C, X, Y[, Z]).
        memberships: Same shape, booleans or numbers from 0 to 1.
        weight_map: Shape (B, 1, X, Y[, Z]).
        positive_weights: Factors of the positive part, shape (C,).
        gamma: As in :func:`cross_entropy`.
        fraction: As in :func:`cross_entropy`, of voxels and channels.
        reduction: ``"mean"`` (over voxels, weighted, and channels), ``"sum"`` or ``"none"``.
        over_processes: As in :func:`cross_entropy`.

    Returns:
        One number; with ``"none"`` shape (B, C, X, Y[, Z]).

    Example:
        >>> logits, labels = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0, 1]]]])
        >>> round(binary_cross_entropy(logits, labels, gamma=2.0).item(), 4)  # 0.5^2 · log 2
        0.1733
    """
    scores = full_precision(logits)
    t = memberships.to(scores.dtype)
    log_p, log_not_p = functional.logsigmoid(scores), functional.logsigmoid(-scores)
    positive, negative = -t * log_p, (t - 1.0) * log_not_p
    if positive_weights is not None:
        positive = positive * per_channel(positive_weights.to(scores), scores.dim())
    if gamma != 0.0:
        # Powers by their logarithms: those of a sigmoid lose no digits and have gradients for any gamma.
        positive, negative = positive * (gamma * log_not_p).exp(), negative * (gamma * log_p).exp()
    values = positive + negative
    return _reduce(values, torch.ones_like(values), weight_map, fraction, reduction, over_processes)


def _focal(log_p: Tensor, gamma: float) -> Tensor:
    """Minus (1 - p)^gamma log p."""
    if gamma == 0.0:
        return -log_p
    # Below one the power's slope at p = 1 is infinite, and times the logarithm's zero not a number.
    rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -rest.pow(gamma) * log_p


def _reduce(
    values: Tensor,
    weights: Tensor,
    weight_map: Tensor | None,
    fraction: float,
    reduction: str,
    over_processes: bool,
) -> Tensor:
    """Reduce the hardest of ``values``, which hold ``weights`` already, with ``weight_map`` on top."""
    if weight_map is not None:
        voxels = full_precision(weight_map)
        values, weights = values * voxels, weights * voxels
    if fraction < 1.0:
        taken = _hardest(values.detach(), weights.detach(), fraction, over_processes)
        values, weights = values * taken, weights * taken
    return reduce_voxels(values, weights, reduction, over_processes=over_processes)


def _hardest(values: Tensor, weights: Tensor, fraction: float, over_processes: bool) -> Tensor:
    """Where a voxel is among the hardest; those alike the last of them are too, wherever they lie."""
    of_all = values.flatten()
    counted = (weights > 0).sum()
    if over_processes:
        of_all, counted = gather_from_processes(of_all).flatten(), sum_over_processes(counted)
    count = max(1, round(fraction * int(counted)))
    # Voxels that do not count have the least value there is, zero.
    return values >= of_all.kthvalue(of_all.numel() - count + 1).values
