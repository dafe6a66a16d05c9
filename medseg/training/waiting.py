"""How long a training waits for its data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

__all__ = ["WaitingLoader"]

Batch = TypeVar("Batch")


class WaitingLoader(DataLoader[Batch]):
    """A data loader that measures how long whoever asks for a batch stands still.

    With worker processes that is the time until a batch is there, without them all the time that making it
    takes. Starting the workers, and filling their queues when an epoch begins, is waiting too.

    Attributes:
        waited_seconds: All waiting so far.

    Example:
        >>> loader = WaitingLoader([1, 2, 3])
        >>> len(list(loader)), loader.waited_seconds > 0.0
        (3, True)
    """

    waited_seconds: float = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """The batches of an epoch."""
        began = time.monotonic()
        batches = super().__iter__()
        self.waited_seconds += time.monotonic() - began
        return _Waited(batches, self)


class _Waited(Iterator[Batch]):
    def __init__(self, batches: Iterator[Batch], loader: WaitingLoader[Any]) -> None:
        self._batches = batches
        self._loader = loader

    def __next__(self) -> Batch:
        began = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self._loader.waited_seconds += time.monotonic() - began
