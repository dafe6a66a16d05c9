"""What does every network learn in the same time?

Trains one fold with the recipe of each network, several at once, each pinned to a core of its own with one
thread; segments and scores its validation cases by the command line, and prints one row a network, as
Markdown. Ten minutes of two cores are twenty CPU-minutes, the default. A network whose result lies in the
output folder is not trained again, so that a long comparison can be made in parts:

    python benchmarks/networks.py --data DATASET --out runs/networks [--networks unet,segnet] [--cpus 0,1]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from functools import partial
from pathlib import Path
from typing import Any

from measured import (
    MEDSEG,
    Place,
    add_budget,
    budget_arguments,
    on_cores,
    once,
    run,
    shown,
    table,
    trained_and_scored,
)

from medseg.files import read_json
from medseg.networks import network_names

CPU_MINUTES = 20.0


def main() -> None:
    """Train, predict, evaluate what has no result yet; print all results of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--networks", default=",".join(network_names()), help="all of them if left out")
    parser.add_argument("--fold", default="0")
    add_budget(parser, CPU_MINUTES)
    parser.add_argument("--seed", default="0")
    parser.add_argument(
        "--cpus", default="0,1", help="cores; one training at a time on each, and as many at once"
    )
    parser.add_argument("--out", required=True, type=Path, help="a folder, with earlier results or new")
    chosen = parser.parse_args()
    on_cores(chosen.cpus, [partial(row, name, chosen) for name in chosen.networks.split(",")])
    print(f"\n{os.cpu_count()} cores, {platform.platform()}.")


def row(name: str, chosen: argparse.Namespace, place: Place) -> None:
    """Make the row of a network if it is not there, and print all that are."""
    folder = chosen.out / name
    once(folder / "result.json", lambda: measure(name, folder, place, chosen))
    print_table(chosen.out)


def measure(name: str, folder: Path, place: Place, chosen: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    options = ["--recipe", name, "--seed", chosen.seed, *budget_arguments(chosen)]
    measured = trained_and_scored(folder, chosen.data, options, place, chosen.fold)
    inspected = json.loads(run([*MEDSEG, "inspect", folder / "run", "--json"], place, folder / "log.txt")[0])
    return {
        "network": name,
        "dice": measured["dice"],
        "mean_dice": measured["mean_dice"],
        "steps": measured["finished"]["steps"],
        "minutes": measured["finished"]["minutes"],
        "own_cpu_minutes": measured["finished"].get("cpu_minutes"),
        "cpu_minutes": measured["training"]["cpu_minutes"],
        "inspected": {key: value for key, value in inspected.items() if key != "layers"},
    }


def print_table(out: Path) -> None:
    """One row for every result in the folder, the best first."""
    rows = [read_json(path) for path in out.glob("*/result.json")]
    names = list(rows[0]["dice"])
    heads = ["network", *names, "mean Dice", "parameters", "CPU-s a step", "steps", "receptive field"]
    lines = []
    for row in sorted(rows, key=lambda row: -row["mean_dice"]):
        field = row["inspected"]["receptive_field"]
        minutes = row["own_cpu_minutes"] or row["cpu_minutes"]
        lines.append(
            [
                row["network"],
                *(shown(row["dice"][name], 3) for name in names),
                f"**{row['mean_dice']:.3f}**",
                f"{row['inspected']['parameters']:,}",
                f"{60 * minutes / row['steps']:.2f}",
                row["steps"],
                "x".join(str(voxels) for voxels in field) if field else "whole",
                shown(row["own_cpu_minutes"], 1),
                f"{row['cpu_minutes']:.1f}",
            ]
        )
    heads += ["CPU-minutes of training", "and of all around it"]
    print("\n" + table(heads, lines), flush=True)


if __name__ == "__main__":
    main()
