"""Intensities of different scanners made comparable."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.volume import Volume

__all__ = ["standardized"]

_LOW, _HIGH = 1.0, 99.0
_BELOW, _ABOVE = -0.1, 1.5


def standardized(image: Volume, channel: int = 0) -> Volume:
    """One channel, its 1st and 99th percentile brought to 0 and 1, and what is far beyond held there.

    Args:
        image: (C, X, Y, Z), finite.
        channel: Which.

    Returns:
        (1, X, Y, Z), float32, between -0.1 and 1.5.

    Raises:
        InputError: The channel is constant: nothing in it can be registered.

    Example:
        >>> from medseg.geometry import Grid
        >>> image = Volume(np.arange(201.0).reshape(1, 201, 1, 1), Grid((201, 1, 1), np.eye(4)))
        >>> standardized(image).array[0, [2, 100, 198], 0, 0].round(3).tolist()
        [0.0, 0.5, 1.0]
    """
    values = image.array[channel].astype(np.float64)
    low, high = np.percentile(values, (_LOW, _HIGH))
    if high <= low:  # most of it is background: what is not must then tell
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise InputError("all voxels have the same intensity", fix="give an image that shows something")
    scaled: npt.NDArray[np.float64] = (values - low) / (high - low)
    return Volume(np.clip(scaled, _BELOW, _ABOVE).astype(np.float32)[np.newaxis], image.grid)
