"""From class scores on the network grid to a label map on the native grid, slab by slab."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from medseg.geometry import Grid, SlabMap, slab_maps
from medseg.inference.slabs import Stage, slab_ranges
from medseg.labels import LabelScheme
from medseg.transforms import resample
from medseg.volume import Volume

__all__ = ["RestoredScores", "best_class", "label_map"]

_SLAB_BYTES = 128 << 20
_SCORE_BYTES = 4


@dataclass(frozen=True, eq=False)
class RestoredScores:
    """Class scores of the native grid, interpolated from those of the network grid when they are asked for.

    Interpolation is linear along each axis, hence exact for scores that are linear functions of position;
    scores of the native grid never exist for more than the slab that is read.

    Attributes:
        scores: Shape (C, X', Y', Z'), on the network grid.
        network_grid: Where they lie; parallel to the native grid.
        native_grid: Where they are wanted.

    Raises:
        GeometryError: The grids are rotated against each other, or the scores do not fit the network grid.

    Example:
        >>> coarse, fine = Grid((1, 1, 2), np.diag([1.0, 1.0, 2.0, 1.0])), Grid((1, 1, 3), np.eye(4))
        >>> stage = RestoredScores(torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2), coarse, fine)
        >>> stage.length, stage.read(1, 3).ravel()
        (3, tensor([2., 4.]))
    """

    scores: torch.Tensor
    network_grid: Grid
    native_grid: Grid

    @cached_property
    def _maps(self) -> tuple[SlabMap, SlabMap, SlabMap]:
        return slab_maps(self.network_grid, self.native_grid)

    @property
    def length(self) -> int:
        """Number of slices along the native grid's last axis."""
        return self.native_grid.shape[2]

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Scores of native slices [start, stop), of shape (C, X, Y, stop - start)."""
        return resample(self.scores, self._maps, start=start, stop=stop)


def label_map(stage: Stage, labels: LabelScheme, native_grid: Grid, thickness: int | None = None) -> Volume:
    """Give each voxel the class of its highest score; of equal ones, the first.

    Args:
        stage: Class scores on the native grid, one channel per class of ``labels``.
        labels: The classes.
        native_grid: The grid of the result.
        thickness: Slices read at a time; by default as many as take 128 MiB.

    Returns:
        Shape (1, X, Y, Z): label values in the smallest integer type that holds them.
    """
    if thickness is None:
        slice_bytes = len(labels) * native_grid.shape[0] * native_grid.shape[1] * _SCORE_BYTES
        thickness = max(1, _SLAB_BYTES // slice_bytes)
    # Files store x fastest: written in the same order, a label map is one straight run.
    values = np.empty((1, *native_grid.shape[::-1]), labels.dtype).transpose(0, 3, 2, 1)
    for start, stop in slab_ranges(stage.length, thickness):
        classes = best_class(stage.read(start, stop)).cpu().numpy()
        values[0, :, :, start:stop] = labels.to_values(classes)
    return Volume(values, native_grid)


def best_class(scores: torch.Tensor) -> torch.Tensor:
    """The index of the highest score at each voxel; of equal ones, the first.

    One pass over the scores with a running maximum: on a CPU, torch's own ``argmax`` over the first axis
    takes two to three times as long.

    Args:
        scores: Shape (C, ...).

    Returns:
        Shape (...), unsigned 8 bit for up to 256 classes, else 32 bit.

    Example:
        >>> best_class(torch.tensor([[1.0, 5.0], [2.0, 5.0]])).tolist()
        [1, 0]
    """
    highest = scores[0].clone()
    best = torch.zeros_like(highest, dtype=torch.uint8 if len(scores) <= 256 else torch.int32)
    for index in range(1, len(scores)):
        best.masked_fill_(scores[index] > highest, index)
        torch.maximum(highest, scores[index], out=highest)
    return best
