"""Whether a poor prediction is a good one that was flipped or turned on its way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import AxisMap

__all__ = ["EXPLAINED_DICE", "LEAST_GAIN", "POOR_DICE", "Flip", "find_flip"]

POOR_DICE = 0.5
"""Only predictions whose mean Dice is below this are suspected."""

EXPLAINED_DICE = 0.6
"""A flip explains a poor score if the mean Dice once it is undone reaches this, …"""

LEAST_GAIN = 0.2
"""… and is larger by this at least: much of the body is nearly symmetric."""

_SIMPLER_WINS = 0.02
_COARSE_VOXELS = 500_000
_LEAST_SLICES = 32
_DIRECTIONS = {"L": "left-right", "R": "left-right", "A": "front-back", "P": "front-back"}


@dataclass(frozen=True)
class Flip:
    """What has to be undone for a prediction to fit its reference.

    Attributes:
        flipped: Array axes along which it runs the wrong way, once the axes are in order.
        order: The prediction's axes in the reference's order; (0, 1, 2) if none are exchanged.
        dice: Mean Dice as it is (an estimate on a coarse copy).
        dice_unflipped: Mean Dice once it is undone (an estimate likewise).
        description: In words, with anatomical directions.
    """

    flipped: tuple[int, ...]
    order: tuple[int, int, int]
    dice: float
    dice_unflipped: float
    description: str


def find_flip(
    pred: npt.NDArray[Any], ref: npt.NDArray[Any], values: Sequence[int], axcodes: str
) -> Flip | None:
    """Look for a flip or exchange of axes that makes a poor prediction a good one.

    All 47 ways of turning and mirroring that keep the shape are tried on a coarse copy of the prediction,
    which is looked up in the whole reference.

    Args:
        pred: Label values, shape (X, Y, Z).
        ref: Label values, same shape.
        values: Of the classes to score.
        axcodes: The anatomical direction of each axis, such as ``"RAS"``.

    Returns:
        The simplest of the best ways, or ``None`` if the prediction is not poor (``POOR_DICE``), or nothing
        makes it good (``EXPLAINED_DICE``, ``LEAST_GAIN``).

    Example:
        >>> ref = np.zeros((8, 8, 6), np.uint8)
        >>> ref[1:3, 2:5, 1:4] = 1
        >>> find_flip(ref[::-1], ref, [1], "RAS").description
        'flipped along axis 0 (left-right)'
    """
    copy = _CoarseCopy(pred, ref, values)
    if copy.nothing_to_compare:
        return None
    as_it_is = copy.dice(AxisMap())
    if not as_it_is < POOR_DICE:
        return None
    best, best_dice = AxisMap(), as_it_is
    for candidate in _CANDIDATES:
        dice = copy.dice(candidate)
        if dice > best_dice + _SIMPLER_WINS:
            best, best_dice = candidate, dice
    if best_dice < max(EXPLAINED_DICE, as_it_is + LEAST_GAIN):
        return None
    flipped = tuple(axis for axis in range(3) if best.flips[axis])
    return Flip(flipped, best.axes, as_it_is, best_dice, _describe(best, axcodes))


class _CoarseCopy:
    """Some of a prediction's structures, as voxels to look up in the reference."""

    def __init__(self, pred: npt.NDArray[Any], ref: npt.NDArray[Any], values: Sequence[int]) -> None:
        self._ref = ref
        self._values = np.asarray(sorted(values))
        step = max(math.ceil((pred.size / _COARSE_VOXELS) ** (1.0 / 3.0)), 1)
        steps = [max(min(step, size // _LEAST_SLICES), 1) for size in pred.shape]
        coarsely = tuple(slice(None, None, step) for step in steps)
        indices, self._classes = self._structures(pred[coarsely])
        self._positions = [part * step for part, step in zip(indices, steps, strict=True)]
        self._found = self._count(self._classes)
        self._expected = self._count(self._structures(ref[coarsely])[1])
        self._present = self._found + self._expected > 0

    @property
    def nothing_to_compare(self) -> bool:
        """Whether either of the two is empty."""
        return not (self._found.any() and self._expected.any())

    def dice(self, axes: AxisMap) -> float:
        """Mean Dice over the classes of either, after the prediction's axes were mapped; 0 if impossible."""
        shape = self._ref.shape
        if tuple(shape[axis] for axis in axes.axes) != shape:
            return 0.0
        moved = [
            shape[axis] - 1 - self._positions[source] if flip else self._positions[source]
            for axis, (source, flip) in enumerate(zip(axes.axes, axes.flips, strict=True))
        ]
        hits = self._ref[tuple(moved)] == self._values[self._classes]
        common = self._count(self._classes[hits])[self._present]
        return float(np.mean(2 * common / (self._found + self._expected)[self._present]))

    def _structures(
        self, labels: npt.NDArray[Any]
    ) -> tuple[tuple[npt.NDArray[np.intp], ...], npt.NDArray[np.intp]]:
        """Where there is any class, and the index of which."""
        where = np.nonzero(np.isin(labels, self._values))
        return where, np.searchsorted(self._values, labels[where])

    def _count(self, classes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return np.bincount(classes, minlength=len(self._values))


def _complexity(axes: AxisMap) -> tuple[int, int]:
    return sum(axis != place for place, axis in enumerate(axes.axes)), sum(axes.flips)


_CANDIDATES = sorted(
    (
        AxisMap((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))
        for order in itertools.permutations(range(3))
        for flips in itertools.product((False, True), repeat=3)
        if order != (0, 1, 2) or any(flips)
    ),
    key=_complexity,
)


def _describe(axes: AxisMap, axcodes: str) -> str:
    names = [f"{axis} ({_DIRECTIONS.get(axcodes[axis], 'foot-head')})" for axis in range(3)]
    parts = []
    exchanged = [axis for axis in range(3) if axes.axes[axis] != axis]
    if len(exchanged) == 2:
        parts.append(f"with axes {names[exchanged[0]]} and {names[exchanged[1]]} exchanged")
    elif exchanged:
        parts.append(f"with its axes in the order {', '.join(map(str, axes.inverse().axes))}")
    flipped = [names[axis] for axis in range(3) if axes.flips[axis]]
    if flipped:
        kind = "axis" if len(flipped) == 1 else "axes"
        parts.append(f"flipped along {kind} {' and '.join(flipped)}")
    return " and ".join(parts)
