"""One pass of windows over a batch of images, blended slab by slab."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.inference.sliding_window.layout import Layout, OutputGrid, Visit
from medseg.inference.sliding_window.outputs import flatten
from medseg.inference.sliding_window.sums import Coverage, Sums, slab_thickness

__all__ = ["Blend", "BlendedOutput", "FinishedSlab"]


class FinishedSlab(NamedTuple):
    """Scores that no later window changes.

    Attributes:
        output: Which of the network's outputs.
        image: Which image of the batch.
        start: Its first slice.
        scores: Shape (K, X, Y[, Z]) with the axis cut.
    """

    output: int
    image: int
    start: int
    scores: Tensor


@dataclass
class BlendedOutput:
    """What is added up of one output of the network.

    Attributes:
        grid: Where windows lie on it.
        channels: K of its scores.
        coverage: Sum of the windows' weights.
        whole: All sums, (B, K, X, Y[, Z]) with padding, where they are kept; else ``None``.
        sums: Of the images that windows are still to come of.
    """

    grid: OutputGrid
    channels: int
    coverage: Coverage
    whole: Tensor | None
    sums: dict[int, Sums] = field(default_factory=dict)

    def scores(self) -> Tensor:
        """All scores, (B, K, X, Y[, Z]) without padding, where they are kept.

        Raises:
            ValueError: They are not.
        """
        if self.whole is None:
            raise ValueError("scores of whole images are not kept")
        inside = (slice(start, stop) for start, stop in self.grid.inside)
        return self.whole[(slice(None), slice(None), *inside)]


class Blend:
    """Adds up what a network makes of windows, and gives what is finished.

    Args:
        layout: Of the windows.
        axis: Spatial axis along which they come.
        images: How many there are in the batch.
        keep_all: Keep the scores of whole images, instead of those that windows are still to come for.
        dtype: What scores are added up in.
        device: Where.
    """

    def __init__(
        self,
        layout: Layout,
        axis: int,
        images: int,
        *,
        keep_all: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._layout = layout
        self._axis = axis
        self._images = images
        self._keep_all = keep_all
        self._dtype = dtype
        self._device = device
        self.keys: tuple[Hashable, ...] | None = None
        self.outputs: list[BlendedOutput] = []

    def add(self, visits: Sequence[Visit], made: Any, weights: Tensor) -> Iterator[FinishedSlab]:
        """Add what the network made of a batch of windows.

        Args:
            visits: The windows; all images' windows come layer by layer.
            made: Tensors (N, K, *window), a sequence or a dictionary of them.
            weights: Of a window's voxels, (1, 1, *window).

        Raises:
            ConfigError: The network's outputs do not fit the windows.
        """
        self.keys, tensors = flatten(made)
        weights = of_window = weights.to(self._device, self._dtype)
        for index, scores in enumerate(tensors):
            if scores.ndim != 2 + len(self._layout.window) or len(scores) != len(visits):
                raise ConfigError(
                    f"the network makes {tuple(scores.shape)} of {len(visits)} windows of "
                    f"{tuple(self._layout.window)} voxels",
                    fix="it has to give (N, K, X, Y[, Z])",
                )
            # MONAI, too, makes the weights of a coarser output from those of the output before it.
            weights = _at_scale(scores, of_window if scores.shape[2:] == of_window.shape[2:] else weights)
            if len(self.outputs) <= index:
                self.outputs.append(self._started(scores, weights))
            for visit, window in zip(visits, scores, strict=True):
                yield from self._added(index, visit, window, weights[0])

    def _started(self, scores: Tensor, weights: Tensor) -> BlendedOutput:
        grid, channels = OutputGrid(self._layout, tuple(scores.shape[2:])), scores.shape[1]
        # With weights that a window's content changes, MONAI still counts those of the first one.
        coverage = Coverage(grid, self._axis, weights[0])
        whole = None
        if self._keep_all:
            shape = (self._images, channels, *grid.size)
            whole = torch.zeros(shape, dtype=self._dtype, device=self._device)
        return BlendedOutput(grid, channels, coverage, whole)

    def _added(self, index: int, visit: Visit, scores: Tensor, weights: Tensor) -> Iterator[FinishedSlab]:
        output = self.outputs[index]
        sums = output.sums.get(visit.image)
        if sums is None:
            sums = output.sums[visit.image] = self._sums_of(output, visit.image)
        sums.add(output.grid.at(visit.corner), scores.to(self._device, self._dtype), weights)
        for start, means in sums.take(output.grid.at_slice(self._axis, visit.done)):
            yield FinishedSlab(index, visit.image, start, means)
        if visit.done == self._layout.size[self._axis]:
            del output.sums[visit.image]

    def _sums_of(self, output: BlendedOutput, image: int) -> Sums:
        size = output.grid.size
        slab = slab_thickness(output.channels, size, self._axis, self._dtype.itemsize)
        if output.whole is not None:
            return Sums(output.grid, self._axis, output.coverage, output.whole[image], slab)
        thickness = output.grid.window[self._axis]
        shape = (output.channels, *size[: self._axis], thickness, *size[self._axis + 1 :])
        storage = torch.zeros(shape, dtype=self._dtype, device=self._device)
        return Sums(output.grid, self._axis, output.coverage, storage, slab)


def _at_scale(scores: Tensor, weights: Tensor) -> Tensor:
    if weights.shape[2:] == scores.shape[2:]:
        return weights
    return nn.functional.interpolate(weights, scores.shape[2:], mode="nearest-exact")
