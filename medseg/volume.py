"""An array together with the grid it lies on: what travels between files and stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.geometry import AxisMap, Grid, axis_map

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["Slices", "Volume"]


class Slices(Protocol):
    """An image whose voxels are read a slab at a time, wherever they lie."""

    @property
    def name(self) -> str:
        """What it is called in errors, such as its file."""
        ...

    @property
    def grid(self) -> Grid:
        """The grid of the spatial axes."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, in native byte order."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Memory that the image itself takes, slabs that were given out not counted."""
        ...

    def slices(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Slices [start, stop) along a spatial axis: (C, X, Y, Z) where that axis has stop - start slices."""
        ...


@dataclass(frozen=True, eq=False)
class Volume:
    """Channels of voxels on one grid.

    Attributes:
        array: Shape (C, X, Y, Z).
        grid: The grid of the last three axes.

    Raises:
        GeometryError: The array is not four-dimensional, or its shape is not the grid's.

    Example:
        >>> volume = Volume(np.zeros((1, 2, 3, 4)), Grid((2, 3, 4), np.eye(4)))
        >>> volume.channels, volume.grid.axcodes
        (1, 'RAS')
    """

    array: npt.NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.ndim != 4:
            raise GeometryError(f"array has {self.array.ndim} dimensions, (C, X, Y, Z) is needed")
        if self.array.shape[1:] != self.grid.shape:
            raise GeometryError(f"array {self.array.shape[1:]} does not fit the grid {self.grid.shape}")

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return "the image"

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, in native byte order."""
        return self.array.dtype.newbyteorder("=")

    @property
    def resident_bytes(self) -> int:
        """Memory that the voxels take."""
        return int(self.array.nbytes)

    def slices(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Slices [start, stop) along a spatial axis, in this volume's memory where byte order allows."""
        chosen = [slice(None)] * 4
        chosen[1 + axis] = slice(start, stop)
        return self.array[tuple(chosen)].astype(self.dtype, copy=False)

    def mapped(self, axes: AxisMap) -> Volume:
        """Permute and flip the spatial axes; no voxel is copied or interpolated."""
        return Volume(axes.apply(self.array), self.grid.mapped(axes))

    def reoriented(self, axcodes: str) -> Volume:
        """The same voxels in the orientation ``axcodes``, such as ``"RAS"``."""
        return self.mapped(axis_map(self.grid.axcodes, axcodes))

    def to_metatensor(self) -> MetaTensor:
        """A MONAI ``MetaTensor`` (C, X, Y, Z) with this grid's affine; shares memory where it can."""
        import torch
        from monai.data import MetaTensor

        array = self.array
        native = array.dtype.newbyteorder("=")
        if array.dtype != native or any(stride < 0 for stride in array.strides):
            array = np.ascontiguousarray(array, dtype=native)
        if not array.flags.writeable:
            array = array.copy()
        return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(self.grid.affine.copy()))

    @classmethod
    def from_metatensor(cls, tensor: MetaTensor) -> Volume:
        """From a MONAI ``MetaTensor`` of shape (C, X, Y, Z), on any device."""
        array = tensor.as_tensor().detach().cpu().numpy()
        affine = tensor.affine.detach().cpu().numpy()
        return cls(array, Grid(array.shape[-3:], affine))
