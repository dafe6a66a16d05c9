"""The command line: one file a verb, each of which parses its options and makes one public call."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer

from medseg import __version__
from medseg.cli import (
    compare,
    console,
    convert,
    data,
    demo,
    evaluate,
    export,
    inspect,
    plan,
    predict,
    report,
    train,
)
from medseg.errors import USAGE_EXIT_CODE, MedsegError, explain_os_errors

__all__ = ["app", "main", "run"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Typer brings its own copy of click, so click's UsageError is another class; this child of the right one is
# what typer exports.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="medseg",
    help="3D medical image segmentation for CT and MR: train, predict, evaluate.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(demo.command)
app.command("plan")(plan.command)
app.command("train")(train.command)
app.command("predict")(predict.command)
app.command("evaluate")(evaluate.command)
app.command("compare")(compare.command)
app.command("report")(report.command)
app.command("inspect")(inspect.command)
app.command("convert")(convert.command)
app.command("export")(export.command)
app.add_typer(data.app, name="data", help="Datasets: list, fetch, check, split.")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"medseg {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", help="Show the version.", callback=_show_version, is_eager=True
    ),
) -> None:
    pass


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the process: run the command line and leave with its exit code."""
    code = main(sys.argv[1:] if arguments is None else arguments)
    try:
        with explain_os_errors("standard output"):
            sys.stdout.flush()
    except (MedsegError, BrokenPipeError) as error:
        # Who pipes into `head` knows that the rest is lost, and an earlier error was told already.
        if code == 0 and isinstance(error, MedsegError):
            print(f"medseg: {error}", file=sys.stderr)
        code = code or getattr(error, "exit_code", 1)
        # What could not be written now could not be written at the interpreter's end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run the command line, turn errors into one line on standard error and an exit code.

    Args:
        arguments: What stands behind ``medseg``; none asks for help.

    Returns:
        The exit code: 0, an error's own code, 64 for a wrong call, 130 if interrupted.
    """
    console.settings.quiet = console.settings.debug = False
    try:
        result = _call(arguments or ["--help"])
    except MedsegError as error:
        if console.settings.debug:
            traceback.print_exc()
        print(f"medseg: {error}", file=sys.stderr)
        return error.exit_code
    except _UsageError as error:
        print(_usage_line(error), file=sys.stderr)
        return USAGE_EXIT_CODE
    except (typer.Abort, KeyboardInterrupt):
        result = _INTERRUPTED  # some versions of typer return this code themselves
    if result == _INTERRUPTED:
        print("medseg: interrupted", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _call(arguments: list[str]) -> Any:
    """Call the application; what the operating system refuses anywhere in it is told in medseg's words."""
    try:
        return app(arguments, prog_name="medseg", standalone_mode=False)
    except OSError as error:
        with explain_os_errors(error.filename or "medseg"):
            raise


def _usage_line(error: Any) -> str:
    command = error.ctx.command_path if error.ctx is not None else "medseg"
    return f"{command}: {error.format_message().rstrip('.')}; see '{command} --help'"
