"""Resizing along one axis, the positions being those of the whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseg.ranges import Interpolation

__all__ = ["resize_axis"]

_CUBIC = -0.75
"""The coefficient of PyTorch's cubic kernel."""


def resize_axis(images: Tensor, dim: int, needs: Interpolation, start: int, stop: int, first: int) -> Tensor:
    """Slices [start, stop) along ``dim`` of a resized whole.

    Args:
        images: Slices from ``first`` on of what is resized; all that :meth:`Interpolation.reads` names.
        dim: The axis.
        needs: How it is resized.
        start: First slice wanted.
        stop: Behind the last one.
        first: Which slice of the whole is the first of ``images``.
    """
    length = needs.input_length
    if needs.mode.startswith("nearest"):
        chosen = [min(needs.needs(index, index + 1)[0], length - 1) - first for index in range(start, stop)]
        return images.index_select(dim, torch.tensor(chosen, device=images.device))
    positions = _positions(needs, start, stop)
    below = positions.floor()
    weight = positions - below
    taps = (-1, 0, 1, 2) if needs.mode == "cubic" else (0, 1)
    weights = _cubic(weight) if needs.mode == "cubic" else [1.0 - weight, weight]
    shape = [1] * images.ndim
    shape[dim] = -1
    result: Tensor | None = None
    for tap, share in zip(taps, weights, strict=True):
        if not share.any():
            continue
        index = ((below.long() + tap).clamp_(0, length - 1) - first).clamp_(0, images.shape[dim] - 1)
        part = images.index_select(dim, index.to(images.device)) * share.to(images).reshape(shape)
        result = part if result is None else result.add_(part)
    if result is None:
        raise AssertionError  # weights sum to one
    return result


def _positions(needs: Interpolation, start: int, stop: int) -> Tensor:
    """Where output slices lie among input slices, in double precision."""
    index = torch.arange(start, stop, dtype=torch.float64)
    if needs.align_corners:
        return index * float(needs.scale)
    positions = (index + 0.5) * float(needs.scale) - 0.5
    return positions if needs.mode == "cubic" else positions.clamp_(0.0, math.inf)


def _cubic(weight: Tensor) -> list[Tensor]:
    def near(x: Tensor) -> Tensor:
        return ((_CUBIC + 2.0) * x - (_CUBIC + 3.0)) * x * x + 1.0

    def far(x: Tensor) -> Tensor:
        return ((_CUBIC * x - 5.0 * _CUBIC) * x + 8.0 * _CUBIC) * x - 4.0 * _CUBIC

    return [far(weight + 1.0), near(weight), near(1.0 - weight), far(2.0 - weight)]
