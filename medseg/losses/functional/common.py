"""What the losses' functions share: precision, class indices, and how values become one number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.errors import ConfigError, InputError, did_you_mean
from medseg.processes import process_count, sum_over_processes

__all__ = [
    "REDUCTIONS",
    "check_indices",
    "check_not_negative",
    "check_reduction",
    "class_masks",
    "full_precision",
    "per_channel",
    "reduce_classes",
    "reduce_voxels",
    "weigh_classes",
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
            f"unknown reduction '{reduction}'", where="reduction", fix=did_you_mean(str(reduction), choices)
        )
    return reduction


def check_not_negative(**numbers: float) -> None:
    """Refuse numbers below zero, by the names they are given under.

    Raises:
        ConfigError: One is negative, or not a number.
    """
    for name, number in numbers.items():
        if not number >= 0.0:
            raise ConfigError(f"{number} is not 0 or more", where=name, fix="give 0 or more")


def full_precision(values: Tensor) -> Tensor:
    """``values`` in at least float32, ready to be summed."""
    return values if values.dtype == torch.float64 else values.float()


def per_channel(factors: Tensor, dimensions: int) -> Tensor:
    """Factors of shape (C,) as (C, 1, 1[, 1]), to be multiplied with a tensor of ``dimensions`` axes."""
    return factors.view(-1, *(1,) * (dimensions - 2))


def check_indices(target: Tensor, classes: int) -> None:
    """Refuse what are not class indices below ``classes``.

    Raises:
        InputError: The target has more than one channel or holds an index that is no class.
    """
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
            f"holds labels {least} to {most}, the input tells {classes} classes apart",
            where="target",
            fix=f"use labels 0 to {classes - 1}, name one to leave out as ignore_index, or take a network "
            "of more channels",
        )


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
    check_indices(target, classes)
    return target.long() == per_channel(torch.arange(classes, device=target.device), target.dim())


def weigh_classes(values: Tensor, class_weights: Tensor | None) -> Tensor:
    """Values of shape (B, C) times one factor a class, where there are factors."""
    return values if class_weights is None else values * class_weights.to(values)


def reduce_classes(values: Tensor, reduction: str = "mean", *, spatial_dims: int = 3) -> Tensor:
    """Make one number of one value per image and class.

    Args:
        values: Shape (B, C).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        spatial_dims: How many axes of length one follow with ``"none"``.

    Returns:
        One number; with ``"none"`` shape (B, C, 1, 1[, 1]).

    Example:
        >>> reduce_classes(torch.tensor([[1.0, 3.0]])).item()
        2.0
    """
    check_reduction(reduction)
    if reduction == "none":
        return values.reshape(*values.shape, *(1,) * spatial_dims)
    return values.mean() if reduction == "mean" else values.sum()


def reduce_voxels(
    values: Tensor, weights: Tensor, reduction: str = "mean", *, over_processes: bool = False
) -> Tensor:
    """Make one number of weighted values.

    Args:
        values: Already times their weights.
        weights: Same shape.
        reduction: ``"mean"`` (over the weights; zero where all are), ``"sum"`` or ``"none"``.
        over_processes: Whether each process has a part of the batch; what they get is on average what one
            process would of the whole batch.

    Returns:
        One number, or ``values``.
    """
    check_reduction(reduction)
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum() * (process_count() if over_processes else 1)
    total = weights.sum()
    if over_processes:
        total = sum_over_processes(total) / process_count()
    return values.sum() / total.clamp_min(torch.finfo(values.dtype).tiny)
