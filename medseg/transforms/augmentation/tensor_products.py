"""Functions of three coordinates that are sums of products of functions of one, on the voxels of a patch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cubic_spline_weights", "plane_products", "power_weights", "tensor_product"]


def tensor_product(coefficients: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Sum over l, m, n of c[l, m, n] first[x, l] second[y, m] third[z, n].

    Args:
        coefficients: Shape (L, M, N).
        first: Shape (X, L).
        second: Shape (Y, M).
        third: Shape (Z, N).

    Returns:
        Shape (X, Y, Z).

    Example:
        >>> ramp = torch.tensor([[0.0], [1.0]])
        >>> tensor_product(torch.full((1, 1, 1), 2.0), ramp, ramp + 1.0, ramp + 3.0)[1]
        tensor([[ 6.,  8.],
                [12., 16.]])
    """
    planes = plane_products(coefficients, second, third)
    return (first @ planes).reshape(len(first), len(second), len(third))


def plane_products(coefficients: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """The part of a tensor product that every slice along the first axis shares, (L, Y * Z)."""
    rows = coefficients @ third.T  # (L, M, Z)
    return torch.matmul(second, rows).flatten(1)


def cubic_spline_weights(voxels: int, points: int, *, mirrored: bool = False) -> Tensor:
    """Weights of control points at each voxel, of a cubic B-spline over a patch.

    Args:
        voxels: Along the axis.
        points: Control points; the second lies at the first voxel, the last but one at the last voxel.
        mirrored: Whether voxels are counted from the end.

    Returns:
        float32 (voxels, points); each row sums to 1.

    Example:
        >>> cubic_spline_weights(2, 4)
        tensor([[0.1667, 0.6667, 0.1667, 0.0000],
                [0.0000, 0.1667, 0.6667, 0.1667]])
    """
    intervals = points - 3
    place = torch.linspace(0.0, intervals, voxels) if voxels > 1 else torch.full((1,), intervals / 2)
    if mirrored:
        place = place.flip(0)
    # At each voxel a point weighs what the spline's bump, four steps wide, has at their distance.
    distance = (place[:, None] + 1.0 - torch.arange(points)).abs()
    near = 2.0 / 3.0 - distance**2 * (1.0 - distance / 2.0)
    far = (2.0 - distance).clamp(min=0.0) ** 3 / 6.0
    return torch.where(distance < 1.0, near, far)


def power_weights(voxels: int, order: int) -> Tensor:
    """Powers 0 to ``order`` of positions from -1 to 1, float32 (voxels, order + 1).

    Example:
        >>> power_weights(3, 2)
        tensor([[ 1., -1.,  1.],
                [ 1.,  0.,  0.],
                [ 1.,  1.,  1.]])
    """
    place = torch.linspace(-1.0, 1.0, voxels) if voxels > 1 else torch.zeros(1)
    return place[:, None] ** torch.arange(order + 1)
