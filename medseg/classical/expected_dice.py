"""The labels that may expect the highest Dice, where the most likely ones would be too few.

Of a structure whose Dice will be D, a voxel raises it from a probability of D/2 on, not of 1/2 (Z. Lipton,
C. Elkan and B. Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", ECML 2014).
Uncertain borders and thin ends then stay with the structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

__all__ = ["best_dice_labels", "best_dice_labels_bytes", "expected_dice"]

FloatArray = npt.NDArray[np.floating]
_MOST_ROUNDS = 20


def best_dice_labels(scores: FloatArray) -> npt.NDArray[np.intp]:
    """The label map whose expected Dice, summed over the classes, is highest.

    It begins with the most likely labels. In rounds, each voxel goes to the class whose Dice it raises most,
    or to the background where it raises none. One class alone comes to its optimum in a few rounds; of
    several it is a local one, never below that of the most likely labels. A class that is nowhere the most
    likely one stays away.

    Args:
        scores: (K, …), background first; their softmax are the probabilities.

    Returns:
        Class of each voxel, (…).

    Example:
        >>> vessel = np.asarray([0.9, 0.45, 0.2])
        >>> best_dice_labels(np.log([1 - vessel, vessel])).tolist()
        [1, 1, 0]
    """
    probabilities: FloatArray = softmax(scores, axis=0)
    labels: npt.NDArray[np.intp] = probabilities.argmax(axis=0)
    best = expected_dice(probabilities, labels).sum()
    for _ in range(_MOST_ROUNDS):
        moved = _gains(probabilities, labels).argmax(axis=0)
        reached = expected_dice(probabilities, moved).sum()
        if reached <= best:
            break
        labels, best = moved, reached
    return labels


def expected_dice(probabilities: FloatArray, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Twice the expected overlap, by the voxels that a class has and may expect; 0 of one that has none.

    Args:
        probabilities: (K, …), background first.
        labels: Class of each voxel, (…).

    Returns:
        (K - 1,), without the background.

    Example:
        >>> vessel = np.asarray([0.9, 0.45, 0.2])
        >>> expected_dice(np.stack([1 - vessel, vessel]), np.asarray([1, 1, 0])).round(3).tolist()
        [0.761]
    """
    found = np.zeros(len(probabilities) - 1)
    for index, probability in enumerate(probabilities[1:], start=1):
        chosen = labels == index
        if chosen.any():
            overlap = probability[chosen].sum(dtype=np.float64)
            found[index - 1] = 2.0 * overlap / (chosen.sum() + probability.sum(dtype=np.float64))
    return found


def best_dice_labels_bytes(shape: Sequence[int], classes: int) -> int:
    """Memory that ``best_dice_labels`` takes beside the scores, in single precision; an estimate."""
    return prod(shape) * (3 * 4 * classes + 2 * 8)


def _gains(probabilities: FloatArray, labels: npt.NDArray[np.intp]) -> FloatArray:
    """How much a voxel more raises each class's Dice: its derivative. The background has none."""
    gains = np.zeros_like(probabilities)
    for index, dice in enumerate(expected_dice(probabilities, labels), start=1):
        probability = probabilities[index]
        size = (labels == index).sum() + probability.sum(dtype=np.float64)
        gains[index] = (2.0 * probability - dice) / size if dice > 0.0 else -1.0
    return gains
