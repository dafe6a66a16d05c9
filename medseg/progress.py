"""How long work tells that it goes on, without knowing who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

__all__ = ["Progress", "SilentProgress", "track"]

Item = TypeVar("Item")


class Progress(Protocol):
    """Shows how far tasks have come. The command line draws bars; a library call stays silent."""

    def task(
        self, description: str, total: float | None = None
    ) -> AbstractContextManager[Callable[[float], None]]:
        """Open a task; the callable that it yields advances it by so many units."""
        ...

    def note(self, message: str) -> None:
        """Say something worth a line."""
        ...


class SilentProgress:
    """Shows nothing: the default of every public function."""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:  # noqa: ARG002
        """Open a task that nobody sees."""
        yield lambda _amount: None

    def note(self, message: str) -> None:
        """Keep it to itself."""


def track(
    items: Iterable[Item], description: str, progress: Progress, total: int | None = None
) -> Iterator[Item]:
    """Yield ``items`` one by one and advance a task after each.

    Example:
        >>> list(track("ab", "letters", SilentProgress()))
        ['a', 'b']
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress.task(description, total) as advance:
        for item in items:
            yield item
            advance(1)
