"""How well objects are found by boxes with scores: average precision, its mean over thresholds and classes.

Detections are taken by descending score, those of equal score in the order of the input. Each takes, of the
references of its image and class that no better detection has taken, the one of the largest IoU, if that
reaches the threshold; it is a **hit** then (among equals the last reference, as in pycocotools). Each
reference is used once: a second detection of it is no hit.

What the empty cases give: no reference, NaN, whatever is detected, since no recall is defined; references
but no detection, 0. Over several images these are the references and detections of all of them, so that an
image without references still costs precision by what is detected in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError, InputError
from medseg.metrics.boxes import box_iou, check_boxes, check_scores
from medseg.metrics.instances import IOU_THRESHOLDS

__all__ = [
    "Detections",
    "MeanAveragePrecision",
    "References",
    "average_precision",
    "match_detections",
    "mean_average_precision",
]

Interpolation = Literal["area", "voc11", "coco101"]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was detected in one image; empty lists where nothing was.

    Attributes:
        boxes: Shape (N, 4) or (N, 6), corners as (x0, y0[, z0], x1, y1[, z1]), half-open.
        scores: Shape (N,), higher is surer.
        classes: Shape (N,), integers; left out, all are of class 1.

    Raises:
        InputError: Shapes that do not fit, boxes without volume, a score that is NaN.
    """

    boxes: npt.ArrayLike
    scores: npt.ArrayLike
    classes: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        boxes = check_boxes(self.boxes, where="boxes")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", check_scores(self.scores, len(boxes)))
        object.__setattr__(self, "classes", _check_classes(self.classes, len(boxes)))


@dataclass(frozen=True, eq=False)
class References:
    """What there is to find in one image; empty lists where there is nothing.

    Attributes:
        boxes: Shape (M, 4) or (M, 6), corners as (x0, y0[, z0], x1, y1[, z1]), half-open.
        classes: Shape (M,), integers; left out, all are of class 1.

    Raises:
        InputError: Shapes that do not fit, boxes without volume.
    """

    boxes: npt.ArrayLike
    classes: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        boxes = check_boxes(self.boxes, where="boxes")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "classes", _check_classes(self.classes, len(boxes)))


@dataclass(frozen=True)
class MeanAveragePrecision:
    """Average precision by class and threshold.

    Attributes:
        iou_thresholds: The thresholds.
        classes: All classes that are in the references or in the detections, increasing.
        n_references: For each class, how many references there are.
        n_detections: For each class, how many detections there are.
        average_precisions: For each class, one for each threshold; NaN for a class without any reference.
    """

    iou_thresholds: tuple[float, ...]
    classes: tuple[int, ...]
    n_references: tuple[int, ...]
    n_detections: tuple[int, ...]
    average_precisions: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> float:
        """Over all thresholds and the classes that have references; NaN where none has any.

        A class that is detected but has no reference is not in the mean: look at ``n_references``.
        """
        return _mean_of_valid(number for row in self.average_precisions for number in row)

    @property
    def by_class(self) -> dict[int, float]:
        """The mean over the thresholds, for each class."""
        return dict(zip(self.classes, map(_mean_of_valid, self.average_precisions), strict=True))

    @property
    def by_threshold(self) -> dict[float, float]:
        """The mean over the classes that have references, for each threshold."""
        return {
            threshold: _mean_of_valid(row[position] for row in self.average_precisions)
            for position, threshold in enumerate(self.iou_thresholds)
        }


