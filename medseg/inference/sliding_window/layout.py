"""Where windows lie on an image, and where what the network makes of them lies on its outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from medseg.errors import ConfigError

__all__ = ["Layout", "OutputGrid", "Visit"]


@dataclass(frozen=True)
class Visit:
    """A window that the network is shown.

    Attributes:
        image: Which image of the batch.
        corner: First voxel of the window along each spatial axis of the padded image.
        done: Slices of that image, from its first one, that no later window touches.
    """

    image: int
    corner: tuple[int, ...]
    done: int


@dataclass(frozen=True)
class Layout:
    """Windows over an image, as MONAI lays them.

    Neighbours overlap by the given part; the last window along an axis is moved back to end with the image.
    An image that is smaller than the window is padded on both sides.

    Attributes:
        image: Voxels along each spatial axis.
        window: Voxels of a window along each.
        overlap: Of neighbouring windows along each, as a part of the window; from 0, less than 1.

    Example:
        >>> layout = Layout((10, 3), (4, 4), (0.5, 0.5))
        >>> layout.starts
        ((0, 2, 4, 6), (0,))
        >>> layout.padding
        ((0, 0), (0, 1))
    """

    image: tuple[int, ...]
    window: tuple[int, ...]
    overlap: tuple[float, ...]

    @classmethod
    def of(
        cls, image: Sequence[int], roi_size: Iterable[int | None] | int, overlap: Iterable[float] | float
    ) -> Layout:
        """Lay windows of ``roi_size`` over an image; sizes that are not positive stand for the whole axis.

        Raises:
            ConfigError: Sizes or overlaps are of another number than the image's axes, or out of range.
        """
        dims = len(image)
        sizes = list(roi_size) if isinstance(roi_size, Iterable) else [roi_size] * dims
        parts = list(overlap) if isinstance(overlap, Iterable) else [overlap] * dims
        for name, values in (("roi_size", sizes), ("overlap", parts)):
            if len(values) != dims:
                raise ConfigError(
                    f"{len(values)} values are given for an image of {dims} spatial axes",
                    where=name,
                    fix="give one value, or one for each axis of (B, C, X, Y[, Z])",
                )
        if not all(0 <= part < 1 for part in parts):
            raise ConfigError(
                f"{overlap} is out of range", where="overlap", fix="give parts from 0 to below 1"
            )
        window = tuple(
            int(size) if size and size > 0 else whole for size, whole in zip(sizes, image, strict=True)
        )
        return cls(tuple(image), window, tuple(float(part) for part in parts))

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of the padded image along each axis."""
        return tuple(max(pair) for pair in zip(self.image, self.window, strict=True))

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Voxels before and behind the image along each axis."""
        missing = (size - image for size, image in zip(self.size, self.image, strict=True))
        return tuple((total // 2, total - total // 2) for total in missing)

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """First voxels of the windows along each axis."""
        return tuple(_starts(*values) for values in zip(self.size, self.window, self.overlap, strict=True))

    def thinnest_axis(self) -> int:
        """The axis along which a layer of windows is the smallest part of the image; the first of equals."""
        parts = [window / size for window, size in zip(self.window, self.size, strict=True)]
        return parts.index(min(parts))

    def visits(self, axis: int) -> list[Visit]:
        """All windows of the first image, layer by layer along ``axis``."""
        in_order = sorted(itertools.product(*self.starts), key=lambda corner: corner[axis])
        done = [*(corner[axis] for corner in in_order[1:]), self.size[axis]]
        return [Visit(0, corner, until) for corner, until in zip(in_order, done, strict=True)]


def _starts(size: int, window: int, overlap: float) -> tuple[int, ...]:
    step = window if window == size else max(1, int(window * (1 - overlap)))
    last = size - window
    return (*range(0, last, step), last)


@dataclass(frozen=True)
class OutputGrid:
    """Where windows lie on one of the network's outputs, which may be of another scale than the image.

    Attributes:
        layout: Of the windows on the image.
        window: Voxels that the network makes of a window, along each axis.
    """

    layout: Layout
    window: tuple[int, ...]

    @cached_property
    def zoom(self) -> tuple[float, ...]:
        """Voxels of the output per voxel of the image along each axis."""
        return tuple(made / seen for made, seen in zip(self.window, self.layout.window, strict=True))

    @cached_property
    def size(self) -> tuple[int, ...]:
        """Voxels of the output along each axis, padding included."""
        return self.at(self.layout.size)

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """First voxels of the windows along each axis.

        Raises:
            ConfigError: A window falls between the voxels of the output.
        """
        starts = []
        for axis, zoom in enumerate(self.zoom):
            window = self.layout.window[axis]
            for start in self.layout.starts[axis]:
                if int((start + window) * zoom) - int(start * zoom) != self.window[axis]:
                    raise ConfigError(
                        f"a window from voxel {start} of axis {axis} falls between the voxels of an output "
                        f"that is {zoom:g} times as fine",
                        where="overlap",
                        fix=f"choose image, window and overlap so that {zoom:g} times them are whole numbers",
                    )
            starts.append(tuple(self.at_slice(axis, start) for start in self.layout.starts[axis]))
        return tuple(starts)

    @cached_property
    def inside(self) -> tuple[tuple[int, int], ...]:
        """First voxel and the one behind the last of what is no padding, along each axis."""
        ranges = []
        for axis, (before, behind) in enumerate(self.layout.padding):
            zoom = self.size[axis] / self.layout.window[axis]
            stop = before + self.layout.image[axis]
            if before or behind:
                ranges.append((round(before * zoom), min(round(stop * zoom), self.size[axis])))
            else:
                ranges.append((0, self.size[axis]))
        return tuple(ranges)

    @property
    def image(self) -> tuple[int, ...]:
        """Voxels of the output along each axis, without padding."""
        return tuple(stop - start for start, stop in self.inside)

    def at(self, place: Sequence[int]) -> tuple[int, ...]:
        """The voxel of the output at which a voxel of the image begins."""
        return tuple(self.at_slice(axis, index) for axis, index in enumerate(place))

    def at_slice(self, axis: int, index: int) -> int:
        """The slice of the output at which a slice of the image begins."""
        return int(index * self.zoom[axis])
