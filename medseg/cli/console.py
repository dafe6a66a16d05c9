"""What the command line shows: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.table import Table

from medseg.progress import Progress, SilentProgress

__all__ = [
    "DebugOption",
    "JsonOption",
    "QuietOption",
    "bars",
    "output",
    "print_json",
    "print_table",
    "settings",
    "status",
]


@dataclass
class _Settings:
    quiet: bool = False
    debug: bool = False


settings = _Settings()
"""What ``--quiet`` and ``--debug`` set, for this process."""

output = Console(soft_wrap=True)
_messages = Console(stderr=True)


def _set_quiet(value: bool) -> bool:
    settings.quiet = value
    return value


def _set_debug(value: bool) -> bool:
    settings.debug = value
    return value


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.", callback=_set_quiet)]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the whole traceback of an error.", callback=_set_debug)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def status(message: str) -> None:
    """Say something on standard error, unless ``--quiet``."""
    if not settings.quiet:
        _messages.print(message, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; the first column is text, the others are aligned right."""
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*row)
    output.print(table, highlight=False, markup=False)


class _Bars:
    def __init__(self, drawn: RichBars) -> None:
        self._drawn = drawn

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        identifier = self._drawn.add_task(description, total=total)
        try:
            yield lambda amount: self._drawn.advance(identifier, amount)
        finally:
            self._drawn.stop_task(identifier)


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars on a terminal; silence in a pipe or with ``--quiet``."""
    if settings.quiet or not _messages.is_terminal:
        yield SilentProgress()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichBars(*columns, console=_messages) as drawn:
        yield _Bars(drawn)
