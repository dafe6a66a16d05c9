"""From class scores on the native grid to labels, as slabs come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from medseg.geometry import Grid
from medseg.inference.restore import best_class
from medseg.inference.slabs import Stage, slab_ranges
from medseg.labels import LabelScheme
from medseg.volume import Volume

__all__ = ["LabelArray", "LabelWriter", "best_of", "label_map", "planned_label_bytes", "write_labels"]

_SLAB_BYTES = 128 << 20
_SCORE_BYTES = 4
_SLAB_VOXELS = 4 << 20
_COUNTED_VOXELS, _COUNTED_BYTES = 1 << 20, 8  # a sink that counts labels does so by wide integers


class LabelWriter(Protocol):
    """Takes a label map slab by slab; ``medseg.io.LabelSink`` is one, that writes a file."""

    def write(
        self, axis: int, start: int, labels: npt.NDArray[Any], corner: tuple[int, int] = (0, 0)
    ) -> None:
        """Take slices (X, Y, Z) from ``start`` on along ``axis``, or a tile of them from ``corner`` on."""
        ...


@runtime_checkable
class _KnowsBest(Protocol):
    """A stage that finds the best class without all scores of a slab at once."""

    def best(self, start: int, stop: int) -> torch.Tensor: ...


class LabelArray:
    """A label map in memory, written slab by slab.

    Args:
        grid: Its grid.
        dtype: Of the labels.

    Example:
        >>> array = LabelArray(Grid((1, 1, 2), np.eye(4)), np.dtype(np.uint8))
        >>> array.write(2, 0, np.full((1, 1, 2), 7, np.uint8))
        >>> array.volume.array.ravel()
        array([7, 7], dtype=uint8)
    """

    def __init__(self, grid: Grid, dtype: np.dtype[Any]) -> None:
        # Files store x fastest: written in the same order, a label map is one straight run.
        self.volume = Volume(np.empty((1, *grid.shape[::-1]), dtype).transpose(0, 3, 2, 1), grid)

    def write(
        self, axis: int, start: int, labels: npt.NDArray[Any], corner: tuple[int, int] = (0, 0)
    ) -> None:
        """See ``LabelWriter``."""
        first = [*corner]
        first.insert(axis, start)
        x, y, z = (slice(low, low + count) for low, count in zip(first, labels.shape, strict=True))
        self.volume.array[0, x, y, z] = labels


def best_of(stage: Stage, start: int, stop: int) -> torch.Tensor:
    """The best class of each voxel of slices [start, stop), (X, Y, Z); of equal scores, the first.

    Args:
        stage: Class scores. One that has a method ``best`` of its own, as ``RestoredScores``, is asked for
            that; of others the scores are read.
        start: First slice along the stage's axis.
        stop: One past the last.
    """
    return stage.best(start, stop) if isinstance(stage, _KnowsBest) else best_class(stage.read(start, stop))


def label_map(stage: Stage, labels: LabelScheme, native_grid: Grid, thickness: int | None = None) -> Volume:
    """Give each voxel the class of its highest score; of equal ones, the first.

    Args:
        stage: Class scores on the native grid, one channel per class of ``labels``.
        labels: The classes.
        native_grid: The grid of the result.
        thickness: Slices read at a time; see ``write_labels``.

    Returns:
        Shape (1, X, Y, Z): label values in the smallest integer type that holds them.
    """
    array = LabelArray(native_grid, labels.dtype)
    write_labels(stage, labels, array, thickness=thickness)
    return array.volume


def write_labels(
    stage: Stage,
    labels: LabelScheme,
    sink: LabelWriter,
    *,
    thickness: int | None = None,
    advance: Callable[[float], None] | None = None,
) -> None:
    """Hand on the label of each voxel, in the order in which the stage computes them.

    Args:
        stage: Class scores on the native grid, or a tile of it; one channel per class of ``labels``.
        labels: The classes.
        sink: Takes label values in the smallest integer type that holds them.
        thickness: Slices at a time; by default as many as have 128 MiB of scores, or four million voxels
            where scores need not exist all at once.
        advance: Called with the number of slices that are done each time some are.
    """
    if _plane(stage) == 0:
        return
    corner = [span[0] for axis, span in enumerate(stage.box) if axis != stage.axis]
    for start, stop in _in_order(stage, thickness or _thickness(stage, len(labels))):
        classes = best_of(stage, start, stop).cpu().numpy()
        sink.write(stage.axis, start, labels.to_values(classes), (corner[0], corner[1]))
        if advance is not None:
            advance(stop - start)


def planned_label_bytes(stage: Stage, classes: int) -> int:
    """Memory that ``write_labels`` takes, beside what the stage takes to find the best class.

    Args:
        stage: Class scores on the native grid, or a tile of it.
        classes: How many there are.

    Example:
        >>> from medseg.inference.restore import RestoredScores
        >>> coarse = Grid((1, 1, 2), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> stage = RestoredScores.coming([], coarse, Grid((1, 1, 3), np.eye(4)), axis=2)
        >>> planned_label_bytes(stage, classes=2)
        33
    """
    voxels = _plane(stage) * min(_thickness(stage, classes), stage.length)
    width = 1 if classes <= 256 else 4
    # Classes, the same turned round or as values of the file, and these in the order of the file.
    return 3 * width * voxels + _COUNTED_BYTES * min(voxels, _COUNTED_VOXELS)


def _plane(stage: Stage) -> int:
    """Voxels of a slice."""
    return math.prod(stop - start for axis, (start, stop) in enumerate(stage.box) if axis != stage.axis)


def _thickness(stage: Stage, classes: int) -> int:
    """Slices to be labelled at a time."""
    at_once = _SLAB_VOXELS if isinstance(stage, _KnowsBest) else _SLAB_BYTES // (classes * _SCORE_BYTES)
    return max(1, at_once // max(1, _plane(stage)))


def _in_order(stage: Stage, thickness: int) -> Iterator[tuple[int, int]]:
    ranges = slab_ranges(stage.length, thickness)
    return ranges if stage.ascending else reversed([*ranges])
