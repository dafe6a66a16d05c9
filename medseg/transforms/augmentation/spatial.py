"""Reading a patch where a draw says: cropped, flipped, or in one resampling turned, scaled and deformed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    source = _Source.of(arrays[0].shape[1:], clamped=not covered)
    device = arrays[0].device
    positions = _Positions.of(draw, middles, device)
    moved = [array.new_empty((len(array), *draw.patch_size)) for array in arrays]
    rows, across = draw.patch_size[0], draw.patch_size[1] * draw.patch_size[2]
    step = rows if device.type != "cpu" else max(1, _BLOCK_VOXELS // across)
    flat = [array.flatten(1) for array in arrays]
    for low in range(0, rows, step):
        high = min(low + step, rows)
        places = [source.within(place, axis) for axis, place in enumerate(positions.block(low, high))]
        if linear:
            base, fractions = source.base(places)
            for target, array in zip(moved[:linear], flat[:linear], strict=True):
                for channel, voxels in zip(target, array, strict=True):
                    channel[low:high] = source.linear(voxels, base, fractions).reshape(
                        channel[low:high].shape
                    )
        if linear < len(arrays):
            index = source.nearest(places)
            for target, array in zip(moved[linear:], flat[linear:], strict=True):
                for channel, voxels in zip(target, array, strict=True):
                    channel[low:high] = voxels.index_select(0, index).reshape(channel[low:high].shape)
    return moved


@dataclass(frozen=True)
class _Positions:
    """Where the voxels of a patch come from, slices along its first axis at a time."""

    first: list[Tensor]  # for each source axis: part that the offset along the first axis gives, (X, 1)
    planes: list[Tensor]  # the part of the other two offsets, (1, Y * Z)
    weights: Tensor | None  # of the control points' planes, (X, L)
    bends: list[Tensor]  # those planes, (L, Y * Z)

    @classmethod
    def of(cls, draw: SpatialDraw, middles: Sequence[float], device: torch.device) -> _Positions:
        offsets = []
        for size, mirrored in zip(draw.patch_size, draw.mirrored, strict=True):
            offset = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
            offsets.append(-offset if mirrored else offset)
        x, y, z = offsets
        matrix = IDENTITY if draw.matrix is None else draw.matrix
        first = [
            (row[0] * x + middle)[:, None].to(device) for row, middle in zip(matrix, middles, strict=True)
        ]
        planes = [(row[1] * y[:, None] + row[2] * z).reshape(1, -1).to(device) for row in matrix]
        if draw.elastic is None:
            return cls(first, planes, None, [])
        points = torch.tensor(draw.elastic.voxels).reshape(3, *draw.elastic.points)
        weights = [
            cubic_spline_weights(size, count, mirrored=mirrored)
            for size, count, mirrored in zip(draw.patch_size, draw.elastic.points, draw.mirrored, strict=True)
        ]
        bends = [plane_products(along, weights[1], weights[2]).to(device) for along in points]
        return cls(first, planes, weights[0].to(device), bends)

    def block(self, low: int, high: int) -> list[Tensor]:
        """Positions of slices [low, high) along each source axis, each (n * Y * Z)."""
        places = []
        for axis, (first, plane) in enumerate(zip(self.first, self.planes, strict=True)):
            place = first[low:high] + plane
            if self.weights is not None:
                place.addmm_(self.weights[low:high], self.bends[axis])
            places.append(place.reshape(-1))
        return places


@dataclass(frozen=True)
class _Source:
    """How voxels of an array are found by their position."""

    sizes: tuple[int, int, int]
    strides: tuple[int, int, int]
    clamped: bool

    @classmethod
    def of(cls, shape: Sequence[int], clamped: bool) -> _Source:
        x, y, z = shape
        return cls((x, y, z), (y * z, z, 1), clamped)

    def within(self, place: Tensor, axis: int) -> Tensor:
        """Positions that lie beyond the array, brought to its border."""
        return place.clamp_(0.0, self.sizes[axis] - 1.0) if self.clamped else place

    def base(self, places: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Index of the lowest of the eight neighbours, and the fractions towards the others."""
        fractions, corner = [], []
        for place, size in zip(places, self.sizes, strict=True):
            # The last voxel is the upper neighbour of the one before, with all the weight.
            below = place.to(torch.int32).clamp_(max=max(size - 2, 0))
            corner.append(below)
            fractions.append(place - below)
        return self._index(corner), fractions

    def nearest(self, places: Sequence[Tensor]) -> Tensor:
        """Index of the nearest voxel."""
        return self._index([(place + 0.5).to(torch.int32) for place in places])

    def _index(self, corner: Sequence[Tensor]) -> Tensor:
        x, y, z = corner
        return x.mul(self.sizes[1]).add_(y).mul_(self.sizes[2]).add_(z)

    def linear(self, voxels: Tensor, base: Tensor, fractions: Sequence[Tensor]) -> Tensor:
        """Interpolated values of one channel."""
        steps = [stride if size > 1 else 0 for stride, size in zip(self.strides, self.sizes, strict=True)]

        def at(x: int, y: int, z: int) -> Tensor:
            offset = x * steps[0] + y * steps[1] + z * steps[2]
            return voxels[offset:].index_select(0, base)

        def along_z(x: int, y: int) -> Tensor:
            return at(x, y, 0).lerp_(at(x, y, 1), fractions[2])

        def along_y(x: int) -> Tensor:
            return along_z(x, 0).lerp_(along_z(x, 1), fractions[1])

        return along_y(0).lerp_(along_y(1), fractions[0])
