"""Do trainings cope with what makes them fail?

Phantoms with 40 classes, with 1 % foreground, with two channels that are both needed, and of few thick slices
each train for ten minutes of two cores, and shall reach a Dice of 0.8. In two more tasks, pairs of trainings
compete: of a cord at 0.7 x 0.7 x 8 mm, the plan's own spacing against an isotropic one; of left and right
organs that are alike, mirroring that exchanges their labels against none, each with several seeds. Mirroring
without the exchange must be refused:

    python benchmarks/training_phantoms.py --out runs/phantoms [--only cord,two_sides] [--cpus 0,1]

What is done already in --out is not done again.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
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
from phantom_tasks import CORD, LEARNT, SIDES, Task

from medseg.files import read_json, write_text
from medseg.runs import load_recipe

CPU_MINUTES = 20.0
PAIR_CPU_MINUTES = 6.0
SEEDS = 3
DICE = 0.8
CONFIG_ERROR = 5
SWAPPED = {"augmentation": {"mirror": "left_right", "mirror_sides": "swap"}}
UNMIRRORED = {"augmentation": {"mirror": "none"}}
UNSWAPPED = {"augmentation": {"mirror": "left_right", "mirror_sides": "keep"}}


@dataclass(frozen=True)
class Trial:
    """One training of one task."""

    task: Task
    arm: str
    changes: dict[str, Any]
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task.name}_{self.arm}_{self.seed}"


def main() -> None:
    """Train what has no result yet; print all results of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="a folder, with earlier results or new")
    parser.add_argument("--only", help="tasks, as forty_classes,cord; all of them if left out")
    parser.add_argument("--recipe", default="unet")
    add_budget(parser, CPU_MINUTES)
    parser.add_argument(
        "--pair-cpu-minutes", type=float, default=PAIR_CPU_MINUTES, help="of each training that has a rival"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the trainings that have a rival")
    parser.add_argument("--isotropic-mm", type=float, default=1.0, help="of the cord's isotropic plan")
    parser.add_argument("--cpus", default="0,1", help="cores; one training at a time on each")
    chosen = parser.parse_args()
    isotropic = {"spacing_mm": [chosen.isotropic_mm] * 3}
    pairs = {
        CORD: {"anisotropic": {}, "isotropic": isotropic},
        SIDES: {"swapped": SWAPPED, "unmirrored": UNMIRRORED},
    }
    wanted = set(chosen.only.split(",")) if chosen.only else {task.name for task in (*LEARNT, *pairs)}
    trials = [Trial(task, "plan", {}) for task in LEARNT if task.name in wanted]
    trials += [
        Trial(task, arm, changes, seed)
        for task, arms in pairs.items()
        if task.name in wanted
        for seed in range(chosen.seeds)
        for arm, changes in arms.items()
    ]
    if SIDES.name in wanted:
        once(chosen.out / "refused.json", lambda: refusal(chosen))
    on_cores(chosen.cpus, [partial(measure_once, trial, chosen) for trial in trials])
    report(chosen.out)
    print(f"\n{os.cpu_count()} cores, {platform.platform()}.")


def measure_once(trial: Trial, chosen: argparse.Namespace, place: Place) -> None:
    """Make the result of a trial if it is not there."""
    folder = chosen.out / trial.name
    once(folder / "result.json", lambda: measure(trial, folder, place, chosen))
    print(f"{trial.name} is done", file=sys.stderr, flush=True)


def measure(trial: Trial, folder: Path, place: Place, chosen: argparse.Namespace) -> dict[str, Any]:
    """Plan, train, segment, score; each seed of a pair has phantoms of its own."""
    data = folder / "data"  # of this trial alone, for two are written at once
    trial.task.write(data, trial.seed)
    recipe = write_recipe(chosen.recipe, trial.changes, folder / "recipe.yaml")
    options = ["--data", str(data), "--recipe", str(recipe)]
    run([*MEDSEG, "plan", *options, "--out", folder / "plan.json"], place, folder / "log.txt")
    budget = budget_arguments(chosen)
    if trial.arm != "plan" and chosen.steps is None and chosen.minutes is None:
        budget = ["--max-cpu-minutes", f"{chosen.pair_cpu_minutes:g}"]
    training = ["--recipe", str(recipe), "--seed", str(trial.seed), *budget]
    measured = trained_and_scored(folder, data, training, place)
    return {
        "task": trial.task.name,
        "difficulty": trial.task.difficulty,
        "arm": trial.arm,
        "seed": trial.seed,
        "mean_dice": measured["mean_dice"],
        "dice": measured["dice"],
        "steps": measured["finished"]["steps"],
        "cpu_minutes": measured["finished"]["cpu_minutes"],
        "curve": [[row["step"], row["mean_dice"]] for row in measured["curve"]],
        "plan": decisions(read_json(folder / "plan.json")),
    }


def write_recipe(base: str, changes: dict[str, Any], path: Path) -> Path:
    """The recipe with these changes; nothing is checked here, so that ``medseg`` itself may refuse it."""
    content: dict[str, Any] = load_recipe(base).model_dump(mode="json", exclude_unset=True)
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    write_text(yaml.safe_dump(content, sort_keys=False), path)
    return path


def decisions(plan: dict[str, Any]) -> dict[str, Any]:
    """What the plan decided, with its reasons."""
    options = plan["network"]["options"]
    return {
        "spacing_mm": plan["preprocessing"]["spacing_mm"],
        "patch_size": plan["patch_size"],
        "batch_size": plan["batch_size"],
        "kernel_sizes": options.get("kernel_sizes"),
        "strides": options.get("strides"),
        "reasons": plan["reasons"],
    }


def refusal(chosen: argparse.Namespace) -> dict[str, Any]:
    """What ``medseg train`` says to mirroring that leaves left and right labels as they are."""
    folder = chosen.out / "refused"
    SIDES.write(folder / "data")
    recipe = write_recipe(chosen.recipe, UNSWAPPED, folder / "recipe.yaml")
    train = ["train", "--data", str(folder / "data"), "--recipe", str(recipe), "--max-steps", "1"]
    done = subprocess.run(
        [*MEDSEG, *train, "--out", str(folder / "run")], capture_output=True, text=True, check=False
    )
    return {
        "refused": done.returncode == CONFIG_ERROR and "unknown key" not in done.stderr,
        "exit_code": done.returncode,
        "message": done.stderr.strip(),
    }


def report(out: Path) -> None:
    """Plans, results, and what they say of the aims."""
    rows = [read_json(path) for path in sorted(out.glob("*/result.json"))]
    print("\n" + plan_table(rows))
    print("\n" + result_table(rows) + "\n")
    for task in LEARNT:
        for row in rows:
            if row["task"] == task.name:
                print(f"- {verdict(row['mean_dice'] >= DICE)}: {task.difficulty}: Dice of {DICE} or more")
    for task, better, worse in ((CORD, "anisotropic", "isotropic"), (SIDES, "swapped", "unmirrored")):
        differences = paired(rows, task.name, better, worse)
        if differences:
            mean = statistics.mean(differences)
            shown_all = ", ".join(f"{difference:+.4f}" for difference in differences)
            print(f"- {verdict(mean > 0)}: {task.name}: {better} beats {worse} by {mean:.4f} ({shown_all})")
    if (out / "refused.json").is_file():
        refused = read_json(out / "refused.json")
        print(f"- {verdict(refused['refused'])}: mirroring without exchange is refused: {refused['message']}")


def verdict(holds: bool) -> str:
    """In words."""
    return "holds" if holds else "DOES NOT HOLD"


def paired(rows: Sequence[dict[str, Any]], task: str, better: str, worse: str) -> list[float]:
    """Differences of mean Dice, of each seed that both arms have.

    Example:
        >>> rows = [
        ...     {"task": "t", "arm": "a", "seed": 0, "mean_dice": 0.75},
        ...     {"task": "t", "arm": "b", "seed": 0, "mean_dice": 0.5},
        ... ]
        >>> paired(rows, "t", "a", "b")
        [0.25]
    """
    dice = {(row["arm"], row["seed"]): row["mean_dice"] for row in rows if row["task"] == task}
    seeds = sorted({seed for _, seed in dice})
    both = [seed for seed in seeds if (better, seed) in dice and (worse, seed) in dice]
    return [dice[better, seed] - dice[worse, seed] for seed in both]


def plan_table(rows: Sequence[dict[str, Any]]) -> str:
    """What ``medseg plan`` decided, a row a task and arm."""
    lines = {
        (row["task"], row["arm"]): [
            row["task"],
            row["arm"],
            times(row["plan"]["spacing_mm"]),
            times(row["plan"]["patch_size"]),
            row["plan"]["batch_size"],
            ", ".join(map(times, row["plan"]["kernel_sizes"] or [])),
            ", ".join(map(times, row["plan"]["strides"] or [])),
        ]
        for row in rows
    }
    heads = ["task", "arm", "spacing, mm", "patch", "batch", "kernels by level", "strides"]
    return table(heads, list(lines.values()))


def times(values: Sequence[float]) -> str:
    """As 3x3x1."""
    return "x".join(f"{value:g}" for value in values)


def result_table(rows: Sequence[dict[str, Any]]) -> str:
    """One row a training."""
    lines = []
    for row in rows:
        known = [dice for dice in row["dice"].values() if dice is not None]
        worst = min(known) if known else None
        cells = [row["difficulty"], row["arm"], row["seed"], f"**{row['mean_dice']:.4f}**", shown(worst)]
        lines.append([*cells, row["steps"], shown(row["cpu_minutes"], 1)])
    return table(["task", "arm", "seed", "mean Dice", "worst class", "steps", "CPU-minutes"], lines)


if __name__ == "__main__":
    main()
