"""The image as a network sees it, computed from stored voxels a slab at a time."""

from __future__ import annotations

import numpy as np
import torch

from medseg.geometry import Grid, SlabMap, slab_maps
from medseg.inference.slabs import slab_ranges
from medseg.inference.statistics import ImageStatistics, image_statistics
from medseg.runs import PreprocessingSpec
from medseg.transforms import resample
from medseg.transforms.normalization import normalize_
from medseg.transforms.resampling import BLOCK_VOXELS
from medseg.volume import Slices

__all__ = ["NetworkImage"]

_NATIVE_BYTES = 32 << 20
"""Native voxels that are held in single precision at a time, unless one slice alone takes more."""

_SINGLE_BYTES = 4
_BLOCKS_AT_WORK = 4


class NetworkImage:
    """An image on the network grid, made as ``medseg.transforms.preprocess`` makes it, a slab at a time.

    Slabs may be read in any order; those that follow each other read every native slice once, for the slices
    that interpolation needs twice are kept. Which slices of the network grid follow each other on disk is
    the image's business: an axis against which the network's runs is read from its end.

    Args:
        image: The stored voxels.
        spec: What is done to them.
        axis: The network grid's axis along which slabs are read.
        statistics: As ``image_statistics`` gives them; gathered (and the voxels checked) here if left out.

    Attributes:
        grid: The network grid.
        axis: As given.

    Raises:
        InputError: The image has another number of channels, or voxels that are not finite.

    Example:
        >>> from medseg.runs import Normalization
        >>> from medseg.volume import Volume
        >>> grid = Grid((2, 2, 2), np.diag([-1.0, 1.0, 1.0, 1.0]))
        >>> image = Volume(np.arange(8.0).reshape(1, 2, 2, 2), grid)
        >>> spec = PreprocessingSpec(normalization=[Normalization(scheme="none")])
        >>> NetworkImage(image, spec, axis=0).read(0, 1).ravel()
        tensor([4., 5., 6., 7.])
    """

    def __init__(
        self, image: Slices, spec: PreprocessingSpec, axis: int, statistics: ImageStatistics | None = None
    ) -> None:
        self.grid: Grid = spec.network_grid(image.grid)
        self.axis = axis
        self._image = image
        self._spec = spec
        self._statistics = image_statistics(image, spec) if statistics is None else statistics
        self._maps = slab_maps(image.grid, self.grid)
        # The same memory for each slab: new memory each time would leave gaps that nothing else fits into.
        self._buffer = torch.empty(0)
        self._kept = torch.empty((image.channels, *_cut(image.grid, self._map.source_axis, 2)))
        self._kept_from = self._kept_to = 0

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(1, C, X', Y', Z') of the whole."""
        return (1, self._image.channels, *self.grid.shape)

    @property
    def _map(self) -> SlabMap:
        return self._maps[self.axis]

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Slices [start, stop) of the network grid, of shape (1, C, X', Y', Z'), in single precision."""
        shape = list(self.shape)
        shape[2 + self.axis] = stop - start
        result = torch.empty(shape)
        for begin, end in slab_ranges(stop - start, self._thickness):
            self._read_into(result[0].narrow(1 + self.axis, begin, end - begin), start + begin, start + end)
        return result

    def planned_bytes(self, slab: int) -> int:
        """Memory taken while ``slab`` slices are read and between, besides the slab that is given.

        What the image itself keeps (``resident_bytes``) is not counted either.
        """
        thickness = min(slab, self._thickness)
        slices = min(int((thickness - 1) * abs(self._map.scale)) + 2, self._map.source_length)
        kept = 1
        if self._map.is_identity:
            slices, kept = thickness, 0
        blocks = _BLOCKS_AT_WORK * BLOCK_VOXELS
        if all(axis_map.is_identity for axis_map in self._maps):
            blocks = 0
        # Slabs of an image in memory are views.
        stored_bytes = 0 if self._image.resident_bytes else self._image.dtype.itemsize
        while_loading = (slices - kept) * self._native_plane * stored_bytes
        held = (slices + kept) * self._native_plane * _SINGLE_BYTES
        return held + max(while_loading, blocks * _SINGLE_BYTES)

    @property
    def _native_plane(self) -> int:
        """Voxels of all channels of one native slice."""
        return self._image.channels * self._image.grid.voxel_count // self._map.source_length

    @property
    def _thickness(self) -> int:
        """Slices of the network grid for which native voxels are held at a time."""
        return max(1, int(_NATIVE_BYTES / (self._native_plane * _SINGLE_BYTES * abs(self._map.scale))))

    def _read_into(self, result: torch.Tensor, start: int, stop: int) -> None:
        low, high = self._map.source_range(start, stop)
        native = self._native(low, high)
        resample(native, self._maps, axis=self.axis, start=start, stop=stop, first=low, out=result)
        self._keep(native, low, high, stop)

    def _native(self, low: int, high: int) -> torch.Tensor:
        """Normalised native slices [low, high) along the native axis, (C, X, Y, Z), until the next ones."""
        axis = self._map.source_axis
        shape = _cut(self._image.grid, axis, high - low)
        voxels = self._image.channels * shape[0] * shape[1] * shape[2]
        if voxels > len(self._buffer):
            self._buffer = torch.empty(0)  # given back before more is taken
            self._buffer = torch.empty(voxels)
        # Files store x fastest: in that order their voxels are copied straight.
        stored_order = (self._image.channels, *reversed(shape))
        native = self._buffer[:voxels].reshape(stored_order).permute(0, 3, 2, 1)
        first, last = max(low, self._kept_from), min(high, self._kept_to)
        if first >= last:
            self._load(native, low, low, high)
            return native
        kept = self._kept.narrow(1 + axis, first - self._kept_from, last - first)
        native.narrow(1 + axis, first - low, last - first).copy_(kept)
        self._load(native, low, low, first)
        self._load(native, low, last, high)
        return native

    def _load(self, native: torch.Tensor, low: int, start: int, stop: int) -> None:
        """Read slices [start, stop) into ``native``, which begins with slice ``low``."""
        if start >= stop:
            return
        axis = self._map.source_axis
        stored = self._image.slices(axis, start, stop)
        target = native.narrow(1 + axis, start - low, stop - start)
        for channel, how in enumerate(self._spec.normalization):
            np.copyto(target[channel].numpy(), stored[channel], casting="unsafe")
            normalize_(target[channel], how, self._statistics[channel])

    def _keep(self, native: torch.Tensor, low: int, high: int, following: int) -> None:
        """Keep what slice ``following`` of the network grid needs of native slices [low, high)."""
        wanted = (high, high)
        if following < self._map.target_length and not self._map.is_identity:
            wanted = self._map.source_range(following, following + 1)
        first = min(max(wanted[0], low), high)
        count = max(0, min(wanted[1], high) - first)
        self._kept_from, self._kept_to = first, first + count
        place = 1 + self._map.source_axis
        self._kept.narrow(place, 0, count).copy_(native.narrow(place, first - low, count))


def _cut(grid: Grid, axis: int, count: int) -> tuple[int, int, int]:
    shape = list(grid.shape)
    shape[axis] = count
    return shape[0], shape[1], shape[2]
