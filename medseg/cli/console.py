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
from rich.text import Text

from medseg.errors import explain_os_errors
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


_STDOUT = "standard output"
_ANY_WIDTH = 10_000

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
    with explain_os_errors(_STDOUT):
        print(json.dumps(value, indent=2, allow_nan=False))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = (0,)
) -> None:
    """Print a table on standard output; ``text_columns`` are aligned left, the others right.

    Nothing is cut: a terminal folds what is too wide for it, a pipe gets each row on one line.
    """
    table = Table(title=Text(title), title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = output if output.is_terminal else Console(soft_wrap=True, width=_ANY_WIDTH)
    with explain_os_errors(_STDOUT):
        console.print(table, highlight=False, markup=False)


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

    def note(self, message: str) -> None:
        self._drawn.console.print(message, highlight=False, markup=False)


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
