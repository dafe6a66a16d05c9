"""Multi-Otsu thresholding: what intensity alone can tell.

N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9, 1979, proposes to cut
the histogram where the variance between the classes is largest. For several thresholds the best cut is
found here exactly, by dynamic programming over the bins.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.labels import LabelScheme
from medseg.metrics import confusion

__all__ = ["best_assignment", "multi_otsu", "otsu_baseline", "otsu_bounds", "otsu_thresholds"]

_MOST_ASSIGNMENTS = 1_000_000
"""Largest number of assignments of intensity classes to labels that is tried."""


def otsu_thresholds(counts: npt.ArrayLike, centres: npt.ArrayLike, classes: int) -> npt.NDArray[np.float64]:
    """The thresholds that maximise the variance between the classes of a histogram.

    Args:
        counts: Voxels in each bin, shape (B,).
        centres: Intensity of each bin, increasing, shape (B,).
        classes: Number of intensity classes, two at least.

    Returns:
        ``classes - 1`` thresholds, each the centre of the last bin below it: a voxel belongs to the lower
        class up to and including its threshold.

    Raises:
        ConfigError: Fewer than two classes, or more classes than bins that hold a voxel.

    Example:
        >>> otsu_thresholds([5, 5, 0, 5, 0, 5], [0, 1, 2, 3, 4, 5], classes=2).tolist()
        [1.0]
    """
    weights, levels = np.asarray(counts, dtype=np.float64), np.asarray(centres, dtype=np.float64)
    filled = int(np.count_nonzero(weights))
    if classes < 2 or classes > filled:
        raise ConfigError(
            f"{classes} intensity classes for {filled} different intensities",
            fix=f"ask for 2 to {filled} classes" if filled >= 2 else "give an image that is not constant",
        )
    # Maximising the variance between the classes is maximising the sum of (class sum)² / (class weight).
    weight = np.concatenate([[0.0], np.cumsum(weights)])
    total = np.concatenate([[0.0], np.cumsum(weights * levels)])
    bins = weights.size
    class_weight = weight[np.newaxis, :] - weight[:, np.newaxis]
    class_total = total[np.newaxis, :] - total[:, np.newaxis]
    gain = np.full((bins + 1, bins + 1), -np.inf)  # [first, last): empty classes are not allowed
    np.divide(class_total**2, class_weight, out=gain, where=np.triu(class_weight > 0.0, k=1))
    best = gain[0].copy()
    choices = []
    for _ in range(classes - 1):
        candidates = best[:, np.newaxis] + gain
        choices.append(candidates.argmax(axis=0))
        best = candidates.max(axis=0)
    cuts, end = [], bins
    for choice in reversed(choices):
        end = int(choice[end])
        cuts.append(end)
    return np.asarray(levels[np.array(cuts[::-1]) - 1])


def multi_otsu(image: npt.NDArray[Any], classes: int, *, bins: int = 128) -> npt.NDArray[np.uint8]:
    """Split an image into intensity classes.

    Args:
        image: Intensities of any shape, such as (X, Y, Z).
        classes: Number of intensity classes.
        bins: Bins of the histogram, between the 0.1st and the 99.9th percentile of the intensities.

    Returns:
        Class of each voxel, 0 for the darkest; the image's shape.

    Raises:
        InputError: An intensity is NaN or infinite.
        ConfigError: As for ``otsu_thresholds``.

    Example:
        >>> multi_otsu(np.array([0.0, 1.0, 9.0, 10.0, 20.0, 21.0]), classes=3).tolist()
        [0, 0, 1, 1, 2, 2]
    """
    bounds = otsu_bounds(image, classes, bins=bins)
    return np.searchsorted(bounds, np.ravel(image), side="right").reshape(image.shape).astype(np.uint8)


def otsu_bounds(image: npt.NDArray[Any], classes: int, *, bins: int = 128) -> npt.NDArray[np.float64]:
    """The intensities from which on the classes of :func:`multi_otsu` begin, the darkest left out.

    Args:
        image: Intensities of any shape, such as (X, Y, Z).
        classes: Number of intensity classes.
        bins: Of the histogram.

    Raises:
        InputError: An intensity is NaN or infinite.
        ConfigError: As for ``otsu_thresholds``.
    """
    if not np.isfinite(image).all():
        raise InputError("the image holds NaN or infinite values", fix="replace them")
    # Without the tails, a few very bright voxels do not squeeze all others into a handful of bins.
    low, high = np.percentile(image, (0.1, 99.9))
    counts, edges = np.histogram(np.clip(image, low, high), bins=bins)
    upper_edges = edges[1:]
    centres = (edges[:-1] + upper_edges) / 2.0
    thresholds = otsu_thresholds(counts, centres, classes)
    return np.asarray(upper_edges[np.searchsorted(centres, thresholds)], np.float64)


def otsu_baseline(
    image: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    labels: LabelScheme,
    *,
    classes: int | None = None,
    smoothing_voxels: Sequence[float] | float = 1.0,
) -> npt.NDArray[Any]:
    """The best label map that thresholds can give, with the truth known.

    The image is smoothed and split into intensity classes; then each class gets the label, or the
    background, with which the mean Dice over the labels that the reference holds is largest. Reading the
    answer from the reference flatters the baseline: no thresholding of these classes scores higher.

    Args:
        image: Intensities, shape (X, Y, Z).
        reference: Label values, same shape.
        labels: The classes.
        classes: Number of intensity classes; by default one for each label and the background.
        smoothing_voxels: Standard deviation of the Gaussian, along all axes or each.

    Returns:
        Label values, the image's shape.

    Raises:
        GeometryError: The shapes differ.
        ConfigError: More assignments than can be tried.
    """
    if image.shape != reference.shape:
        raise GeometryError(f"image {image.shape} and reference {reference.shape} differ in shape")
    count = len(labels) if classes is None else classes
    _require_few_assignments(len(labels), count)
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), smoothing_voxels)
    intensity_class = multi_otsu(smooth, count)
    bands = LabelScheme.from_names({index: f"band {index}" for index in range(1, max(count, len(labels)))})
    joint = confusion(intensity_class, labels.to_indices(reference), bands)[: len(labels), :count]
    return labels.to_values(best_assignment(joint)[intensity_class])


def best_assignment(joint: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """The label index of each intensity class that maximises the mean Dice.

    Args:
        joint: Voxels of each label index (rows, background first) in each intensity class (columns).

    Raises:
        ConfigError: More assignments than can be tried.

    Example:
        >>> best_assignment(np.array([[90, 5], [10, 5]])).tolist()
        [0, 1]
    """
    label_count, class_count = joint.shape
    _require_few_assignments(label_count, class_count)
    options = np.array(list(itertools.product(range(label_count), repeat=class_count)), dtype=np.intp)
    predicted_voxels, reference_voxels = joint.sum(axis=0), joint.sum(axis=1)
    total_dice = np.zeros(len(options))
    for label in np.flatnonzero(reference_voxels[1:]) + 1:
        chosen = (options == label).astype(np.float64)
        total_dice += 2.0 * (chosen @ joint[label]) / (chosen @ predicted_voxels + reference_voxels[label])
    return np.asarray(options[total_dice.argmax()])


def _require_few_assignments(labels: int, classes: int) -> None:
    if labels**classes > _MOST_ASSIGNMENTS:
        raise ConfigError(f"{classes} intensity classes and {labels} labels", fix="ask for fewer classes")
