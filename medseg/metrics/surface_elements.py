"""What the surface of a mask consists of, and how much each piece of it weighs.

Two definitions. By **area**, the surface runs through the cells of the dual grid, whose corners are the
centres of 2 x 2 (x 2) voxels; a cell that is neither all inside nor all outside holds one element of the
surface, of which the cell's code (a bit for each corner) tells the area. By **voxels**, the surface is the
voxels of the mask that have a face neighbour outside, each of weight 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["boundary_voxels", "cell_codes", "element_areas"]

Corner = tuple[int, ...]
Codes = npt.NDArray[np.uint8]


def cell_codes(mask: npt.NDArray[np.bool_]) -> Codes:
    """Number the cells of the dual grid by which of their corners are inside; beyond the mask is outside.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).

    Returns:
        One voxel more along each axis: cell i lies between voxels i - 1 and i. The corner at the cell's
        lower ends is the lowest bit, the last axis changes fastest. Cells without surface, all outside or
        all inside, are 0.

    Example:
        >>> cell_codes(np.array([[True, True]])).tolist()
        [[8, 12, 4], [2, 3, 1]]
    """
    codes = np.pad(mask, 1).view(np.uint8)
    for axis in reversed(range(mask.ndim)):
        lower, upper = _lower(codes, axis), _upper(codes, axis)
        codes = upper << np.uint8(1 << (mask.ndim - 1 - axis))
        codes |= lower
    codes *= codes != (1 << (1 << mask.ndim)) - 1
    return codes


def boundary_voxels(mask: npt.NDArray[np.bool_]) -> Codes:
    """Mark with 1 the voxels of a mask that have a face neighbour outside; beyond the mask is outside.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).

    Returns:
        The mask's shape.

    Example:
        >>> boundary_voxels(np.ones((3, 3), bool)).tolist()
        [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    """
    inner = mask.copy()
    for axis in range(mask.ndim):
        lower, upper = _lower(inner, axis), _upper(inner, axis)
        lower &= _upper(mask, axis)
        upper &= _lower(mask, axis)
        for end in (0, -1):
            np.moveaxis(inner, axis, 0)[end] = False
    return (mask ^ inner).view(np.uint8)


@lru_cache(maxsize=64)
def element_areas(spacing_mm: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """The area of a cell's piece of surface, by the cell's code: marching cubes at the level one half.

    Corners inside that are not joined along edges are cut off each by itself; where more than half of the
    corners are inside, the outside is cut off instead, so that a mask and its complement have the same
    surface (Lorensen 1987, as weighed by Nikolov 2018, arXiv:1809.04430).

    Args:
        spacing_mm: Two or three spacings, in millimetres.

    Returns:
        Shape (16,), lengths in mm, or (256,), areas in mm^2; read-only. 0 for cells without surface.

    Example:
        >>> element_areas((2.0, 3.0))[[0b0101, 0b0011, 0b1111]].tolist()
        [2.0, 3.0, 0.0]
    """
    ndim = len(spacing_mm)
    corners = list(itertools.product((0, 1), repeat=ndim))
    face_areas = np.prod(spacing_mm) / np.asarray(spacing_mm)
    areas = np.zeros(1 << len(corners))
    for code in range(1, len(areas) - 1):
        inside = {corner for bit, corner in enumerate(corners) if code >> bit & 1}
        minority = inside if 2 * len(inside) <= len(corners) else set(corners) - inside
        pieces = (piece for part in _parts(minority) for piece in _pieces(part, ndim))
        areas[code] = sum(float(np.linalg.norm(piece * face_areas)) for piece in pieces)
    areas.flags.writeable = False
    return areas


def _parts(corners: set[Corner]) -> Iterator[list[Corner]]:
    """The corners in groups that are joined along edges of the cell."""
    left = set(corners)
    while left:
        part = [left.pop()]
        for corner in part:  # grows while it is walked
            joined = [other for other in left if _edge_axis(corner, other) is not None]
            left.difference_update(joined)
            part.extend(joined)
        yield part


def _pieces(part: Sequence[Corner], ndim: int) -> list[npt.NDArray[np.float64]]:
    """Area vectors of the flat pieces that cut off joined corners, in units of the cell's faces.

    The pieces end in the middle of the cell's edges. Signs are left out: lengths alone matter, and scaling
    each component by a face's area keeps them right for any spacing.
    """
    axes = np.eye(ndim)
    triangle = np.full(ndim, 0.5 ** (2 * ndim - 3))  # cuts off a single corner; in 2D, a line
    pairs = itertools.combinations(part, 2)
    edges = [(axis, pair) for pair in pairs if (axis := _edge_axis(*pair)) is not None]
    along = np.sum([axes[axis] for axis, _ in edges], axis=0) if edges else np.zeros(ndim)
    if not edges:
        return [triangle]
    if len(edges) == 1:  # a rectangle along the edge; in 2D, a straight line
        return [(1 - along) * 0.5 ** (ndim - 2)]
    if len(edges) == 2:  # an L: a triangle parallel to its plane, and a trapezoid
        return [(1 - along) * 0.5, 3 * triangle]
    if len(edges) == 4:  # a face: the plane halfway
        return [np.equal(along, 0).astype(np.float64)]
    joints = [corner for corner in part if sum(corner in pair for _, pair in edges) > 1]
    if len(joints) == 1:  # a corner and its three neighbours: a regular hexagon
        return [6 * triangle]
    # A path along all three axes: a rectangle of the six points' widest plane, and a triangle at either end.
    middle = next(axis for axis, pair in edges if set(pair) == set(joints))
    ends = [axis for axis in range(ndim) if axis != middle]
    return [4 * triangle, *((axes[middle] + axes[end]) / 4 for end in ends)]


def _edge_axis(one: Corner, other: Corner) -> int | None:
    """The axis of the edge between two corners, if there is one."""
    differing = [axis for axis, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return differing[0] if len(differing) == 1 else None


def _lower(array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return array[(slice(None),) * axis + (slice(None, -1),)]


def _upper(array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return array[(slice(None),) * axis + (slice(1, None),)]
