"""The slices of a layer that somebody still needs, and how a reader gets them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["Chunks", "Scratch", "gather"]


class Chunks:
    """Slices of one layer: those that were made just now, and those that are kept for later.

    What is kept lies in a ring that is as large as it will ever have to be. So what lives long has its place
    from the beginning, what lives short comes and goes beside it, and memory gets no holes.

    Args:
        shape: Of the whole layer in the stream's order of axes, (B, C, length, …).
        dim: The axis that is streamed.
        like: Has the slices' type and device.
        room: Slices that are kept for later, at most.
    """

    def __init__(self, shape: Sequence[int], dim: int, like: Tensor, room: int) -> None:
        self.shape = tuple(shape)
        self.dim = dim
        self.like = like
        self._room = room
        self._fresh: list[tuple[int, Tensor]] = []
        self._ring: Tensor | None = None
        self._kept = (0, 0)

    @property
    def length(self) -> int:
        """Slices of the whole layer."""
        return self.shape[self.dim]

    def add(self, start: int, made: Tensor) -> None:
        """Take in the slices that come next; they stay where they are until some are forgotten."""
        self._fresh.append((start, made))

    def pieces(self, start: int, stop: int) -> list[Tensor]:
        """Slices [start, stop), in the memory in which they lie."""
        low, high = max(start, self._kept[0]), min(stop, self._kept[1])
        found = list(self._in_ring(low, high)) if low < high else []
        for first, made in self._fresh:
            low, high = max(start, first), min(stop, first + made.shape[self.dim])
            if low < high:
                found.append(made.narrow(self.dim, low - first, high - low))
        return found

    def forget(self, keep: int) -> None:
        """Let go of slices before ``keep``, and of the memory in which the others were made."""
        low, high = self._kept
        self._kept = min(max(low, keep), high), high
        for start, made in self._fresh:
            stop = start + made.shape[self.dim]
            first = max(start, keep)
            if first < stop:
                self._keep(first, made.narrow(self.dim, first - start, stop - first))
        self._fresh.clear()

    def owns(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` lies in the memory of what is held."""
        return self.will_overwrite(tensor) or any(_share_memory(made, tensor) for _, made in self._fresh)

    def will_overwrite(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` lies in the ring, where later slices will take its place."""
        return self._ring is not None and _share_memory(self._ring, tensor)

    def _keep(self, start: int, slices: Tensor) -> None:
        if self._ring is None:
            shape = [*self.shape]
            shape[self.dim] = self._room
            self._ring = _empty(shape, self.like.dtype, self.like.device, None)
        low, high = self._kept
        self._kept = (start if low == high else low), start + slices.shape[self.dim]
        position = 0
        for place in self._in_ring(start, self._kept[1]):
            count = place.shape[self.dim]
            place.copy_(slices.narrow(self.dim, position, count))
            position += count

    def _in_ring(self, start: int, stop: int) -> Iterator[Tensor]:
        """The places of slices [start, stop): one piece, or two where they go round."""
        if self._ring is None:
            raise AssertionError  # slices are kept there alone
        while start < stop:
            position = start % self._room
            count = min(stop - start, self._room - position)
            yield self._ring.narrow(self.dim, position, count)
            start += count


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class Scratch:
    """Memory in which one layer after the other brings together what it reads, and of which it keeps nothing.

    To take it from the system each time would cost a sixth of a stream's time, and leave holes.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor with channels last, in place of the one that was taken before."""
        plan = torch.empty(shape, dtype=dtype, device="meta", memory_format=_layout(shape))
        if self._memory.numel() < plan.nbytes or self._memory.device != device:
            self._memory = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
            self._memory = torch.empty(plan.nbytes, dtype=torch.uint8, device=device)
        return self._memory[: plan.nbytes].view(dtype).as_strided(plan.shape, plan.stride())


def gather(
    sources: Sequence[Chunks],
    start: int,
    stop: int,
    *,
    border: float = 0.0,
    dtype: torch.dtype | None = None,
    scratch: Scratch | None = None,
) -> Tensor:
    """Slices [start, stop) of one layer, or of several side by side as channels, in one tensor.

    Args:
        sources: They hold at least what exists of these slices.
        start: First slice; below zero, ``border`` stands there.
        stop: Behind the last one; beyond the layer's length, ``border`` stands there.
        border: What pads the layers.
        dtype: Of the result, if it is another than what is held.
        scratch: Where they are brought together, if not in memory of their own.

    Returns:
        In the memory of the only piece that is needed, or else copied once; channels last.
    """
    first = sources[0]
    low, high = min(max(start, 0), first.length), max(min(stop, first.length), 0)
    pieces = [source.pieces(low, high) for source in sources] if low < high else [[] for _ in sources]
    (inner, *others) = pieces
    if not others and len(inner) == 1 and (low, high) == (start, stop) and dtype in (None, inner[0].dtype):
        return inner[0]
    shape = list(first.shape)
    shape[first.dim] = stop - start
    shape[first.dim - 1] = sum(source.shape[first.dim - 1] for source in sources)
    made = _empty(shape, dtype or first.like.dtype, first.like.device, scratch)
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


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device, scratch: Scratch | None) -> Tensor:
    if scratch is not None:
        return scratch.take(shape, dtype, device)
    return torch.empty(shape, dtype=dtype, device=device, memory_format=_layout(shape))


def _layout(shape: Sequence[int]) -> torch.memory_format:
    """Channels last."""
    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape), torch.contiguous_format)
