"""Where windows are cut from: an image that is there, or one that is read slice by slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.inference.slabs import Read
from medseg.inference.sliding_window.layout import Layout

__all__ = ["SlicesAtHand", "pad", "window_of"]


def pad(images: Tensor, padding: Sequence[tuple[int, int]], mode: str, value: float) -> Tensor:
    """Pad (B, C, X, Y[, Z]) by voxels before and behind along each axis.

    Raises:
        ConfigError: An axis is too short to be mirrored or wrapped around as far as that.
    """
    amounts = [amount for pair in reversed(padding) for amount in pair]
    if not any(amounts):
        return images
    for axis, pair in enumerate(padding):
        length = images.shape[2 + axis]
        farthest = {"reflect": length - 1, "circular": length}.get(mode, max(pair))
        if max(pair) > farthest:
            raise ConfigError(
                f"{length} voxels along axis {axis} cannot be padded by {max(pair)} in mode '{mode}'",
                where="padding_mode",
                fix="use 'constant' or 'replicate', or smaller windows",
            )
    return nn.functional.pad(images, amounts, mode=mode, value=value if mode == "constant" else None)


def window_of(images: Tensor, image: int, corner: Sequence[int], size: Sequence[int]) -> Tensor:
    """A window of one image, (1, C, *size)."""
    places = (slice(start, start + length) for start, length in zip(corner, size, strict=True))
    return images[(slice(image, image + 1), slice(None), *places)]


class SlicesAtHand:
    """An image read forwards, of which the slices of the present layer of windows are kept.

    Args:
        read: Gives slices along the axis.
        layout: Of the windows.
        axis: Spatial axis along which they come in layers.
        mode: How an image that is smaller than the window is padded, as in ``torch.nn.functional.pad``.
        value: What with, where the mode is ``"constant"``.
    """

    def __init__(self, read: Read, layout: Layout, axis: int, mode: str, value: float) -> None:
        self._read = read
        self._layout = layout
        self._axis = axis
        self._mode = mode
        self._value = value
        self._start = 0
        self._kept: Tensor | None = None

    def window(self, image: int, corner: Sequence[int]) -> Tensor:
        """A window, (1, C, *window); its layer is none before that of the last one asked for."""
        start = corner[self._axis]
        slices = self._layer(start)
        place = [*corner]
        place[self._axis] = 0
        return window_of(slices, image, place, self._layout.window)

    def _layer(self, start: int) -> Tensor:
        if self._kept is not None and start == self._start:
            return self._kept
        dim = 2 + self._axis
        stop = min(start + self._layout.window[self._axis], self._layout.image[self._axis])
        if self._kept is None:
            made = self._padded(self._read(0, stop))
        else:
            known = self._start + self._kept.shape[dim]
            overlap = self._kept.narrow(dim, start - self._start, known - start)
            made = torch.cat([overlap, self._padded(self._read(known, stop))], dim)
        self._start, self._kept = start, made
        return made

    def _padded(self, slices: Tensor) -> Tensor:
        # An axis that needs padding is covered by one layer, for which all of it is read at once.
        return pad(slices, self._layout.padding, self._mode, self._value)
