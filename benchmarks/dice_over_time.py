"""How good does a training get in how many minutes?

Trains one fold by the command line, segments and scores its validation cases, and prints the curve of Dice
over time and the final scores, as Markdown:

    python benchmarks/dice_over_time.py --data DATASET --minutes 20 --out runs/dice_over_time
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

MEDSEG = (sys.executable, "-m", "medseg")


def main() -> None:
    """Train, predict, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--recipe", default="unet")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--minutes", default="20", help="wall-clock minutes of training, validation included")
    parser.add_argument("--out", required=True, type=Path, help="a new folder")
    chosen = parser.parse_args()
    run, predictions, scores = (chosen.out / name for name in ("run", "predictions", "scores"))
    common = ["--data", str(chosen.data), "--recipe", chosen.recipe, "--fold", chosen.fold]
    medseg("train", *common, "--max-minutes", chosen.minutes, "--out", str(run))
    training = resource.getrusage(resource.RUSAGE_CHILDREN)
    medseg("predict", "--model", str(run), "--validation", "--out", str(predictions))
    references = chosen.data / "labelsTr"
    medseg("evaluate", "--pred", str(predictions), "--ref", str(references), "--out", str(scores))
    print_curve(run / f"fold_{chosen.fold}" / "metrics.csv")
    print_scores(json.loads((scores / "summary.json").read_text()))
    finished = json.loads((run / f"fold_{chosen.fold}" / "finished.json").read_text())
    minutes = (training.ru_utime + training.ru_stime) / 60
    print(
        f"\n{finished['steps']} steps in {finished['minutes']:.1f} minutes, {minutes:.1f} CPU-minutes "
        f"({finished['precision']}, {finished['device']}); peak memory of a process "
        f"{training.ru_maxrss / 2**20:.2f} GiB; {os.cpu_count()} cores, {platform.platform()}."
    )


def medseg(*arguments: str) -> None:
    """Run a verb of the command line; its tables go to standard error, so that the result stands alone."""
    subprocess.run([*MEDSEG, *arguments], check=True, stdout=sys.stderr)


def print_curve(path: Path) -> None:
    """One row per validation."""
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    names = [name for name in rows[0] if name.startswith("dice_")]
    print(
        "| minutes | steps |", *(f" {name.removeprefix('dice_')} |" for name in names), " mean Dice |", sep=""
    )
    print("|---|---|" + "---|" * (len(names) + 1))
    for row in rows:
        cells = [f"{float(row[name]):.4f}" for name in (*names, "mean_dice")]
        print(f"| {float(row['minutes']):.1f} | {row['step']} | " + " | ".join(cells) + " |")


def print_scores(summary: dict) -> None:
    """The scores of the written label maps on their native grids."""
    print(f"\nWritten label maps, {summary['n_cases']} cases, native grids:\n")
    print("| structure | mean Dice | median | minimum | mean IoU |\n|---|---|---|---|---|")
    for entry in summary["classes"]:
        dice = entry["dice"]
        numbers = (dice["mean"], dice["median"], dice["min"], entry["iou"]["mean"])
        print(f"| {entry['name']} | " + " | ".join(f"{number:.4f}" for number in numbers) + " |")
    print(f"| mean | {summary['mean']['dice']:.4f} | | | {summary['mean']['iou']:.4f} |")


if __name__ == "__main__":
    main()
