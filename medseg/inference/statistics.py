"""What must be known of a whole image before its first slab is normalised: one pass over it, slab by slab."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medseg.inference.slabs import slab_ranges
from medseg.io.values import FiniteCount
from medseg.runs import PreprocessingSpec
from medseg.transforms.normalization import Spread, spread_of
from medseg.transforms.preprocessing import require_channels
from medseg.volume import Slices

__all__ = ["ImageStatistics", "image_statistics", "single_precision"]

ImageStatistics = tuple[Spread | None, ...]
"""For each channel its spread where the normalisation needs it."""

_SLAB_BYTES = 16 << 20


def image_statistics(
    image: Slices, spec: PreprocessingSpec, where: str | os.PathLike[str] = "the image", axis: int = 2
) -> ImageStatistics:
    """Check that an image can be used, and gather what its normalisation needs, in one pass.

    The pass is left out where nothing is to be found out: for integers under schemes with fixed numbers.

    Args:
        image: The image.
        spec: What will be done to it.
        where: Its file, for errors.
        axis: The spatial axis along which to go; for a file best the one that is stored slowest.

    Returns:
        The spread of each channel whose scheme is ``"zscore"``.

    Raises:
        InputError: The image has another number of channels, or voxels that are not finite.

    Example:
        >>> from medseg.geometry import Grid
        >>> from medseg.runs import Normalization
        >>> from medseg.volume import Volume
        >>> image = Volume(np.array([1, 3]).reshape(1, 2, 1, 1), Grid((2, 1, 1), np.eye(4)))
        >>> image_statistics(image, PreprocessingSpec(normalization=[Normalization(scheme="zscore")]))[0].mean
        2.0
    """
    require_channels(image.channels, spec.channels)
    needed = [how.scheme == "zscore" for how in spec.normalization]
    finite = FiniteCount()
    spreads = [Spread() if need else None for need in needed]
    if any(needed) or image.dtype.kind == "f":
        for start, stop in slab_ranges(image.grid.shape[axis], _thickness(image, axis)):
            slab = image.slices(axis, start, stop)
            finite.add(slab)
            if finite.nan or finite.infinite:
                continue  # the error counts all of them, but no statistics are wanted any more
            for channel, spread in enumerate(spreads):
                if spread is not None:
                    background = spec.normalization[channel].background
                    part = spread_of(single_precision(slab[channel]), background)
                    spreads[channel] = spread.merged(part)
    finite.require_finite(where)
    return tuple(spreads)


def single_precision(array: npt.NDArray[Any]) -> torch.Tensor:
    """Voxels in single precision, as they lie in memory; may share memory with ``array``."""
    single = array.astype(np.float32, copy=False)
    if not single.flags.writeable or any(stride < 0 for stride in single.strides):
        single = single.copy(order="K")
    return torch.from_numpy(single)


def _thickness(image: Slices, axis: int) -> int:
    slice_bytes = image.channels * image.grid.voxel_count // image.grid.shape[axis] * image.dtype.itemsize
    return max(1, _SLAB_BYTES // slice_bytes)
