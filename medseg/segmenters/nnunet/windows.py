"""Sliding windows as nnU-Net v2 has them: mirror images, Gaussian weights, sums in half precision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["gaussian_weights", "window_starts", "windowed_logits"]

_SIGMA = 1 / 8
_LARGEST = 10.0
"""Weight of a window's centre: larger than 1, for half precision has few digits near 0."""


def window_starts(size: int, window: int, step: float = 0.5) -> list[int]:
    """First voxels of the windows along one axis: evenly spread, at most ``step`` of a window apart.

    Example:
        >>> window_starts(110, 64), window_starts(64, 64)
        ([0, 23, 46], [0])
    """
    count = math.ceil((size - window) / (window * step)) + 1
    return (
        [int(np.round((size - window) / (count - 1) * index)) for index in range(count)] if count > 1 else [0]
    )


@lru_cache(maxsize=4)
def gaussian_weights(window: tuple[int, ...]) -> Tensor:
    """Weights of a window's voxels, in half precision, nowhere 0."""
    point = np.zeros(window)
    point[tuple(size // 2 for size in window)] = 1.0
    blurred = ndimage.gaussian_filter(point, [size * _SIGMA for size in window], mode="constant")
    weights = torch.from_numpy(blurred / (blurred.max() / _LARGEST)).to(torch.half)
    weights[weights == 0] = weights[weights != 0].min()
    return weights


def windowed_logits(
    network: nn.Module,
    image: Tensor,
    window: tuple[int, ...],
    mirrored_axes: Sequence[int],
    device: torch.device,
    classes: int,
) -> Tensor:
    """Logits of a whole image, in half precision as nnU-Net keeps them.

    Args:
        network: On ``device``, in evaluation mode.
        image: (C, Z, Y, X), on the CPU.
        window: Along three axes, or along the last two: then each plane is gone through by itself.
        mirrored_axes: Of the window, in all combinations of which mirror images are averaged.
        device: Where the network computes.
        classes: How many there are.

    Returns:
        (K, Z, Y, X), on the CPU.
    """
    spatial = image.shape[1:]
    padding, inner = _padding(spatial, window)
    padded = functional.pad(image, padding)
    weights = gaussian_weights(window)
    total = torch.zeros((classes, *padded.shape[1:]), dtype=torch.half)
    count = torch.zeros(padded.shape[1:], dtype=torch.half)
    for place in _places(padded.shape[1:], window):
        seen = padded[(slice(None), *place)][None].contiguous().to(device)
        logits = _mirrored(network, seen, mirrored_axes)[0].float().cpu()
        total[(slice(None), *place)] += logits * weights
        count[place] += weights
    total /= count
    return total[(slice(None), *inner)]


def _mirrored(network: nn.Module, seen: Tensor, axes: Sequence[int]) -> Tensor:
    """The mean over an image and its mirror images."""
    total: Tensor = network(seen)
    flips = [flip for count in range(1, len(axes) + 1) for flip in itertools.combinations(axes, count)]
    for flip in flips:
        dims = [2 + axis for axis in flip]
        total += torch.flip(network(torch.flip(seen, dims)), dims)
    return total / (len(flips) + 1) if flips else total


def _padding(spatial: Sequence[int], window: Sequence[int]) -> tuple[list[int], tuple[slice, ...]]:
    """Zeros around an image that is smaller than the window, as ``pad`` takes them, and where it is then."""
    before = [0] * (len(spatial) - len(window))
    before += [max(0, wide - size) // 2 for size, wide in zip(spatial[-len(window) :], window, strict=True)]
    wanted = [*spatial[: len(spatial) - len(window)]]
    wanted += [max(size, wide) for size, wide in zip(spatial[-len(window) :], window, strict=True)]
    pairs = [(low, total - size - low) for low, total, size in zip(before, wanted, spatial, strict=True)]
    inner = tuple(slice(low, low + size) for low, size in zip(before, spatial, strict=True))
    return [number for pair in reversed(pairs) for number in pair], inner


def _places(spatial: Sequence[int], window: Sequence[int]) -> Iterator[tuple[slice | int, ...]]:
    """Each window; of a window of two axes, in each plane."""
    planes = [range(size) for size in spatial[: len(spatial) - len(window)]]
    starts = [window_starts(size, wide) for size, wide in zip(spatial[-len(window) :], window, strict=True)]
    for plane in itertools.product(*planes):
        for corner in itertools.product(*starts):
            yield (*plane, *(slice(low, low + wide) for low, wide in zip(corner, window, strict=True)))
