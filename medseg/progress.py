"""How long work tells that it goes on, without knowing who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["Board", "Progress", "SilentProgress", "track"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Board:
    """What long work shows of itself beside its bar, as text.

    Attributes:
        title: What it is.
        facts: Names and values.
        columns: Headings of the table, if there is one.
        rows: Of the table, a field for each column.
        footnote: Below the table.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    footnote: str = ""


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

    def board(self) -> AbstractContextManager[Callable[[Board], None]]:
        """Open a board beside the bars; the callable that it yields shows another state of it."""
        ...


class SilentProgress:
    """Shows nothing: the default of every public function."""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:  # noqa: ARG002
        """Open a task that nobody sees."""
        yield lambda _amount: None

    def note(self, message: str) -> None:
        """Keep it to itself."""

    @contextmanager
    def board(self) -> Iterator[Callable[[Board], None]]:
        """Open a board that nobody sees."""
        yield lambda _board: None


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
