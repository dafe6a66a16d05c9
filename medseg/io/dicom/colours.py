"""Colours as DICOM stores them, to red, green and blue (PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from medseg.io.dicom.plane_format import PlaneFormat

__all__ = ["BRIGHTNESS_AND_COLOUR", "COLOUR_MODELS", "red_green_blue", "shown"]

BRIGHTNESS_AND_COLOUR: Final = frozenset({"YBR_FULL", "YBR_FULL_422"})
"""Brightness, then how blue and how red: converted by the equations of the standard."""

COLOUR_MODELS: Final = frozenset({"RGB", "YBR_ICT", "YBR_RCT", *BRIGHTNESS_AND_COLOUR})
"""Photometric interpretations that can be read. Those of JPEG 2000 (ICT, RCT) are its codec's affair. Not
among them: palettes, and those that the standard has retired."""


def shown(photometric: str) -> str:
    """A photometric interpretation for an error: as it is if it could be one, for a header may say anything.

    Example:
        >>> shown("PALETTE COLOR"), shown("Jane Doe")
        ('PALETTE COLOR', 'of no known kind')
    """
    return photometric if re.fullmatch("[A-Z0-9_ ]{1,16}", photometric) else "of no known kind"


def red_green_blue(values: npt.NDArray[Any], form: PlaneFormat) -> npt.NDArray[Any]:
    """A plane of colours that is not compressed, shape (rows, columns, 3).

    Args:
        values: As they lie in the file, one-dimensional.
        form: How they lie.

    Raises:
        ValueError: Voxels share their colours in pairs, and there is an odd number of them.

    Example:
        >>> from medseg.io.dicom.plane_format import PlaneFormat
        >>> form = PlaneFormat(1, 2, 1, np.dtype("uint8"), 8, 7, samples=3, photometric="RGB", planar=True)
        >>> red_green_blue(np.array([1, 2, 10, 20, 100, 200], np.uint8), form).tolist()
        [[[1, 10, 100], [2, 20, 200]]]
    """
    from pydicom.pixels.processing import (
        convert_color_space,  # takes long to load, and a scan needs none of it
    )
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
