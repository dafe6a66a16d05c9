"""Axis-aligned boxes in 2D and 3D: overlap, suppression of duplicates, boxes of instance maps.

A box is its two corners, (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1), in voxels or in millimetres, all
boxes alike. It is half-open: the box of voxels 2, 3 and 4 reaches from 2 to 5. Its upper corner lies above
its lower one along each axis: a box without volume is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import require_spacing
from medseg.errors import ConfigError, InputError
from medseg.metrics.contingency import compact_ids

__all__ = [
    "box_iou",
    "boxes_of_instances",
    "check_boxes",
    "check_scores",
    "generalised_box_iou",
    "non_maximum_suppression",
]

Floats = npt.NDArray[np.float64]


def box_iou(boxes: npt.ArrayLike, others: npt.ArrayLike) -> Floats:
    """Intersection over union of each box with each other one.

    Args:
        boxes: Shape (N, 4) or (N, 6), corners as (x0, y0[, z0], x1, y1[, z1]).
        others: Shape (M, 4) or (M, 6).

    Returns:
        Shape (N, M), 0 to 1. Without boxes, an array without rows or columns.

    Raises:
        InputError: Floats of another shape, not finite, or without volume.

    Example:
        >>> box_iou([[0, 0, 4, 4]], [[0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 5, 5]]).round(3).tolist()
        [[1.0, 0.333, 0.0]]
    """
    boxes, others = _pair(boxes, others)
    shared, union = _shared_and_union(boxes, others)
    return shared / union


def generalised_box_iou(boxes: npt.ArrayLike, others: npt.ArrayLike) -> Floats:
    """Intersection over union, less the part of the common hull that neither box covers.

    It tells boxes far apart from boxes nearly touching (Rezatofighi 2019, arXiv:1902.09630).

    Args:
        boxes: Shape (N, 4) or (N, 6), corners as (x0, y0[, z0], x1, y1[, z1]).
        others: Shape (M, 4) or (M, 6).

    Returns:
        Shape (N, M), above -1 up to 1; never above the plain IoU.

    Raises:
        InputError: Floats of another shape, not finite, or without volume.

    Example:
        >>> generalised_box_iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [2, 0, 4, 2], [4, 0, 6, 2]]).round(3).tolist()
        [[1.0, 0.0, -0.333]]
    """
    boxes, others = _pair(boxes, others)
    shared, union = _shared_and_union(boxes, others)
    axes = boxes.shape[1] // 2
    lower = np.minimum(boxes[:, None, :axes], others[None, :, :axes])
    upper = np.maximum(boxes[:, None, axes:], others[None, :, axes:])
    hull = (upper - lower).prod(axis=-1)
    generalised: Floats = shared / union - (hull - union) / hull
    return generalised


def non_maximum_suppression(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    iou_threshold: float = 0.5,
    *,
    classes: npt.ArrayLike | None = None,
) -> npt.NDArray[np.intp]:
    """Keep the best of boxes that cover the same thing.

    By descending score, each box is kept unless one that is kept already overlaps it by more than the
    threshold. Boxes of equal score go in the order of the input.

    Args:
        boxes: Shape (N, 4) or (N, 6), corners as (x0, y0[, z0], x1, y1[, z1]).
        scores: Shape (N,), higher is better.
        iou_threshold: Floats are duplicates above this IoU, from 0 to 1.
        classes: Shape (N,), the class of each box: boxes of different classes never suppress each other.

    Returns:
        The positions of the boxes kept, by descending score; empty where there are none.

    Raises:
        InputError: Floats, scores or classes of the wrong shape or not finite, boxes without volume.
        ConfigError: The threshold is none.

    Example:
        >>> boxes = [[0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]]
        >>> non_maximum_suppression(boxes, [0.8, 0.9, 0.1]).tolist()
        [1, 2]
        >>> non_maximum_suppression(boxes, [0.8, 0.9, 0.1], classes=[1, 2, 2]).tolist()
        [1, 0, 2]
    """
    boxes = check_boxes(boxes, where="boxes")
    scores = check_scores(scores, len(boxes))
    if not 0 <= iou_threshold <= 1:
        raise ConfigError(f"{iou_threshold} is no threshold of IoU", where="iou_threshold", fix="use 0 to 1")
    groups = np.zeros(len(boxes)) if classes is None else np.asarray(classes)
    if groups.shape != scores.shape:
        raise InputError(
            f"{groups.size} classes do not fit {len(boxes)} boxes",
            where="classes",
            fix="give one for each box",
        )
    waiting = np.argsort(-scores, kind="stable")
    kept = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        shared, union = _shared_and_union(boxes[best : best + 1], boxes[waiting])
        duplicate = (shared / union)[0] > iou_threshold
        waiting = waiting[~duplicate | (groups[waiting] != groups[best])]
    return np.array(kept, dtype=np.intp)


def boxes_of_instances(
    instances: npt.NDArray[Any], spacing_mm: Sequence[float] | None = None
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The smallest box around each instance of a map.

    Args:
        instances: Instance ids, shape (X, Y) or (X, Y, Z); 0 is background.
        spacing_mm: The voxels' size along each axis, for boxes in millimetres from the outer corner of the
            first voxel; left out, boxes are in voxels.

    Returns:
        The N ids, increasing, and their boxes, shape (N, 4) or (N, 6), half-open.

    Raises:
        InputError: An array of other dimensions, ids that are negative or not whole.
        GeometryError: Not one positive spacing for each axis.

    Example:
        >>> ids, boxes = boxes_of_instances(np.array([[0, 7, 7], [0, 7, 0], [3, 0, 0]]))
        >>> ids.tolist(), boxes.tolist()
        ([3, 7], [[2.0, 0.0, 3.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
    """
    axes = instances.ndim
    if axes not in (2, 3):
        raise InputError(
            f"holds {axes} dimensions, 2 or 3 are needed", where="instances", fix="give one image"
        )
    spacing = require_spacing((1.0,) * axes if spacing_mm is None else spacing_mm, axes)
    ids, numbers = compact_ids(instances)
    extents = ndimage.find_objects(numbers) if len(ids) else []
    corners = [[axis.start for axis in box] + [axis.stop for axis in box] for box in extents]
    return ids, np.array(corners, dtype=np.float64).reshape(len(ids), 2 * axes) * np.tile(spacing, 2)


