"""The slices of a layer that somebody still needs, and how a reader gets them together."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Chunks", "gather", "stays_in_place"]

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def stays_in_place(start: int, stop: int, keep: int) -> bool:
    """Whether a chunk [start, stop) is left as it is when slices before ``keep`` are forgotten.

    A smaller remainder is copied, so that the memory of the rest comes free; a larger one is not worth it.
    """
    return keep <= start or 2 * (stop - keep) > stop - start


class Chunks:
    """Slices of one layer, in the pieces in which they were made.

    Pieces are never joined to one: a tail of many slices, such as a skip connection's, is copied only where
    it is read.

    Args:
        shape: Of the whole layer in the stream's order of axes, (B, C, length, …).
        dim: The axis that is streamed.
        like: Has the pieces' type and device.
    """

    def __init__(self, shape: Sequence[int], dim: int, like: Tensor) -> None:
        self.shape = tuple(shape)
        self.dim = dim
        self.like = like
        self._chunks: deque[tuple[int, Tensor]] = deque()

    @property
    def length(self) -> int:
        """Slices of the whole layer."""
        return self.shape[self.dim]

    def add(self, start: int, made: Tensor) -> None:
        """Take in the slices that come next."""
        self._chunks.append((start, made))

    def pieces(self, start: int, stop: int) -> list[Tensor]:
        """Slices [start, stop), in the memory in which they lie."""
        found = []
        for first, chunk in self._chunks:
            low, high = max(start, first), min(stop, first + chunk.shape[self.dim])
            if low < high:
                found.append(chunk.narrow(self.dim, low - first, high - low))
        return found

    def forget(self, keep: int) -> None:
        """Let go of slices before ``keep``."""
        while self._chunks:
            start, chunk = self._chunks[0]
            stop = start + chunk.shape[self.dim]
            if stop > keep:
                break
            self._chunks.popleft()
        if not self._chunks or stays_in_place(start, stop, keep):
            return
        rest = chunk.narrow(self.dim, keep - start, stop - keep)
        self._chunks[0] = keep, rest.clone(memory_format=torch.preserve_format)

    def owns(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` lies in the memory of one of the pieces."""
        place = tensor.untyped_storage().data_ptr()
        return any(chunk.untyped_storage().data_ptr() == place for _, chunk in self._chunks)


def gather(
    sources: Sequence[Chunks],
    start: int,
    stop: int,
    *,
    border: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Slices [start, stop) of one layer, or of several side by side as channels, in one tensor.

    Args:
        sources: They hold at least what exists of these slices.
        start: First slice; below zero, ``border`` stands there.
        stop: Behind the last one; beyond the layer's length, ``border`` stands there.
        border: What pads the layers.
        dtype: Of the result, if it is another than what is held.

    Returns:
        In the memory of the only piece that is needed, or else copied once; channels last.
    """
    first = sources[0]
    low, high = min(max(start, 0), first.length), max(min(stop, first.length), 0)
    pieces = [source.pieces(low, high) for source in sources] if low < high else [[] for _ in sources]
    (inner, *others) = pieces
    if not others and len(inner) == 1 and (low, high) == (start, stop) and dtype in (None, inner[0].dtype):
        return inner[0]
    made = _empty(sources, stop - start, dtype)
    if low >= high:
        return made.fill_(border)
    if low > start:
        made.narrow(first.dim, 0, low - start).fill_(border)
    if stop > high:
        made.narrow(first.dim, high - start, stop - high).fill_(border)
    channel = 0
    for source, found in zip(sources, pieces, strict=True):
        channels = source.shape[first.dim - 1]
        room = made.narrow(first.dim - 1, channel, channels)
        channel += channels
        position = low - start
        for piece in found:
            room.narrow(first.dim, position, piece.shape[first.dim]).copy_(piece)
            position += piece.shape[first.dim]
    return made


def _empty(sources: Sequence[Chunks], length: int, dtype: torch.dtype | None) -> Tensor:
    first = sources[0]
    shape = list(first.shape)
    shape[first.dim] = length
    shape[first.dim - 1] = sum(source.shape[first.dim - 1] for source in sources)
    return torch.empty(
        shape,
        dtype=dtype or first.like.dtype,
        device=first.like.device,
        memory_format=_LAYOUTS.get(len(shape), torch.contiguous_format),
    )
