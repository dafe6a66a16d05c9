"""How well single instances are found: matching by overlap, panoptic quality, aggregated Jaccard.

An instance is all voxels of one id. Two instances may be matched where their intersection over union (IoU) is
**above** the threshold; no instance is matched twice. From a threshold of 0.5 on the matching is unique,
since two instances of one map do not overlap (Kirillov 2019, arXiv:1801.00868). Below it, a choice is needed:
``"optimal"`` takes the matching whose IoUs have the largest sum, ``"greedy"`` takes pairs by descending IoU.

What the empty cases give:

| instances in | precision | recall | F1, PQ, SQ, RQ, aggregated Jaccard |
|---|---|---|---|
| neither | NaN | NaN | NaN: there is nothing to find |
| the reference alone | NaN | 0 | 0 |
| the prediction alone | 0 | NaN | 0 |
| both, none matched | 0 | 0 | PQ, SQ, RQ, F1 0; Jaccard 0 if nothing overlaps |
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError
from medseg.metrics.contingency import Contingency, contingency
from medseg.metrics.matching import assign_pairs, greedy_pairs

__all__ = [
    "IOU_THRESHOLDS",
    "InstanceMatches",
    "InstancePair",
    "PanopticQuality",
    "aggregated_jaccard",
    "match_instances",
    "match_instances_at",
    "panoptic_quality",
]

IOU_THRESHOLDS = tuple(float(threshold) for threshold in np.linspace(0.5, 0.95, 10))
"""0.5 to 0.95 in steps of 0.05, to the last bit as pycocotools has them."""

Method = Literal["optimal", "greedy"]


@dataclass(frozen=True)
class InstancePair:
    """A predicted instance and the reference instance that it is matched with.

    Attributes:
        pred_id: The id in the prediction.
        ref_id: The id in the reference.
        iou: Their intersection over union.
    """

    pred_id: int
    ref_id: int
    iou: float


@dataclass(frozen=True)
class InstanceMatches:
    """Who is matched with whom, and who is left over.

    Attributes:
        iou_threshold: Pairs are matched above this IoU.
        pairs: The matched pairs, by the reference's ids.
        missed: Ids of the reference that have no partner.
        invented: Ids of the prediction that have no partner.
    """

    iou_threshold: float
    pairs: tuple[InstancePair, ...]
    missed: tuple[int, ...]
    invented: tuple[int, ...]

    @property
    def precision(self) -> float:
        """The share of the predicted instances that are matched; NaN where none is predicted."""
        return _ratio(len(self.pairs), len(self.pairs) + len(self.invented))

    @property
    def recall(self) -> float:
        """The share of the reference's instances that are matched; NaN where it has none."""
        return _ratio(len(self.pairs), len(self.pairs) + len(self.missed))

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 where only one of the maps has instances."""
        return self.quality.rq

    @property
    def quality(self) -> PanopticQuality:
        """The panoptic quality of this matching."""
        return PanopticQuality(
            iou_sum=math.fsum(pair.iou for pair in self.pairs),
            n_matched=len(self.pairs),
            n_missed=len(self.missed),
            n_invented=len(self.invented),
        )


@dataclass(frozen=True)
class PanopticQuality:
    """Panoptic quality (Kirillov 2019), from the counts of one image, or from the sums over several.

    Attributes:
        iou_sum: Sum of the matched pairs' IoUs.
        n_matched: Matched pairs.
        n_missed: Instances of the reference without a partner.
        n_invented: Instances of the prediction without a partner.

    Example:
        >>> PanopticQuality(iou_sum=1.6, n_matched=2, n_missed=1, n_invented=1).pq
        0.5333333333333333
    """

    iou_sum: float
    n_matched: int
    n_missed: int
    n_invented: int

    @property
    def pq(self) -> float:
        """Panoptic quality, ``sq * rq``: the sum of IoUs over the mean number of instances."""
        return _ratio(2 * self.iou_sum, self._instances)

    @property
    def sq(self) -> float:
        """Segmentation quality: the mean IoU of the matched pairs, 0 where none is matched."""
        if self.n_matched == 0:
            return _ratio(0, self._instances)
        return self.iou_sum / self.n_matched

    @property
    def rq(self) -> float:
        """Recognition quality: the F1 score of the instances."""
        return _ratio(2 * self.n_matched, self._instances)

    @property
    def _instances(self) -> int:
        return 2 * self.n_matched + self.n_missed + self.n_invented


def match_instances(
    pred: npt.NDArray[Any],
    ref: npt.NDArray[Any],
    iou_threshold: float = 0.5,
    *,
    method: Method = "optimal",
) -> InstanceMatches:
    """Match the instances of a prediction with those of its reference, one to one.

    Args:
        pred: Instance ids, of any shape, such as (X, Y, Z); 0 is background, ids need not be contiguous.
        ref: Instance ids of the reference, of the same shape.
        iou_threshold: Pairs may be matched above this IoU, from 0 up to but not including 1.
        method: How to choose below a threshold of 0.5 (from there on there is no choice): ``"optimal"``
            for the largest sum of IoUs (Kuhn 1955), ``"greedy"`` by descending IoU, ties by ids.

    Raises:
        GeometryError: The shapes differ.
        InputError: An id is negative or not a whole number.
        ConfigError: The threshold or the method is none.

    Example:
        >>> found = match_instances(np.array([5, 5, 5, 0, 8]), np.array([1, 1, 0, 0, 0]))
        >>> found.pairs
        (InstancePair(pred_id=5, ref_id=1, iou=0.6666666666666666),)
        >>> found.invented, found.precision, found.recall
        ((8,), 0.5, 1.0)
    """
    return match_instances_at(pred, ref, (iou_threshold,), method=method)[0]


def match_instances_at(
    pred: npt.NDArray[Any],
    ref: npt.NDArray[Any],
    iou_thresholds: Iterable[float] = IOU_THRESHOLDS,
    *,
    method: Method = "optimal",
) -> tuple[InstanceMatches, ...]:
    """Match instances at several thresholds, from one pass over the voxels; see ``match_instances``.

    Example:
        >>> loose, strict = match_instances_at(np.array([5, 5, 5]), np.array([1, 1, 0]), [0.5, 0.75])
        >>> loose.f1, strict.f1
        (1.0, 0.0)
    """
    thresholds = tuple(iou_thresholds)
    for threshold in thresholds:
        if not 0 <= threshold < 1:
            raise ConfigError(
                f"{threshold} is no threshold of IoU",
                where="iou_threshold",
                fix="give a number from 0 up to, but not including, 1",
            )
    if method not in get_args(Method):
        raise ConfigError(f"'{method}' is no way to match", where="method", fix="use 'optimal' or 'greedy'")
    table = contingency(pred, ref)
    return tuple(_match(table, threshold, method) for threshold in thresholds)


def panoptic_quality(
    pred: npt.NDArray[Any], ref: npt.NDArray[Any], iou_threshold: float = 0.5
) -> PanopticQuality:
    """Panoptic quality of one class's instances (Kirillov 2019, arXiv:1801.00868).

    Over several images the paper adds up the counts before it divides: so can you, with the fields of the
    result. For several classes, compare one class at a time and average.

    Args:
        pred: Instance ids, of any shape, such as (X, Y, Z); 0 is background.
        ref: Instance ids of the reference, of the same shape.
        iou_threshold: Pairs are matched above this IoU; below 0.5 the matching with the largest PQ is taken.

    Raises:
        GeometryError: The shapes differ.
        InputError: An id is negative or not a whole number.
        ConfigError: The threshold is none.

    Example:
        >>> found = panoptic_quality(np.array([5, 5, 5, 0, 8]), np.array([1, 1, 0, 0, 0]))
        >>> round(found.pq, 4), round(found.sq, 4), round(found.rq, 4)
        (0.4444, 0.6667, 0.6667)
    """
    return match_instances(pred, ref, iou_threshold).quality


def aggregated_jaccard(pred: npt.NDArray[Any], ref: npt.NDArray[Any], *, one_to_one: bool = False) -> float:
    """Aggregated Jaccard index: all shared voxels over all voxels of partners and of what has none.

    Each reference instance takes the predicted one of the largest IoU as its partner, be it another's partner
    too (Kumar 2017, doi:10.1109/TMI.2017.2677499; among equals that of the smaller id). With ``one_to_one``
    partners are those of the optimal matching at any IoU above 0, which is known as AJI+ (Graham 2019,
    arXiv:1812.06499).

    Args:
        pred: Instance ids, of any shape, such as (X, Y, Z); 0 is background.
        ref: Instance ids of the reference, of the same shape.
        one_to_one: Whether a predicted instance may be the partner of one reference instance only.

    Returns:
        0 to 1; NaN where neither map has an instance, 0 where only one of them has.

    Raises:
        GeometryError: The shapes differ.
        InputError: An id is negative or not a whole number.

    Example:
        >>> pred, ref = np.array([1, 1, 1, 1]), np.array([1, 1, 2, 2])
        >>> round(aggregated_jaccard(pred, ref), 4), aggregated_jaccard(pred, ref, one_to_one=True)
        (0.5, 0.3333333333333333)
    """
    table = contingency(pred, ref)
    if one_to_one:
        chosen = assign_pairs(table.pairs, table.iou)
    else:
        order = np.lexsort((table.pairs[:, 0], -table.iou, table.pairs[:, 1]))
        _, first = np.unique(table.pairs[order, 1], return_index=True)
        chosen = order[first]
    pred_left = np.ones(len(table.pred_ids), dtype=bool)
    ref_left = np.ones(len(table.ref_ids), dtype=bool)
    pred_left[table.pairs[chosen, 0]] = False
    ref_left[table.pairs[chosen, 1]] = False
    without_partner = table.pred_voxels[pred_left].sum() + table.ref_voxels[ref_left].sum()
    union = int(table.union_voxels[chosen].sum() + without_partner)
    return _ratio(int(table.pair_voxels[chosen].sum()), union)


def _match(table: Contingency, threshold: float, method: Method) -> InstanceMatches:
    iou = table.iou
    eligible = np.flatnonzero(iou > threshold)
    choose = assign_pairs if method == "optimal" else greedy_pairs
    chosen = eligible if threshold >= 0.5 else eligible[choose(table.pairs[eligible], iou[eligible])]
    pred, ref = table.pairs[chosen].T
    found = zip(table.pred_ids[pred].tolist(), table.ref_ids[ref].tolist(), iou[chosen].tolist(), strict=True)
    return InstanceMatches(
        iou_threshold=threshold,
        pairs=tuple(InstancePair(*pair) for pair in found),
        missed=tuple(np.delete(table.ref_ids, ref).tolist()),
        invented=tuple(np.delete(table.pred_ids, pred).tolist()),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
