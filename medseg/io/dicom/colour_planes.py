"""Planes of colours as DICOM stores them, to red, green and blue (PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.dicom.colours import BRIGHTNESS_AND_COLOUR
from medseg.io.dicom.plane_format import PlaneFormat

__all__ = ["red_green_blue"]


def red_green_blue(values: npt.NDArray[Any], form: PlaneFormat) -> npt.NDArray[Any]:
    """A plane of colours that is not compressed, shape (rows, columns, 3).

    Args:
        values: As they lie in the file, one-dimensional.
        form: How they lie.

    Raises:
        ValueError: Voxels share their colours in pairs, and there is an odd number of them.

    Example:
        >>> form = PlaneFormat(1, 2, 1, np.dtype("uint8"), 8, 7, samples=3, photometric="RGB", planar=True)
        >>> red_green_blue(np.array([1, 2, 10, 20, 100, 200], np.uint8), form).tolist()
        [[[1, 10, 100], [2, 20, 200]]]
    """
    # Takes long to load, and a scan needs none of it.
    from pydicom.pixels.processing import convert_color_space
    from pydicom.pixels.utils import expand_ybr422

    shape = (form.rows, form.columns, form.samples)
    if form.photometric == "YBR_FULL_422":
        plane = np.frombuffer(expand_ybr422(values.tobytes(), 8), form.dtype).reshape(shape)
    elif form.planar:
        plane = np.moveaxis(values.reshape(shape[2], *shape[:2]), 0, -1)
    else:
        plane = values.reshape(shape)
    if form.photometric in BRIGHTNESS_AND_COLOUR:
        return convert_color_space(plane.copy(), "YBR_FULL", "RGB")
    return plane