def average_precision(
    scores: npt.ArrayLike,
    hits: npt.ArrayLike,
    n_references: int,
    interpolation: Interpolation = "area",
) -> float:
    """Average precision of ranked detections: how precise they are, averaged over how many are found.

    The precision at a recall is the best precision at that recall or a higher one.

    Args:
        scores: Shape (N,), higher is surer; equal scores stay in the order given.
        hits: Shape (N,), whether each detection is a hit.
        n_references: How many references there are to find.
        interpolation: ``"area"``: the area under the curve (VOC from 2010, Everingham 2015); ``"voc11"``: the
            mean at recalls 0, 0.1, …, 1 (Everingham 2010); ``"coco101"``: at 0, 0.01, …, 1 (Lin 2014), to
            the last bit as pycocotools has them.

    Returns:
        0 to 1; 0 where nothing is detected; NaN where there is no reference, whatever is detected.

    Raises:
        InputError: Scores or hits of the wrong shape, NaN scores, more hits than references.
        ConfigError: The interpolation is none.

    Example:
        >>> ranked, hits = [0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, False, True]
        >>> round(average_precision(ranked, hits, n_references=3), 4)
        0.8667
        >>> round(average_precision(ranked, hits, n_references=3, interpolation="voc11"), 4)
        0.8545
        >>> round(average_precision(ranked, hits, n_references=3, interpolation="coco101"), 4)
        0.8653
    """
    if interpolation not in get_args(Interpolation):
        raise ConfigError(
            f"'{interpolation}' is no interpolation",
            where="interpolation",
            fix=f"use one of {', '.join(get_args(Interpolation))}",
        )
    is_hit = np.asarray(hits)
    if is_hit.ndim != 1 or not (is_hit.dtype == bool or is_hit.size == 0):
        raise InputError("hits are not a list of true and false", where="hits", fix="give one for each score")
    ranking = np.argsort(-check_scores(scores, len(is_hit)), kind="stable")
    n_hits = int(np.count_nonzero(is_hit))
    if n_references < n_hits:
        raise InputError(
            f"{n_hits} hits of {n_references} references", where="hits", fix="let a reference be hit once"
        )
    if n_references == 0:
        return math.nan
    found = np.cumsum(is_hit[ranking])
    recall = found / n_references
    precision = found / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    if interpolation == "area":
        return float(np.sum(np.diff(recall, prepend=0.0) * best_from_here))
    # Tenths are exact decimals here; the hundredths carry the rounding that pycocotools' have.
    levels = np.arange(11) / 10 if interpolation == "voc11" else np.linspace(0, 1, 101)
    positions = np.searchsorted(recall, levels, side="left")
    return float(np.append(best_from_here, 0.0)[positions].mean())


