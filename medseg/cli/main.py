"""The command line: one file a verb, each of which parses its options and makes one public call."""

from __future__ import annotations

import sys

import click
import typer

from medseg import __version__
from medseg.cli import console
from medseg.errors import USAGE_EXIT_CODE, MedsegError

__all__ = ["app", "run"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

app = typer.Typer(
    name="medseg",
    help="3D medical image segmentation for CT and MR: train, predict, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


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
    """Entry point: run the command line, turn errors into one line and an exit code."""
    sys.exit(main(sys.argv[1:] if arguments is None else arguments))


def main(arguments: list[str]) -> int:
    """Run the command line.

    Args:
        arguments: What stands behind ``medseg``.

    Returns:
        The exit code: 0, an error's own code, 64 for a wrong call, 130 if interrupted.
    """
    console.settings.quiet = console.settings.debug = False
    try:
        result = app(arguments, prog_name="medseg", standalone_mode=False)
    except MedsegError as error:
        if console.settings.debug:
            raise
        print(f"medseg: {error}", file=sys.stderr)
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return USAGE_EXIT_CODE
    except (click.Abort, KeyboardInterrupt):
        print("medseg: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return result if isinstance(result, int) else 0
