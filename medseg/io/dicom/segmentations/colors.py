"""Colours as DICOM writes them: CIELab in three 16-bit integers (PS3.3 C.10.7.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["cielab_from_rgb", "rgb_from_cielab"]

_FROM_XYZ = np.array(  # IEC 61966-2-1 (sRGB), white point D65
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)
_TO_XYZ = np.linalg.inv(_FROM_XYZ)
_WHITE = _TO_XYZ.sum(axis=1)
_LINEAR_BELOW = 6.0 / 29.0
"""CIE 15: below this, the cube root gives way to a line."""

_SCALE = np.array([65535.0 / 100.0, 65535.0 / 255.0, 65535.0 / 255.0])
_OFFSET = np.array([0.0, 128.0, 128.0])


def cielab_from_rgb(color: Sequence[int]) -> tuple[int, int, int]:
    """From red, green, blue in 0..255 (sRGB) to DICOM's CIELab integers.

    Example:
        >>> cielab_from_rgb((255, 255, 255))
        (65535, 32896, 32896)
    """
    encoded = np.asarray(color, dtype=np.float64) / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    x, y, z = _lightness(_TO_XYZ @ linear / _WHITE)
    lab = np.array([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)])
    stored = np.rint((lab + _OFFSET) * _SCALE).clip(0, 65535).astype(int)
    return (int(stored[0]), int(stored[1]), int(stored[2]))


def rgb_from_cielab(stored: Sequence[int]) -> tuple[int, int, int]:
    """From DICOM's CIELab integers to red, green, blue in 0..255; what sRGB lacks is clipped.

    Example:
        >>> rgb_from_cielab(cielab_from_rgb((12, 200, 99)))
        (12, 200, 99)
    """
    lightness, a, b = np.asarray(stored, dtype=np.float64) / _SCALE - _OFFSET
    y = (lightness + 16.0) / 116.0
    ratio = np.array([y + a / 500.0, y, y - b / 200.0])
    linear = _FROM_XYZ @ (_cubed(ratio) * _WHITE)
    positive = np.maximum(linear, 0.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * positive ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(encoded * 255.0).clip(0, 255).astype(int)
    return (int(red), int(green), int(blue))


def _lightness(ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    line = ratio / (3 * _LINEAR_BELOW**2) + 4.0 / 29.0
    return np.where(ratio > _LINEAR_BELOW**3, np.cbrt(ratio), line)


def _cubed(root: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    line = 3 * _LINEAR_BELOW**2 * (root - 4.0 / 29.0)
    return np.where(root > _LINEAR_BELOW, root**3, line)
