"""Graph cut: the label map of least cost, where borders cost their area and less along edges of the image.

Y. Boykov, M.-P. Jolly, "Interactive graph cuts for optimal boundary and region segmentation of objects in N-D
images", ICCV 2001; several classes by expansion moves, Y. Boykov, O. Veksler, R. Zabih, "Fast approximate
energy minimization via graph cuts", PAMI 23, 2001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.classical.links import as_channels, link_directions, link_weights, linked
from medseg.classical.minimum_cut import BoolArray, FloatArray, IntArray, Solver, choose_solver, minimise
from medseg.components import Connectivity
from medseg.errors import ConfigError

__all__ = ["cut_energy", "graph_cut", "graph_cut_bytes", "require_cut_options"]

_SAME = 1e-9
_MOST_CYCLES = 50
_EACH_BYTES, _UNDECIDED_BYTES, _CLASS_BYTES = 26, 348, 8
"""Per voxel, per undecided voxel, and per class of these: measured."""


def graph_cut(
    scores: npt.NDArray[Any],
    image: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    smoothness_mm: float = 1.0,
    contrast: float | None = 1.0,
    connectivity: Connectivity = "faces",
    solver: Solver = "auto",
) -> npt.NDArray[np.intp]:
    """The label map that minimises the classes' costs and the borders' area.

    The cost of a class at a voxel is the negative of its score. A border of 1 mm² costs as much as
    ``smoothness_mm`` mm³ whose class is less likely by a factor of e; where the intensity changes across it,
    less. With two classes the minimum is exact (of costs in whole numbers, see
    :func:`medseg.classical.minimum_cut.minimise`); with more, no change of any set of voxels to one and the
    same class would lower it, and it is at most twice the least.

    Args:
        scores: Logarithms of probabilities, or logits, shape (K, X, Y) or (K, X, Y, Z).
        image: Intensities, shape (X, Y[, Z]) or (C, X, Y[, Z]).
        spacing_mm: Distance between voxels along each axis.
        smoothness_mm: Price of borders; 0 leaves the best class of each voxel.
        contrast: How large a difference makes a border likely, in root mean squares of the differences
            between neighbours; ``None``: intensities do not count.
        connectivity: Neighbours that are linked; see :func:`medseg.classical.links.link_directions`.
        solver: Of the maximum flow; see :func:`medseg.classical.minimum_cut.minimise`.

    Returns:
        Index of each voxel's class, shape (X, Y[, Z]).

    Raises:
        GeometryError: Shapes or spacing do not fit.
        InputError: Scores or intensities are not finite.
        ConfigError: An option is out of range, or there are fewer than two classes.

    Example:
        >>> foreground = np.array([[2.0, 2.0, -0.5, 2.0, -2.0, -2.0]])
        >>> scores, flat = np.stack([-foreground, foreground]), np.zeros((1, 6))
        >>> graph_cut(scores, flat, (1.0, 1.0)).tolist()
        [[1, 1, 1, 1, 0, 0]]
    """
    channels = as_channels(image, scores, spacing_mm)
    require_cut_options(smoothness_mm, contrast, solver)
    best: npt.NDArray[np.intp] = scores.argmax(axis=0)
    if smoothness_mm == 0.0 or best.size == 0:
        return best
    links = _Links(channels, spacing_mm, smoothness_mm, contrast, connectivity)
    open_voxels = _undecided(scores, best, links)
    graph = _graph(scores, best, links, open_voxels)
    best[open_voxels] = graph.minimised(solver)
    return best


def cut_energy(
    labels: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    image: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    smoothness_mm: float = 1.0,
    contrast: float | None = 1.0,
    connectivity: Connectivity = "faces",
) -> float:
    """What :func:`graph_cut` minimises, for any label map: its arguments, and indices of classes.

    Example:
        >>> scores = np.zeros((2, 1, 3))
        >>> round(cut_energy(np.array([[0, 1, 1]]), scores, np.zeros((1, 3)), (1.0, 1.0)), 3)
        0.785
    """
    channels = as_channels(image, scores, spacing_mm)
    energy = -float(np.take_along_axis(scores, labels[np.newaxis], axis=0).sum(dtype=np.float64))
    for here, there, weights in _Links(channels, spacing_mm, smoothness_mm, contrast, connectivity):
        energy += float(weights[labels[here] != labels[there]].sum(dtype=np.float64))
    return energy


def graph_cut_bytes(shape: Sequence[int], classes: int, undecided: float = 0.3) -> int:
    """Memory that :func:`graph_cut` takes beside image and scores, with faces linked; an estimate.

    Args:
        shape: Voxels along each axis.
        classes: Number of classes.
        undecided: Part of the voxels whose neighbours have a say.

    Example:
        >>> graph_cut_bytes((100, 100, 100), classes=2)
        135200000
    """
    return int(math.prod(shape) * (_EACH_BYTES + undecided * (_UNDECIDED_BYTES + _CLASS_BYTES * classes)))


def require_cut_options(smoothness_mm: float, contrast: float | None, solver: Solver) -> None:
    """Refuse options that are out of range.

    Raises:
        ConfigError: One is.
    """
    if not 0.0 <= smoothness_mm < np.inf:
        raise ConfigError(f"smoothness_mm={smoothness_mm} is no price", fix="give a number from 0")
    if contrast is not None and not 0.0 < contrast < np.inf:
        raise ConfigError(f"contrast={contrast} is no contrast", fix="give a number above 0, or none")
    choose_solver(solver)


@dataclass(frozen=True)
class _Links:
    """All links of a volume, a direction at a time: which voxels, which neighbours, and weights."""

    image: npt.NDArray[Any]
    spacing_mm: Sequence[float]
    smoothness_mm: float
    contrast: float | None
    connectivity: Connectivity

    def __iter__(self) -> Any:
        for way in link_directions(self.spacing_mm, self.connectivity):
            here, there = linked(way.step)
            yield here, there, link_weights(self.image, way, self.contrast) * np.float32(self.smoothness_mm)


def _undecided(scores: npt.NDArray[Any], best: npt.NDArray[np.intp], links: _Links) -> BoolArray:
    """Voxels that might take another class than their best, whatever the others do."""
    weight = np.zeros(best.shape, np.float32)
    for here, there, weights in links:
        weight[here] += weights
        weight[there] += weights
    top = np.take_along_axis(scores, best[np.newaxis], axis=0)[0]
    second = np.full(best.shape, -np.inf, np.float32)
    for index, score in enumerate(scores):
        np.maximum(second, score, out=second, where=best != index)
    return np.asarray(top - second < weight)


@dataclass(frozen=True)
class _Graph:
    """What is left to be decided.

    Attributes:
        costs: Of each class, shape (n, K); links to decided voxels are in it.
        first: One end of each link.
        second: The other.
        weight: Of the link.
    """

    costs: FloatArray
    first: IntArray
    second: IntArray
    weight: FloatArray

    def minimised(self, solver: Solver) -> npt.NDArray[np.intp]:
        """The class of each voxel."""
        classes = self.costs.shape[1]
        if classes == 2:
            differences = self.costs[:, 1] - self.costs[:, 0]
            return minimise(differences, self.first, self.second, self.weight, solver).astype(np.intp)
        labels = np.asarray(self.costs.argmin(axis=1))
        energy, unchanged = self.energy(labels), 0
        for turn in range(_MOST_CYCLES * classes):
            moved = self.expanded(labels, turn % classes, solver)
            lower = self.energy(moved)
            if lower < energy - _SAME * max(1.0, abs(energy)):
                labels, energy, unchanged = moved, lower, 0
            else:
                unchanged += 1
            if unchanged == classes:
                break
        return labels

    def energy(self, labels: npt.NDArray[np.intp]) -> float:
        """Costs of classes and of links that are cut."""
        own = self.costs[np.arange(labels.size), labels].sum()
        return float(own + self.weight[labels[self.first] != labels[self.second]].sum())

    def expanded(self, labels: npt.NDArray[np.intp], to: int, solver: Solver) -> npt.NDArray[np.intp]:
        """The best that comes of letting any voxels change to one class."""
        own = labels == to
        costs = self.costs[np.arange(labels.size), labels]
        cost = self.costs[:, to] - costs
        weight = self.weight.copy()
        # Between two others that differ the link is cut unless both change: half of it is each one's gain.
        differ = (labels[self.first] != labels[self.second]) & ~own[self.first] & ~own[self.second]
        weight[differ] /= 2.0
        cost -= np.bincount(self.first[differ], weight[differ], labels.size)
        cost -= np.bincount(self.second[differ], weight[differ], labels.size)
        # Those that are there already stay, whatever their neighbours do.
        linked_to = np.bincount(self.first, weight, cost.size) + np.bincount(self.second, weight, cost.size)
        cost[own] = -1.0 - linked_to[own]
        return np.where(minimise(cost, self.first, self.second, weight, solver), to, labels)


def _graph(
    scores: npt.NDArray[Any], best: npt.NDArray[np.intp], links: _Links, open_voxels: BoolArray
) -> _Graph:
    count = int(np.count_nonzero(open_voxels))
    number = np.full(best.shape, -1, np.int32)
    number[open_voxels] = np.arange(count, dtype=np.int32)
    costs = -scores[:, open_voxels].T.astype(np.float64)
    flat = costs.ravel()
    parts: list[tuple[IntArray, IntArray, FloatArray]] = []
    for here, there, weights in links:
        one, other = number[here], number[there]
        both = (one >= 0) & (other >= 0)
        parts.append((one[both], other[both], weights[both].astype(np.float64)))
        for inside, outside, decided in ((one, other, best[there]), (other, one, best[here])):
            chosen = (inside >= 0) & (outside < 0)
            place = inside[chosen].astype(np.int64) * len(scores) + decided[chosen]
            flat -= np.bincount(place, weights[chosen], flat.size)
    firsts, seconds, weights = zip(*parts, strict=True)
    return _Graph(
        flat.reshape(costs.shape), np.concatenate(firsts), np.concatenate(seconds), np.concatenate(weights)
    )
