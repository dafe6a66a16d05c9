"""Does medseg learn more than nnU-Net from the same cases in the same CPU time?

Both train one fold at the same time, each on a core of its own with one thread, so that both suffer the same
neighbours; the cores change hands from one budget to the next. nnU-Net has its own plan, its own augmentation
and its own way to segment the validation cases; alone its schedule is shortened to the budget. Both sets of
label maps are scored by ``medseg evaluate``:

    python benchmarks/against_nnunet.py --data DATASET --nnunet-python PYTHON --out runs/against_nnunet \
        [--cpu-minutes 30 60 120] [--only medseg] [--preprocessing]

What is done already in --out is not done again; tables, picture and what they say of the aims come from the
JSON files there.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measured import Place, last_json, once, run, scored, shown, table, trained_and_scored

from medseg.data import load_dataset, split_dataset
from medseg.files import read_json, write_json

PEERS = Path(__file__).parent / "peers"
TOOLS = ("medseg", "nnunet")
ROUNDS = 3
WAITING_AT_MOST = 0.03
DICE_AT_LONGEST = 0.88

Rows = dict[tuple[str, float], dict[str, Any]]


def main() -> None:
    """Run what has no result yet; print and draw all results of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--nnunet-python", type=Path, help="a Python that has nnU-Net")
    parser.add_argument(
        "--prepared", type=Path, help="nnU-Net's raw and preprocessed data; in --out if left out"
    )
    parser.add_argument("--cpu-minutes", nargs="*", type=float, default=[30, 60, 120])
    parser.add_argument("--only", choices=TOOLS, help="one of both; the other may follow later")
    parser.add_argument("--preprocessing", action="store_true", help="measure preprocessing alone, too")
    parser.add_argument("--recipe", default="unet")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="medseg's")
    parser.add_argument("--cpus", default="0,1", help="two cores, one for each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True, type=Path, help="a folder, with earlier results or new")
    chosen = parser.parse_args()
    chosen.prepared = chosen.prepared or chosen.out / "prepared"
    tools = TOOLS if chosen.only is None else (chosen.only,)
    if chosen.nnunet_python is None and (chosen.preprocessing or "nnunet" in tools):
        parser.error("give --nnunet-python, or --only medseg without --preprocessing")
    if chosen.preprocessing or "nnunet" in tools:
        prepare_nnunet(chosen)
    if chosen.preprocessing:
        once(chosen.out / "preprocessing.json", lambda: preprocessing(chosen))
    for number, budget in enumerate(chosen.cpu_minutes):
        cpus = chosen.cpus.split(",")
        if len(cpus) < len(tools):
            parser.error("--cpus must name a core for each tool")
        turned = cpus[number % len(cpus) :] + cpus[: number % len(cpus)]
        with ThreadPoolExecutor(len(tools)) as pool:
            arms = [
                pool.submit(arm, chosen, tool, budget, cpu) for tool, cpu in zip(tools, turned, strict=False)
            ]
        for done in arms:
            done.result()
        report(chosen.out)
    report(chosen.out)
    print(f"\n{os.cpu_count()} cores, {platform.platform()}.")


def arm(chosen: argparse.Namespace, tool: str, budget: float, cpu: str) -> dict[str, Any]:
    """One row of the table, from its file or made."""
    folder = chosen.out / f"{tool}_{budget:g}"
    place = Place(cpu, chosen.threads)
    make = medseg_row if tool == "medseg" else nnunet_row
    return once(
        folder / "result.json",
        lambda: {"tool": tool, "budget": budget, "cpu": cpu, **make(chosen, folder, budget, place)},
    )


def medseg_row(chosen: argparse.Namespace, folder: Path, budget: float, place: Place) -> dict[str, Any]:
    """Training, prediction and scores of medseg."""
    options = ["--recipe", chosen.recipe, "--max-cpu-minutes", f"{budget:g}", "--seed", str(chosen.seed)]
    measured = trained_and_scored(folder, chosen.data, options, place, str(chosen.fold))
    finished = measured["finished"]
    waited = finished.get("waited_seconds")
    return {
        "dice": measured["dice"],
        "mean_dice": measured["mean_dice"],
        "cases": measured["cases"],
        "steps": finished["steps"],
        "own_cpu_minutes": finished.get("cpu_minutes"),
        "cpu_minutes": measured["training"]["cpu_minutes"],
        "seconds_waiting_for_data": waited,
        "waiting_share": None if waited is None else waited / (60 * finished["minutes"]),
        "predicting_cpu_seconds": 60 * measured["predicting"]["cpu_minutes"],
        "peak_gib": measured["training"]["peak_gib"],
        "curve": curve_of(measured["curve"], finished),
        "finished": finished,
        "software": read_json(folder / "run" / "manifest.json")["versions"],
    }


def curve_of(rows: Sequence[dict[str, str]], finished: dict[str, Any]) -> list[tuple[float, float]]:
    """CPU-minutes and mean Dice of each validation; where a row has none, the clock's, scaled to the end."""
    own, clock = finished.get("cpu_minutes"), finished["minutes"]
    factor = 1.0 if own is None or not clock else own / clock
    return [
        (
            float(row["cpu_minutes"]) if row.get("cpu_minutes") else factor * float(row["minutes"]),
            float(row["mean_dice"]),
        )
        for row in rows
    ]


def prepare_nnunet(chosen: argparse.Namespace) -> None:
    """Plan and preprocess by nnU-Net, once; prove that both have the same split."""
    split = split_dataset(load_dataset(chosen.data))
    chosen.out.mkdir(parents=True, exist_ok=True)
    split.save(chosen.out / "split.json")
    run(
        nnunet_command(chosen, 0.0, chosen.out),
        Place(chosen.cpus.split(",")[0], 1),
        chosen.out / "prepare.txt",
    )
    theirs = next((chosen.prepared / "preprocessed").glob("*/splits_final.json"))
    if sorted(split.validation(chosen.fold)) != sorted(read_json(theirs)[chosen.fold]["val"]):
        sys.exit(f"{theirs}: another split than medseg's; prepare nnU-Net's data anew")


def nnunet_command(chosen: argparse.Namespace, budget: float, results: Path) -> list[str | Path]:
    """The peer's script with its own Python."""
    command: list[str | Path] = [chosen.nnunet_python, PEERS / "nnunet_training.py", "--data", chosen.data]
    command += [
        "--split",
        chosen.out / "split.json",
        "--fold",
        str(chosen.fold),
        "--cpu-minutes",
        f"{budget:g}",
    ]
    return [*command, "--threads", str(chosen.threads), "--prepared", chosen.prepared, "--out", results]


def nnunet_row(chosen: argparse.Namespace, folder: Path, budget: float, place: Place) -> dict[str, Any]:
    """nnU-Net's training and prediction; scores by ``medseg evaluate``."""
    results, log = folder / "results", folder / "log.txt"

    def train() -> dict[str, Any]:
        shutil.rmtree(results, ignore_errors=True)
        printed, usage = run(nnunet_command(chosen, budget, results), place, log)
        return {**last_json(printed), "outside": asdict(usage)}

    done = once(folder / "training.json", train)
    predicting = done["predicting_cpu_seconds"]
    return {
        **scored(Path(done["predictions"]), chosen.data / "labelsTr", folder / "scores", place, log),
        "steps": done["steps"],
        "own_cpu_minutes": done["cpu_minutes"],
        "cpu_minutes": done["outside"]["cpu_minutes"] - predicting / 60,
        "seconds_waiting_for_data": done["seconds_waiting_for_data"],
        "waiting_share": done["seconds_waiting_for_data"] / (60 * done["cpu_minutes"]),
        "predicting_cpu_seconds": predicting,
        "peak_gib": done["outside"]["peak_gib"],
        "curve": [],
        "finished": {name: done[name] for name in ("patch_size", "batch_size", "preprocessing_seconds")},
        "software": done["versions"],
    }


def preprocessing(chosen: argparse.Namespace) -> dict[str, Any]:
    """Preprocessing alone by both tools, in turn on the same core: medians, with and without imports."""
    place = Place(chosen.cpus.split(",")[0], 1)
    here = Path(__file__).parent
    commands: dict[str, list[str | Path]] = {
        "medseg": [
            sys.executable,
            here / "preprocessing.py",
            "--data",
            chosen.data,
            "--recipe",
            chosen.recipe,
        ],
        "nnunet": [chosen.nnunet_python, PEERS / "nnunet_preprocessing.py", "--prepared", chosen.prepared],
    }
    found: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    for _ in range(ROUNDS):
        for tool in TOOLS:
            printed, usage = run(commands[tool], place, chosen.out / "preprocessing.txt")
            found[tool].append({**last_json(printed), **asdict(usage)})
    return {
        tool: {
            "cases": rounds[0]["cases"],
            **{
                name: statistics.median(one[name] for one in rounds)
                for name in ("seconds", "cpu_seconds", "cpu_minutes", "peak_gib")
            },
            "bytes": rounds[0]["bytes"],
        }
        for tool, rounds in found.items()
    }


def report(out: Path) -> None:
    """Tables, what they say of the aims, and the picture."""
    results = [read_json(path) for path in sorted(out.glob("*/result.json"))]
    rows: Rows = {(row["tool"], row["budget"]): row for row in results}
    alone = read_json(out / "preprocessing.json") if (out / "preprocessing.json").is_file() else None
    if rows:
        print("\n" + training_table(rows))
    if alone is not None:
        print("\n" + preprocessing_table(alone))
    print()
    aims = judged(rows, alone)
    for aim, holds in aims:
        print(f"- {'not measured yet' if holds is None else 'holds' if holds else 'DOES NOT HOLD'}: {aim}")
    write_json([{"aim": aim, "holds": holds} for aim, holds in aims], out / "aims.json")
    if rows:
        draw(rows, out / "dice_over_cpu_minutes.png")


def training_table(rows: Rows) -> str:
    """One row a budget and tool."""
    names = list(next(iter(rows.values()))["dice"])
    heads = ["CPU-minutes", "tool", "steps", *names, "mean Dice", "used, by itself", "used, from outside"]
    heads += ["waiting for data", "predicting, CPU-seconds", "peak memory, GiB"]
    lines = []
    for (tool, budget), row in sorted(rows.items(), key=lambda item: (item[0][1], item[0][0])):
        waited, share = row["seconds_waiting_for_data"], row["waiting_share"]
        lines.append(
            [
                f"{budget:g}",
                tool,
                row["steps"],
                *(shown(row["dice"][name]) for name in names),
                f"**{row['mean_dice']:.4f}**",
                shown(row["own_cpu_minutes"], 1),
                shown(row["cpu_minutes"], 1),
                "-" if waited is None else f"{waited:.1f} s ({share:.1%})",
                shown(row["predicting_cpu_seconds"], 0),
                shown(row["peak_gib"], 2),
            ]
        )
    return table(heads, lines)


def preprocessing_table(alone: dict[str, Any]) -> str:
    """One row a tool."""
    heads = [
        "preprocessing, one core",
        "cases",
        "seconds",
        "CPU-seconds",
        "with imports and plan, CPU-seconds",
    ]
    rows = [
        [
            tool,
            row["cases"],
            shown(row["seconds"], 2),
            shown(row["cpu_seconds"], 2),
            shown(60 * row["cpu_minutes"], 1),
            shown(row["peak_gib"], 2),
            shown(row["bytes"] / 2**20, 0),
        ]
        for tool, row in alone.items()
    ]
    return table([*heads, "peak memory, GiB", "on disk, MiB"], rows)


def judged(rows: Rows, alone: dict[str, Any] | None) -> list[tuple[str, bool | None]]:
    """Each aim, and whether it holds; None where a result is missing.

    Example:
        >>> judged({("medseg", 30.0): {"mean_dice": 0.9, "waiting_share": 0.01}}, None)[0]
        ('at 30 CPU-minutes medseg beats nnU-Net', None)
    """

    def dice(tool: str, budget: float) -> float | None:
        row = rows.get((tool, budget))
        return None if row is None else row["mean_dice"]

    def compared(ours: float | None, theirs: float | None, *, strictly: bool) -> bool | None:
        if ours is None or theirs is None:
            return None
        return ours > theirs if strictly else ours >= theirs

    budgets = sorted({budget for _, budget in rows})
    least, most = (budgets[0], budgets[-1]) if budgets else (math.nan, math.nan)
    aims = [
        (
            f"at {budget:g} CPU-minutes medseg beats nnU-Net",
            compared(dice("medseg", budget), dice("nnunet", budget), strictly=True),
        )
        for budget in budgets
    ]
    aims += [
        (
            f"medseg at {least:g} CPU-minutes is at least nnU-Net at {most:g}",
            compared(dice("medseg", least), dice("nnunet", most), strictly=False) if least < most else None,
        ),
        (
            f"medseg at {most:g} CPU-minutes reaches {DICE_AT_LONGEST}",
            compared(dice("medseg", most), DICE_AT_LONGEST, strictly=False),
        ),
    ]
    shares = [row["waiting_share"] for (tool, _), row in rows.items() if tool == "medseg"]
    known = [share for share in shares if share is not None]
    aims.append(
        (
            f"medseg waits for data less than {WAITING_AT_MOST:.0%} of its training",
            max(known) < WAITING_AT_MOST if known and len(known) == len(shares) else None,
        )
    )
    faster = None if alone is None else alone["medseg"]["cpu_seconds"] < alone["nnunet"]["cpu_seconds"]
    aims.append(("medseg preprocesses faster than nnU-Net", faster))
    return aims


def draw(rows: Rows, path: Path) -> None:
    """Dice over CPU-minutes: validations on the way as lines, the scores of written label maps as points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.0, 4.5))
    colours = {"medseg": "tab:blue", "nnunet": "tab:orange"}
    for tool in TOOLS:
        ends = sorted((budget, row["mean_dice"]) for (name, budget), row in rows.items() if name == tool)
        if ends:
            axes.plot(
                *zip(*ends, strict=True), "o-", color=colours[tool], label=f"{tool}, label maps at the end"
            )
    for (tool, budget), row in sorted(rows.items()):
        if row["curve"]:
            label = f"{tool}, validations on the way to {budget:g}"
            style = {"linewidth": 0.8, "alpha": 0.4 + 0.6 * budget / max(key[1] for key in rows)}
            axes.plot(*zip(*row["curve"], strict=True), color=colours[tool], label=label, **style)
    axes.set(xlabel="CPU-minutes of training", ylabel="mean Dice over the structures", xlim=(0, None))
    axes.set_ylim(bottom=max(0.0, min(row["mean_dice"] for row in rows.values()) - 0.06))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