def match_detections(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    references: npt.ArrayLike,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> npt.NDArray[np.bool_]:
    """Tell which detections of one image and class are hits, at each threshold.

    Args:
        boxes: Shape (N, 4) or (N, 6), corners as (x0, y0[, z0], x1, y1[, z1]).
        scores: Shape (N,), higher is surer.
        references: Shape (M, 4) or (M, 6).
        iou_thresholds: T thresholds above 0, up to 1, which an IoU must reach.

    Returns:
        Shape (T, N), in the order of the input; all false where there is no reference.

    Raises:
        InputError: Boxes or scores of the wrong shape or not finite, boxes without volume.
        ConfigError: A threshold is none.

    Example:
        >>> boxes = [[0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]]
        >>> match_detections(boxes, [0.7, 0.9, 0.8], [[0, 0, 4, 4]], [0.5, 0.9]).tolist()
        [[False, True, False], [True, False, False]]
    """
    thresholds = _check_thresholds(iou_thresholds)
    overlaps = box_iou(boxes, references)
    ranking = np.argsort(-check_scores(scores, len(overlaps)), kind="stable")
    n_references = overlaps.shape[1]
    hits = np.zeros((len(thresholds), len(overlaps)), dtype=bool)
    if n_references == 0:
        return hits
    rows = np.arange(len(thresholds))
    taken = np.zeros((len(thresholds), n_references), dtype=bool)
    for detection in ranking:
        eligible = ~taken & (overlaps[detection] >= thresholds[:, None])
        gains = np.where(eligible, overlaps[detection], -1.0)
        chosen = n_references - 1 - np.argmax(gains[:, ::-1], axis=1)
        hits[:, detection] = eligible[rows, chosen]
        taken[rows, chosen] |= hits[:, detection]
    return hits


def mean_average_precision(
    detections: Sequence[Detections],
    references: Sequence[References],
    *,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    interpolation: Interpolation = "coco101",
    max_detections: int | None = None,
) -> MeanAveragePrecision:
    """Average precision over images, by class and threshold, and its mean, as COCO defines it (Lin 2014).

    Detections of all images are ranked together, by class.

    Args:
        detections: One for each image.
        references: One for each image, in the same order.
        iou_thresholds: Above 0, up to 1; by default 0.5 to 0.95 in steps of 0.05.
        interpolation: As for ``average_precision``.
        max_detections: Only so many of the best detections of each class and image count; all by default
            (COCO takes 100).

    Raises:
        InputError: Not as many detections as references, or boxes in 2D beside boxes in 3D.
        ConfigError: A threshold, the interpolation or the largest number of detections is none.

    Example:
        >>> found = Detections(boxes=[[0, 0, 4, 4], [5, 5, 7, 7]], scores=[0.9, 0.4])
        >>> result = mean_average_precision([found], [References(boxes=[[0, 0, 4, 5]])])
        >>> result.by_threshold[0.5], result.by_threshold[0.95], round(result.mean, 2)
        (1.0, 0.0, 0.7)
    """
    if len(detections) != len(references):
        raise InputError(
            f"{len(detections)} images with detections, {len(references)} with references",
            fix="give one of each for every image, empty ones too",
        )
    if max_detections is not None and max_detections < 1:
        raise ConfigError(
            f"{max_detections} detections are too few", where="max_detections", fix="use 1 or more"
        )
    thresholds = _check_thresholds(iou_thresholds)
    everything = [image.classes for image in detections] + [image.classes for image in references]
    classes = tuple(sorted({value for image in everything for value in np.asarray(image).tolist()}))
    table, n_references, n_detections = [], [], []
    for value in classes:
        per_image = [
            _of_class(image, truth, value, thresholds, max_detections)
            for image, truth in zip(detections, references, strict=True)
        ]
        scores = np.concatenate([image_scores for image_scores, _, _ in per_image])
        hits = np.concatenate([image_hits for _, image_hits, _ in per_image], axis=1)
        n_references.append(sum(count for _, _, count in per_image))
        n_detections.append(len(scores))
        table.append(tuple(average_precision(scores, row, n_references[-1], interpolation) for row in hits))
    return MeanAveragePrecision(
        iou_thresholds=tuple(thresholds.tolist()),
        classes=classes,
        n_references=tuple(n_references),
        n_detections=tuple(n_detections),
        average_precisions=tuple(table),
    )


def _of_class(
    detections: Detections,
    references: References,
    value: int,
    thresholds: npt.NDArray[np.float64],
    max_detections: int | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], int]:
    """Scores, hits (one row a threshold) and the number of references of one image and class."""
    scores = np.asarray(detections.scores)
    own = np.flatnonzero(np.asarray(detections.classes) == value)
    own = own[np.argsort(-scores[own], kind="stable")][:max_detections]
    truth = np.asarray(references.boxes)[np.asarray(references.classes) == value]
    hits = match_detections(np.asarray(detections.boxes)[own], scores[own], truth, thresholds.tolist())
    return scores[own], hits, len(truth)


def _check_classes(classes: npt.ArrayLike | None, size: int) -> npt.NDArray[np.int64]:
    array = np.ones(size, dtype=np.int64) if classes is None else np.asarray(classes)
    if array.shape != (size,) or not (np.issubdtype(array.dtype, np.integer) or size == 0):
        raise InputError(
            f"classes are not {size} integers",
            where="classes",
            fix="give the class of each box as an integer",
        )
    return array.astype(np.int64)


def _check_thresholds(iou_thresholds: Sequence[float]) -> npt.NDArray[np.float64]:
    thresholds = np.asarray(iou_thresholds, dtype=np.float64)
    if thresholds.ndim != 1 or thresholds.size == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ConfigError(
            f"{iou_thresholds} are no thresholds of IoU",
            where="iou_thresholds",
            fix="give numbers above 0, up to 1",
        )
    return thresholds


def _mean_of_valid(numbers: Iterable[float]) -> float:
    valid = [number for number in numbers if not math.isnan(number)]
    return math.fsum(valid) / len(valid) if valid else math.nan
