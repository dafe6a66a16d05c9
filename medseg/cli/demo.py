"""``medseg demo``: the whole way in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.cli.console import DebugOption, JsonOption, QuietOption, bars, print_json, print_table, status

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option(help="A folder that is new or empty.")] = Path("demo"),
    max_steps: Annotated[
        int | None, typer.Option(help="End training after so many steps.", show_default="by recipe")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of phantoms and training.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Make phantoms, train a small U-Net, segment phantoms it has not seen, score, and draw.

    Takes some minutes on two cores. Example: medseg demo --out demo
    """
    from medseg.demo import run_demo
    from medseg.training import Budget

    started = time.monotonic()
    with bars() as progress:
        demo = run_demo(
            out, seed=seed, budget=None if max_steps is None else Budget(max_steps), progress=progress
        )
    network, otsu = demo.network.summary, demo.otsu.summary
    if as_json:
        print_json({"network": network, "otsu": otsu, "picture": str(demo.picture)})
        return
    rows = [
        [entry["name"], _dice(entry), _dice(baseline)]
        for entry, baseline in zip(network["classes"], otsu["classes"], strict=True)
    ]
    rows.append(["mean", f"{network['mean']['dice']:.3f}", f"{otsu['mean']['dice']:.3f}"])
    print_table(
        f"Dice on {network['n_cases']} phantoms that were not trained on",
        ["structure", "U-Net", "multi-Otsu"],
        rows,
    )
    minutes = (time.monotonic() - started) / 60
    status(f"Done in {minutes:.1f} minutes. Look at {demo.picture}; all else is in {out}.")
    status(f"Segment an image of your own: medseg predict --model {demo.run.path} --input IMAGE --out FOLDER")


def _dice(entry: dict[str, Any]) -> str:
    mean = entry["dice"]["mean"]
    return "-" if mean is None else f"{mean:.3f}"
