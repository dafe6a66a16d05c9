"""How patches are turned on their grid, and how much must be read around them for that."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.runs import Augmentation

__all__ = ["augmentation_margin", "control_points", "thin_axes", "turning_planes", "within_turns"]

_ANISOTROPY = 2.0
"""Patches are not turned in a plane whose voxels are so much longer than wide: what would move from slice to
slice is made up between them."""

_PLANES = ((1, 2), (0, 2), (0, 1))
"""The plane of a turn about each axis."""

_INTERVALS = 4
"""Steps between control points along the longest side of a patch."""

_ANGLES = 25
"""Angles from one largest turn to the other, at which the reach of a patch is calculated."""

Array = npt.NDArray[np.float64]


def turning_planes(spacing_mm: Sequence[float]) -> tuple[bool, bool, bool]:
    """Whether patches are turned about each axis.

    Example:
        >>> turning_planes((0.7, 0.7, 8.0))
        (False, False, True)
    """
    x, y, z = (
        max(spacing_mm[a], spacing_mm[b]) < _ANISOTROPY * min(spacing_mm[a], spacing_mm[b])
        for a, b in _PLANES
    )
    return x, y, z


def thin_axes(spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """The axes within slices; all, where slices are not thick.

    Example:
        >>> thin_axes((0.7, 8.0, 0.7))
        (0, 2)
    """
    return tuple(axis for axis, step in enumerate(spacing_mm) if step < _ANISOTROPY * min(spacing_mm))


def within_turns(angles: npt.ArrayLike, factors: Sequence[float], spacing_mm: Sequence[float]) -> Array:
    """From voxel offsets in a patch to those in what is read: scaled, then turned in millimetres.

    Args:
        angles: About the three axes in radians, (..., 3); turned about the last axis first.
        factors: Along the three axes; above 1 more is read, and the content becomes smaller.
        spacing_mm: Of both.

    Returns:
        (..., 3, 3).

    Example:
        >>> within_turns([0.0, 0.0, math.pi / 2], (1.0, 1.0, 1.0), (1.0, 2.0, 1.0)).round(6) + 0.0
        array([[ 0. , -2. ,  0. ],
               [ 0.5,  0. ,  0. ],
               [ 0. ,  0. ,  1. ]])
    """
    turned = np.asarray(angles, dtype=np.float64)
    rotation = np.broadcast_to(np.eye(3), (*turned.shape[:-1], 3, 3))
    for axis, (first, second) in enumerate(_PLANES):
        cosine, sine = np.cos(turned[..., axis]), np.sin(turned[..., axis])
        about = np.broadcast_to(np.eye(3), rotation.shape).copy()
        about[..., first, first] = about[..., second, second] = cosine
        about[..., first, second], about[..., second, first] = -sine, sine
        rotation = rotation @ about
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    matrix: Array = rotation * (np.asarray(factors) * spacing) / spacing[:, None]
    return matrix


def control_points(
    patch_size: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Points along each axis that a deformation hangs on, and their distance in voxels.

    Their distances in millimetres are as equal as they can be.

    Example:
        >>> control_points((41, 57, 41), (1.0, 1.0, 1.0))
        ((6, 7, 6), (13.333333333333334, 14.0, 13.333333333333334))
    """
    sides = [(size - 1) * step for size, step in zip(patch_size, spacing_mm, strict=True)]
    wanted_mm = max(sides) / _INTERVALS
    intervals = [max(1, round(side / wanted_mm)) if wanted_mm else 1 for side in sides]
    x, y, z = (count + 3 for count in intervals)
    first, second, third = (
        min(max(sides) / _INTERVALS, side / count) / step
        for side, count, step in zip(sides, intervals, spacing_mm, strict=True)
    )
    return (x, y, z), (first, second, third)


def augmentation_margin(
    choice: Augmentation | None, patch_size: Sequence[int], spacing_mm: Sequence[float] | None = None
) -> tuple[int, int, int]:
    """Voxels around a patch, on either side, that cover whatever may be drawn.

    A single draw mostly needs less: ``PatchDraw.spatial.margin`` says how much.

    Args:
        choice: What will be drawn.
        patch_size: Voxels per axis.
        spacing_mm: Spacing per axis; equal along all of them if left out.

    Example:
        >>> augmentation_margin(Augmentation(rotation_degrees=0, elastic=0), (10, 20, 40))
        (1, 2, 4)
    """
    if choice is None or not choice.moves:
        return (0, 0, 0)
    spacing = (1.0, 1.0, 1.0) if spacing_mm is None else tuple(spacing_mm)
    halves = (np.asarray(patch_size, dtype=np.float64) - 1.0) / 2.0
    reach = halves.copy()
    if choice.spatial_probability > 0.0:
        largest = math.radians(choice.rotation_degrees)
        turns = [
            np.linspace(-largest, largest, _ANGLES) if t else np.zeros(1) for t in turning_planes(spacing)
        ]
        angles = np.array(list(itertools.product(*turns)))
        factors = (1.0 + choice.scale,) * 3
        reach = (np.abs(within_turns(angles, factors, spacing)) @ halves).max(axis=0)
        # Between two angles a corner reaches further than at either, by less than this.
        between = math.cos(largest / (_ANGLES - 1)) ** sum(turning_planes(spacing))
        still = np.array([axis not in _turned(spacing) for axis in range(3)])
        reach = np.maximum(np.where(still, reach, reach / between), halves)
    if choice.elastic_probability > 0.0:
        reach += choice.elastic * np.asarray(control_points(patch_size, spacing)[1])
    first, second, third = (max(0, math.ceil(edge - 1e-6)) for edge in reach - halves)
    return first, second, third


def _turned(spacing_mm: Sequence[float]) -> set[int]:
    return {
        axis
        for plane, turns in zip(_PLANES, turning_planes(spacing_mm), strict=True)
        if turns
        for axis in plane
    }
