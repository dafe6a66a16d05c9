"""Voxel types and values: what may be read, what is written, what a network can use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.labels import smallest_integer_dtype
from medseg.volume import Volume

__all__ = ["FiniteCount", "require_finite", "require_real", "scaled_dtype", "stored_dtype"]


def require_real(dtype: np.dtype[Any], where: str | os.PathLike[str]) -> None:
    """Check that voxels are plain numbers of at most 64 bits.

    Raises:
        InputError: Complex, colour or other structured voxels, or 128-bit floating point.
    """
    if dtype.names is not None:
        kind, fix = "colours (RGB)", "convert it to one channel, or to one file per colour"
    elif dtype.kind == "c":
        kind, fix = "complex numbers", "write its magnitude to a file of its own"
    elif dtype.kind not in "iufb" or dtype.itemsize > 8:
        kind, fix = f"the type {dtype.name}", "convert it to float32"
    else:
        return
    raise InputError(
        f"voxels are {kind}, integers or floating-point numbers are needed", where=where, fix=fix
    )


def scaled_dtype(stored: np.dtype[Any], slope: float, intercept: float) -> np.dtype[Any]:
    """The type that holds ``slope * stored + intercept``: float32 where it keeps all stored values apart.

    Example:
        >>> scaled_dtype(np.dtype("int16"), 0.5, -1024.0)
        dtype('float32')
        >>> scaled_dtype(np.dtype("int32"), 0.5, 0.0)
        dtype('float64')
    """
    if stored.kind == "f":
        return np.dtype(np.float64 if stored.itemsize == 8 else np.float32)
    limits, single = np.iinfo(stored), np.finfo(np.float32)
    largest = abs(slope) * max(abs(int(limits.min)), int(limits.max)) + abs(intercept)
    in_range = float(single.tiny) <= abs(slope) and largest <= float(single.max)
    held = in_range and largest * float(single.eps) < abs(slope)
    return np.dtype(np.float32 if held else np.float64)


def stored_dtype(array: npt.NDArray[Any], *, labels: bool, where: str | os.PathLike[str]) -> np.dtype[Any]:
    """The type to write ``array`` as, without loss.

    Label maps, and integers of 64 bits, which many programs cannot read, take the smallest integer type that
    holds their values; half precision becomes float32 and booleans uint8; other types are kept.

    Args:
        array: The voxels.
        labels: Whether they are a label map.
        where: The file or argument, for the error.

    Raises:
        InputError: A label map that is not of an integer type, or values that no file holds.

    Example:
        >>> stored_dtype(np.array([0, 300]), labels=True, where="a.nii")
        dtype('int16')
    """
    require_real(array.dtype, where)
    if array.dtype.kind == "b":
        return np.dtype(np.uint8)
    if labels and array.dtype.kind == "f":
        raise InputError(
            f"a label map of type {array.dtype.name} cannot be written, integers are needed",
            where=where,
            fix="convert it to an integer type first",
        )
    if array.dtype.kind == "f":
        return np.dtype(np.float32) if array.dtype.itemsize == 2 else array.dtype.newbyteorder("=")
    if labels or array.dtype.itemsize == 8:
        return smallest_integer_dtype([int(array.min()), int(array.max())])
    return array.dtype.newbyteorder("=")


def require_finite(volume: Volume, where: str | os.PathLike[str]) -> None:
    """Check that no voxel is NaN or infinite.

    Args:
        volume: The image.
        where: Its file, for the error.

    Raises:
        InputError: Some voxels are not finite; the error counts them.

    Example:
        >>> from medseg.geometry import Grid
        >>> require_finite(Volume(np.full((1, 2, 2, 1), np.nan), Grid((2, 2, 1), np.eye(4))), "a.nii")
        Traceback (most recent call last):
        medseg.errors.InputError: a.nii: all 4 voxels are NaN; check how the image was made
    """
    count = FiniteCount()
    count.add(volume.array)
    count.require_finite(where)


@dataclass
class FiniteCount:
    """Counts voxels that are NaN or infinite, over as many parts of an image as there are.

    Attributes:
        voxels: How many were looked at.
        nan: How many of them are NaN.
        infinite: How many are infinite.
    """

    voxels: int = 0
    nan: int = 0
    infinite: int = 0

    def add(self, array: npt.NDArray[Any]) -> None:
        """Look at a part, of shape (C, X, Y, Z)."""
        self.voxels += array.size
        if array.dtype.kind != "f":
            return
        for plane in array.transpose(0, 3, 2, 1).reshape(-1, *array.shape[2:0:-1]):
            finite = np.isfinite(plane)
            if not finite.all():
                nan = int(np.isnan(plane).sum())
                self.nan += nan
                self.infinite += plane.size - int(finite.sum()) - nan

    def require_finite(self, where: str | os.PathLike[str]) -> None:
        """Check that every voxel was finite.

        Args:
            where: The image's file, for the error.

        Raises:
            InputError: Some were not; the error counts them.
        """
        if self.nan == self.voxels > 0:
            what, fix = f"all {self.nan} voxels are NaN", "check how the image was made"
        elif self.nan or self.infinite:
            counts = [
                f"{count} {kind}" for count, kind in ((self.nan, "NaN"), (self.infinite, "infinite")) if count
            ]
            what, fix = f"holds {' and '.join(counts)} voxels", "replace them, by 0 for instance"
        else:
            return
        raise InputError(what, where=where, fix=fix)
