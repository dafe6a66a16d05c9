"""Reading a patch where a draw says: cropped, flipped, or in one resampling turned, scaled and deformed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.errors import GeometryError
from medseg.transforms.augmentation.draws import IDENTITY, ROUNDING, SpatialDraw
from medseg.transforms.augmentation.tensor_products import cubic_spline_weights, plane_products

__all__ = ["move", "swap_classes"]

_BLOCK_VOXELS = 1 << 15
"""Voxels interpolated at a time on a CPU, few enough for its cache."""


def move(
    draw: SpatialDraw, linear: Sequence[Tensor], nearest: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Read arrays where ``draw`` says; what lies beyond them is 0.

    Args:
        draw: What was drawn.
        linear: Arrays (C, X, Y, Z) of floating point that are interpolated linearly.
        nearest: Arrays (C, X, Y, Z) of any type, of which the nearest voxel is taken.

    Returns:
        The same arrays, each (C, *patch_size), in its own type. Without resampling they are views.

    Raises:
        GeometryError: The arrays differ in shape, or are smaller than the patch.
    """
    arrays = [*linear, *nearest]
    shape = tuple(arrays[0].shape[1:])
    for array in arrays:
        if array.ndim != 4 or tuple(array.shape[1:]) != shape:
            raise GeometryError(
                f"has shape {tuple(array.shape)}, others (C, {', '.join(map(str, shape))})", where="patch"
            )
    if any(size < wanted for size, wanted in zip(shape, draw.patch_size, strict=True)):
        raise GeometryError(
            f"has shape {shape}, patches of {draw.patch_size} are wanted",
            where="patch",
            fix="read it with the margin of its draw",
        )
    starts = [(size - wanted) // 2 for size, wanted in zip(shape, draw.patch_size, strict=True)]
    if not draw.resamples:
        moved = [_cropped(array, starts, draw) for array in arrays]
    else:
        moved = _resampled(arrays, len(linear), starts, draw)
    return moved[: len(linear)], moved[len(linear) :]


def swap_classes(label: Tensor, swapped: Sequence[int]) -> Tensor:
    """Class indices after left and right have changed places; values that are no class stay.

    Example:
        >>> swap_classes(torch.tensor([0, 1, 2, 3, 255]), (0, 3, 2, 1))
        tensor([  0,   3,   2,   1, 255])
    """
    table = torch.tensor(swapped, device=label.device).to(label.dtype)
    index = label.long()
    known = index.clamp(0, len(swapped) - 1)
    return torch.where(index == known, table[known], label)


def _cropped(array: Tensor, starts: Sequence[int], draw: SpatialDraw) -> Tensor:
    for axis, (start, size) in enumerate(zip(starts, draw.patch_size, strict=True), 1):
        array = array.narrow(axis, start, size)
    flips = [1 + axis for axis, mirrored in enumerate(draw.mirrored) if mirrored]
    return array.flip(flips) if flips else array


def _resampled(
    arrays: Sequence[Tensor], linear: int, starts: Sequence[int], draw: SpatialDraw
) -> list[Tensor]:
    shape = arrays[0].shape[1:]
    middles = [start + (size - 1) / 2 for start, size in zip(starts, draw.patch_size, strict=True)]
    covered = all(
        reach <= min(middle, size - 1 - middle) + ROUNDING
        for reach, middle, size in zip(draw.reach, middles, shape, strict=True)
    )
    if not covered:
        # A border of zeros, to which all that lies beyond is drawn in.
        arrays = [functional.pad(array, (1, 1) * 3) for array in arrays]
        middles = [middle + 1 for middle in middles]
    device = arrays[0].device
    source = _Source(tuple(arrays[0].shape[1:]), clamped=not covered, device=device)
    positions = _Positions(draw, middles, device)
    moved = [array.new_empty((len(array), *draw.patch_size)) for array in arrays]
    # Channels, each with where it goes; of linear ones the views on which the neighbours lie at one index.
    smooth = [
        (target.flatten(1), source.neighbours(voxels))
        for result, array in zip(moved[:linear], arrays[:linear], strict=True)
        for target, voxels in zip(result, array, strict=True)
    ]
    sharp = [
        (target.flatten(1), voxels.reshape(-1))
        for result, array in zip(moved[linear:], arrays[linear:], strict=True)
        for target, voxels in zip(result, array, strict=True)
    ]
    rows, across = draw.patch_size[0], draw.patch_size[1] * draw.patch_size[2]
    step = rows if device.type != "cpu" else max(1, _BLOCK_VOXELS // across)
    for low in range(0, rows, step):
        high = min(low + step, rows)
        places = source.within(positions.block(low, high))
        if smooth:
            base, fractions = source.base(places)
            for target, neighbours in smooth:
                target[low:high] = _interpolated(neighbours, base, fractions).view(high - low, across)
        if sharp:
            index = source.nearest(places)
            for target, voxels in sharp:
                target[low:high] = voxels.index_select(0, index).view(high - low, across)
    return moved


class _Positions:
    """Where the voxels of a patch come from, slices along its first axis at a time."""

    def __init__(self, draw: SpatialDraw, middles: Sequence[float], device: torch.device) -> None:
        offsets = []
        for size, mirrored in zip(draw.patch_size, draw.mirrored, strict=True):
            offset = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
            offsets.append(-offset if mirrored else offset)
        x, y, z = offsets
        matrix = torch.tensor(IDENTITY if draw.matrix is None else draw.matrix, dtype=torch.float32)
        across = matrix[:, 1, None, None] * y[:, None] + matrix[:, 2, None, None] * z
        self._along = (matrix[:, :1] * x + torch.tensor(middles)[:, None])[:, :, None].to(device)  # (3, X, 1)
        self._across = across.flatten(1)[:, None].to(device)  # (3, 1, Y * Z)
        self._weights: Tensor | None = None
        if draw.elastic is not None:
            points = torch.tensor(draw.elastic.voxels).reshape(3, *draw.elastic.points)
            weights = [
                cubic_spline_weights(size, count, mirrored=mirrored)
                for size, count, mirrored in zip(
                    draw.patch_size, draw.elastic.points, draw.mirrored, strict=True
                )
            ]
            planes = [plane_products(along, weights[1], weights[2]) for along in points]
            self._weights = weights[0].to(device)  # (X, points)
            self._planes = torch.stack(planes).to(device)  # (3, points, Y * Z)

    def block(self, low: int, high: int) -> Tensor:
        """Positions of slices [low, high) along each source axis, (3, n * Y * Z)."""
        places = self._along[:, low:high] + self._across
        if self._weights is not None:
            places.baddbmm_(self._weights[low:high].expand(3, -1, -1), self._planes)
        return places.flatten(1)


class _Source:
    """How voxels of an array are found by their position."""

    def __init__(self, sizes: Sequence[int], *, clamped: bool, device: torch.device) -> None:
        self._sizes = tuple(sizes)
        self._steps = [
            stride if size > 1 else 0
            for stride, size in zip((sizes[1] * sizes[2], sizes[2], 1), sizes, strict=True)
        ]
        self._last = torch.tensor(self._sizes, dtype=torch.int32, device=device)[:, None] - 1
        self._clamped = clamped

    def within(self, places: Tensor) -> Tensor:
        """Positions (3, n), those beyond the array brought to its border where there may be any."""
        return places.clamp_(min=0.0).minimum(self._last) if self._clamped else places

    def neighbours(self, voxels: Tensor) -> list[Tensor]:
        """Views of a channel on which a voxel's eight neighbours are found at the index of the lowest."""
        flat = voxels.reshape(-1)
        corners = itertools.product((0, 1), repeat=3)
        return [
            flat[sum(c * step for c, step in zip(corner, self._steps, strict=True)) :] for corner in corners
        ]

    def base(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the lowest of the eight neighbours, and the fractions towards the others, (3, n)."""
        # The last voxel is the upper neighbour of the one before, with all the weight.
        below = places.to(torch.int32).minimum((self._last - 1).clamp(min=0))
        return self._index(below), places - below

    def nearest(self, places: Tensor) -> Tensor:
        """Index of the nearest voxel."""
        return self._index((places + 0.5).to(torch.int32))

    def _index(self, corner: Tensor) -> Tensor:
        x, y, z = corner.unbind()
        return x.mul(self._sizes[1]).add_(y).mul_(self._sizes[2]).add_(z)


def _interpolated(neighbours: Sequence[Tensor], base: Tensor, fractions: Tensor) -> Tensor:
    values = [view.index_select(0, base) for view in neighbours]
    for fraction in (fractions[2], fractions[1], fractions[0]):
        values = [low.lerp_(high, fraction) for low, high in zip(values[::2], values[1::2], strict=True)]
    return values[0]
