"""What does every network learn in the same few minutes?

Trains one fold with the recipe of each network, one after another, segments and scores its validation cases
by the command line, and prints one row a network, as Markdown. A network whose result lies in the output
folder is not trained again, so that a long comparison can be made in parts:

    python benchmarks/networks.py --data DATASET --minutes 10 --out runs/networks [--networks unet,segnet]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from medseg.networks import network_names

MEDSEG = (sys.executable, "-m", "medseg")


def main() -> None:
    """Train, predict, evaluate what has no result yet; print all results of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--networks", default=",".join(network_names()), help="all of them if left out")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--minutes", default="10", help="wall-clock minutes of training, validation included")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", required=True, type=Path, help="a folder, with earlier results or new")
    chosen = parser.parse_args()
    for name in chosen.networks.split(","):
        result = chosen.out / name / "result.json"
        if not result.is_file():
            row = measure(name, chosen)
            result.write_text(json.dumps(row, indent=1), encoding="utf-8")
        print_table(chosen.out)
    print(f"\n{os.cpu_count()} cores, {platform.platform()}.")


def measure(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    folder = chosen.out / name
    run, predictions, scores = (folder / part for part in ("run", "predictions", "scores"))
    train = ["train", "--data", str(chosen.data), "--recipe", name, "--fold", chosen.fold]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    medseg(*train, "--max-minutes", chosen.minutes, "--seed", chosen.seed, "--out", str(run))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    medseg("predict", "--model", str(run), "--validation", "--out", str(predictions))
    medseg(
        "evaluate", "--pred", str(predictions), "--ref", str(chosen.data / "labelsTr"), "--out", str(scores)
    )
    summary = json.loads((scores / "summary.json").read_text(encoding="utf-8"))
    finished = json.loads((run / f"fold_{chosen.fold}" / "finished.json").read_text(encoding="utf-8"))
    inspected = json.loads(medseg("inspect", str(run), "--json"))
    return {
        "network": name,
        "dice": {entry["name"]: entry["dice"]["mean"] for entry in summary["classes"]},
        "mean_dice": summary["mean"]["dice"],
        "steps": finished["steps"],
        "minutes": finished["minutes"],
        "cpu_minutes": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60,
        "inspected": {key: value for key, value in inspected.items() if key != "layers"},
    }


def medseg(*arguments: str) -> str:
    """Run a verb of the command line; its tables go to standard error, so that the result stands alone."""
    done = subprocess.run([*MEDSEG, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    sys.stderr.write(done.stdout)
    return done.stdout


def print_table(out: Path) -> None:
    """One row for every result in the folder, the best first."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*/result.json")]
    names = list(rows[0]["dice"])
    heads = [
        "network",
        *names,
        "mean Dice",
        "parameters",
        "s a step",
        "steps",
        "receptive field",
        "CPU-minutes",
    ]
    print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in sorted(rows, key=lambda row: -row["mean_dice"]):
        field = row["inspected"]["receptive_field"]
        cells = [
            row["network"],
            *(f"{row['dice'][name]:.3f}" for name in names),
            f"**{row['mean_dice']:.3f}**",
            f"{row['inspected']['parameters']:,}",
            f"{60 * row['minutes'] / row['steps']:.2f}",
            str(row["steps"]),
            "x".join(str(voxels) for voxels in field) if field else "whole",
            f"{row['cpu_minutes']:.1f}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
