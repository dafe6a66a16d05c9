"""What the command line shows, and where."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable

import pytest
from rich.console import Console

from medseg.cli import console
from medseg.errors import ResourceError
from medseg.progress import Board, SilentProgress


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.settings, "quiet", False)
    monkeypatch.setattr(console.settings, "debug", False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error as if it were a terminal."""
    written = io.StringIO()
    drawn = Console(file=written, force_terminal=True, width=100, _environ={})
    monkeypatch.setattr(console, "_messages", drawn)
    return written


def test_json_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"dice": [0.5, None], "name": "[b]größe[/b]"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"dice": [0.5, None], "name": "[b]größe[/b]"}
    assert captured.err == ""


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.print_json({"dice": float("nan")})


def test_table_in_a_pipe_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    long = "case_" + "x" * 200
    console.print_table("Scores [all]", ["case", "dice"], [[long, "0.912"], ["[b]b[/b]", "1"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Scores [all]"
    rows = [
        [cell.strip() for cell in line.strip("│┃").split("│" if "│" in line else "┃")] for line in lines[2:]
    ]
    assert ["case", "dice"] in rows
    assert [long, "0.912"] in rows
    assert ["[b]b[/b]", "1"] in rows


def test_table_alignment(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table("", ["case", "dice", "status"], [["a", "1", "ok"]], text_columns=(0, 2))
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│"))
    assert row == "│ a    │    1 │ ok     │"


def test_table_on_a_narrow_terminal_is_folded_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    narrow = Console(
        file=written, force_terminal=True, width=30, soft_wrap=True, color_system=None, _environ={}
    )
    monkeypatch.setattr(console, "output", narrow)
    console.print_table("", ["case", "dice"], [["abcdefghij" * 5, "0.912"]])
    assert "…" not in written.getvalue()
    letters = "".join(character for character in written.getvalue() if character in "abcdefghij")
    assert letters.count("j") == 5


@pytest.mark.parametrize(
    "show", [lambda: console.print_json([1]), lambda: console.print_table("t", ["a"], [])]
)
def test_full_standard_output(monkeypatch: pytest.MonkeyPatch, show: Callable[[], None]) -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(ResourceError, match="standard output: no space left"):
        show()


def test_status_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    console.status("[1/2] case_001 " + "x" * 200)
    captured = capfd.readouterr()
    assert captured.err == "[1/2] case_001 " + "x" * 200 + "\n"
    assert captured.out == ""


def test_quiet_silences_status(capfd: pytest.CaptureFixture[str]) -> None:
    console.settings.quiet = True
    console.status("busy")
    assert capfd.readouterr() == ("", "")


def test_bars_on_a_terminal(terminal: io.StringIO) -> None:
    with console.bars() as progress, progress.task("cases", total=3) as advance:
        for _ in range(3):
            advance(1)
    assert "cases" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_bars_without_a_total(terminal: io.StringIO) -> None:
    with console.bars() as progress, progress.task("steps") as advance:
        advance(5)
    assert "steps" in terminal.getvalue()


def test_notes_stand_beside_the_bars(terminal: io.StringIO) -> None:
    with console.bars() as progress:
        progress.note("[fold 1] begins")
    assert "[fold 1] begins" in terminal.getvalue()


BOARD = Board(
    "Training [fold 0]",
    facts=(("step", "12"), ("loss", "0.5")),
    columns=("", "last", "best"),
    rows=(("Dice [b]liver[/b]", "0.25", "0.75"),),
    footnote="the worst 1 of 9",
)


def test_a_board_stands_above_the_bars_while_it_is_open(terminal: io.StringIO) -> None:
    with console.bars() as progress, progress.task("training", total=100):
        with progress.board() as show:
            show(BOARD)
        progress.note("after it")
    before, after = terminal.getvalue().split("after it")
    for words in ("Training [fold 0]", "step", "12", "Dice [b]liver[/b]", "0.75", "the worst 1 of 9"):
        assert words in _shown(show_board=BOARD)
    assert "Dice" not in after
    assert "training" in before + after


def _shown(show_board: Board) -> str:
    written = io.StringIO()
    Console(file=written, width=100, _environ={}).print(console._panel(show_board))
    return written.getvalue()


def test_a_board_without_a_table_shows_its_facts() -> None:
    shown = _shown(Board("x", facts=(("step", "12"),)))
    assert "step" in shown
    assert len(shown.splitlines()) == 3


def test_a_board_fits_a_narrow_terminal() -> None:
    written = io.StringIO()
    Console(file=written, width=40, _environ={}).print(console._panel(BOARD))
    assert max(map(len, written.getvalue().splitlines())) <= 40


def test_bars_are_silent_with_quiet(terminal: io.StringIO) -> None:
    console.settings.quiet = True
    with console.bars() as progress, progress.task("cases", total=1) as advance:
        advance(1)
    assert isinstance(progress, SilentProgress)
    assert terminal.getvalue() == ""


def test_boards_are_silent_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with console.bars() as progress, progress.board() as show:
        show(BOARD)
    assert capfd.readouterr() == ("", "")


def test_bars_are_silent_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with console.bars() as progress, progress.task("cases", total=1) as advance:
        advance(1)
    assert isinstance(progress, SilentProgress)
    assert capfd.readouterr() == ("", "")
