"""STAPLE for several labels: how reliable each atlas is, and what they agree on in that light.

S. K. Warfield, K. H. Zou and W. M. Wells, "Simultaneous truth and performance level estimation (STAPLE)",
IEEE TMI 23, 2004; for several labels as in T. Rohlfing et al., "Expectation maximization strategies for
multi-atlas multi-label segmentation", IPMI 2003.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medseg.atlas.patches import disputed

__all__ = ["Staple", "staple"]

FloatArray = npt.NDArray[np.float32]
_LEAST = 1e-12


class Staple(NamedTuple):
    """What STAPLE finds.

    Attributes:
        probabilities: (K, X, Y, Z), of sum 1.
        confusion: (N, K, K): ``confusion[n, d, k]`` is how often atlas n says d where k is true.
        iterations: How many it took.
    """

    probabilities: FloatArray
    confusion: npt.NDArray[np.float64]
    iterations: int


def staple(probabilities: FloatArray, *, iterations: int = 50, tolerance: float = 1e-5) -> Staple:
    """Estimate the truth and each atlas's confusion matrix in turn.

    Where all atlases are certain and agree they stay as they are in the estimate of the truth, but count for
    the confusion matrices. The prior of each class is its mean over atlases and voxels.

    Args:
        probabilities: (N, K, X, Y, Z); a decision is a probability of 1.
        iterations: At most.
        tolerance: It ends when no entry of a confusion matrix changes by more.

    Example:
        >>> says = np.asarray([[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 0]])
        >>> votes = np.stack([says == 0, says == 1], axis=1).astype(np.float32)[..., None, None]
        >>> found = staple(votes)
        >>> found.probabilities.argmax(axis=0).ravel().tolist()
        [0, 0, 1, 1]
    """
    count, classes, *shape = probabilities.shape
    open_voxels = disputed(probabilities)
    mean = probabilities.mean(axis=0)
    agreed = np.bincount(mean[:, ~open_voxels].argmax(axis=0), minlength=classes)
    # Voxels at which all atlases say the same are alike: each class of them is counted once, with its number.
    alike = np.tile(np.eye(classes), (1, count))
    said = np.concatenate([alike, probabilities[..., open_voxels].reshape(count * classes, -1).T])
    voxels = np.concatenate([agreed, np.ones(len(said) - classes)])
    prior = np.maximum((voxels @ said).reshape(count, classes).mean(axis=0) / voxels.sum(), _LEAST)
    truth = said.reshape(-1, count, classes).mean(axis=1)
    confusion = _confusion(said, truth, voxels, count)
    done = 0
    for done in range(1, iterations + 1):  # noqa: B007
        truth = _truth(said, confusion, prior)
        before, confusion = confusion, _confusion(said, truth, voxels, count)
        if np.abs(confusion - before).max() <= tolerance:
            break
    found = mean.reshape(classes, *shape)
    found[:, open_voxels] = truth[classes:].T
    return Staple(found, confusion, done)


def _truth(
    said: npt.NDArray[np.float64], confusion: npt.NDArray[np.float64], prior: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    count, classes, _ = confusion.shape
    logs = np.log(np.maximum(confusion, _LEAST)).reshape(count * classes, classes)
    scores = said @ logs + np.log(prior)
    scores -= scores.max(axis=1, keepdims=True)
    weights = np.exp(scores)
    found: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return found


def _confusion(
    said: npt.NDArray[np.float64],
    truth: npt.NDArray[np.float64],
    voxels: npt.NDArray[np.float64],
    count: int,
) -> npt.NDArray[np.float64]:
    weighted = truth * voxels[:, np.newaxis]
    joint = (said.T @ weighted).reshape(count, -1, truth.shape[1])
    found: npt.NDArray[np.float64] = joint / np.maximum(weighted.sum(axis=0), _LEAST)
    return found
