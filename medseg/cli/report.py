"""``medseg report``: an evaluation or a comparison as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.console import DebugOption, JsonOption, QuietOption, print_json, status

__all__ = ["command"]


def command(
    folder: Annotated[Path, typer.Argument(help="Folder that 'medseg evaluate' or 'medseg compare' wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file.", show_default="report.html in the folder")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to draw on.", show_default="the one that was drawn on before"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Above the report.", show_default="by folder")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Write a report as one HTML file that needs no network: tables, charts, failures, pictures of errors.

    Examples:
    medseg report scores --images dataset/imagesTs

    medseg report comparison --out comparison.html
    """
    from medseg.comparison import write_report

    path = write_report(folder, out, images=images, title=title)
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    status(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
