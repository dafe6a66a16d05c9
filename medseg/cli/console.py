"""What the command line shows: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from medseg.errors import explain_os_errors
from medseg.progress import Board, Progress, SilentProgress

__all__ = [
    "DebugOption",
    "JsonOption",
    "QuietOption",
    "TrustOption",
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
_REFRESHED_A_SECOND = 1
"""Each time costs milliseconds of CPU time, which a training may count."""

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
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust", help="Let a bundle that was not made here execute code of its own; read it before."
    ),
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


class _Drawn(RichBars):
    """Bars, with a board above them while there is one."""

    shown: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.shown is not None:
            yield self.shown
        yield from super().get_renderables()


def _panel(board: Board) -> Panel:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(justify="right")
    for name, value in board.facts:
        facts.add_row(Text(name), Text(value))
    beside = Table.grid(padding=(0, 4))
    if board.columns:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for position, column in enumerate(board.columns):
            table.add_column(Text(column), justify="right" if position else "left", overflow="ellipsis")
        for row in board.rows:
            table.add_row(*(Text(field) for field in row))
        footed = Table.grid()
        footed.add_row(table)
        if board.footnote:
            footed.add_row(Text(board.footnote, style="dim"))
        beside.add_row(facts, footed)
    else:
        beside.add_row(facts)
    return Panel(beside, title=Text(board.title), title_align="left", expand=False)


class _Bars:
    def __init__(self, drawn: _Drawn) -> None:
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
    def board(self) -> Iterator[Callable[[Board], None]]:
        try:
            yield self._show
        finally:
            self._drawn.shown = None

    def _show(self, board: Board) -> None:
        console = self._drawn.console
        # Laid out once a state, not once a refresh.
        lines = console.render_lines(_panel(board), pad=False, new_lines=True)
        self._drawn.shown = Segments(segment for line in lines for segment in line)


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
    with _Drawn(*columns, console=_messages, refresh_per_second=_REFRESHED_A_SECOND) as drawn:
        yield _Bars(drawn)