def check_boxes(boxes: npt.ArrayLike, *, where: str) -> Floats:
    """Boxes as a float64 array of shape (N, 4) or (N, 6), refused where they are none.

    An empty list gives shape (0, 6).

    Raises:
        InputError: Another shape, numbers that are not finite, boxes without volume.

    Example:
        >>> check_boxes([[0, 0, 0, 4]], where="b")
        Traceback (most recent call last):
        medseg.errors.InputError: b: box 0, (0, 0, 0, 4), has no finite volume; give lower, then upper corner
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.shape == (0,):
        return array.reshape(0, 6)
    if array.ndim != 2 or array.shape[1] not in (4, 6):
        raise InputError(
            f"shape {array.shape} is not (N, 4) or (N, 6)",
            where=where,
            fix="give the two corners of each box",
        )
    axes = array.shape[1] // 2
    good = np.isfinite(array).all(axis=1) & (array[:, axes:] > array[:, :axes]).all(axis=1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        shown = ", ".join(f"{number:g}" for number in array[first])
        raise InputError(
            f"box {first}, ({shown}), has no finite volume",
            where=where,
            fix="give lower, then upper corner",
        )
    return array


def check_scores(scores: npt.ArrayLike, size: int) -> npt.NDArray[np.float64]:
    """Scores as a float64 array of shape (size,), refused where they are none.

    Raises:
        InputError: Another shape, or a score that is NaN.

    Example:
        >>> check_scores([0.5, 1], 2).tolist()
        [0.5, 1.0]
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != (size,):
        raise InputError(
            f"shape {array.shape} does not fit {size} detections", where="scores", fix="give one for each"
        )
    if np.isnan(array).any():
        raise InputError("a score is NaN", where="scores", fix="leave such detections out")
    return array


def _pair(boxes: npt.ArrayLike, others: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = check_boxes(boxes, where="boxes"), check_boxes(others, where="others")
    if first.shape[1] != second.shape[1]:
        if len(first) and len(second):
            raise InputError("boxes in 2D and in 3D do not compare", where="others", fix="use one of the two")
        axes = max(first, second, key=len).shape[1]
        return first.reshape(-1, axes), second.reshape(-1, axes)
    return first, second


def _shared_and_union(boxes: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Shape (N, M) each: the volume that two boxes share, and that of either."""
    axes = boxes.shape[1] // 2
    lower = np.maximum(boxes[:, None, :axes], others[None, :, :axes])
    upper = np.minimum(boxes[:, None, axes:], others[None, :, axes:])
    shared = np.maximum(upper - lower, 0).prod(axis=-1)
    volumes = [(array[:, axes:] - array[:, :axes]).prod(axis=1) for array in (boxes, others)]
    return shared, volumes[0][:, None] + volumes[1][None, :] - shared
