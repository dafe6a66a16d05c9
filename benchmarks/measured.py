"""What benchmarks of trainings share: commands pinned to cores and measured from outside; results made once.

Linux alone: cores are given by ``taskset``, and CPU time and memory are asked of the kernel.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from medseg.files import read_json, write_json

MEDSEG = (sys.executable, "-m", "medseg")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Place:
    """Where a command runs: which cores it may use (as ``taskset -c`` has them), with how many threads."""

    cpus: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Usage:
    """What a command took, with all the processes that it started and waited for.

    Attributes:
        wall_minutes: From its start to its end.
        cpu_minutes: User and system time.
        peak_gib: Resident memory of the largest process.
    """

    wall_minutes: float
    cpu_minutes: float
    peak_gib: float


def run(
    command: Sequence[str | Path], place: Place, log: Path, environment: Mapping[str, str] | None = None
) -> tuple[str, Usage]:
    """Run a command to its end; its standard error goes to ``log``.

    Returns:
        What it printed, and what it took.

    Raises:
        RuntimeError: It failed.
    """
    full = [str(part) for part in command]
    if place.cpus is not None:
        full = ["taskset", "-c", place.cpus, *full]
    threads = {} if place.threads is None else dict.fromkeys(THREAD_VARIABLES, str(place.threads))
    log.parent.mkdir(parents=True, exist_ok=True)
    printed = log.with_suffix(".out")
    started = time.monotonic()
    with log.open("a", encoding="utf-8") as errors, printed.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            full, stdout=output, stderr=errors, env={**os.environ, **threads, **(environment or {})}
        )
        _, status, used = os.wait4(process.pid, 0)  # unlike Popen.wait, tells of this child alone
        process.returncode = os.waitstatus_to_exitcode(status)
    text = printed.read_text(encoding="utf-8")
    printed.unlink()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(full)} ended with {process.returncode}, see {log}")
    minutes = (time.monotonic() - started) / 60
    return text, Usage(minutes, (used.ru_utime + used.ru_stime) / 60, used.ru_maxrss / 2**20)


def last_json(printed: str) -> dict[str, Any]:
    """The last line that is an object in JSON: the peer's own lines come before it."""
    line = next(line for line in reversed(printed.splitlines()) if line.startswith("{"))
    content: dict[str, Any] = json.loads(line)
    return content


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the JSON file holds; it is made if it is not there."""
    if not path.is_file():
        write_json(make(), path)
    content: dict[str, Any] = read_json(path)
    return content


def on_cores(cpus: str, jobs: Sequence[Callable[[Place], object]]) -> None:
    """Run jobs, as many at once as there are cores, each with one thread on a core of its own.

    Args:
        cpus: As "0,1".
        jobs: In the order in which they are begun.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for cpu in cpus.split(","):
        free.put(cpu)

    def alone(job: Callable[[Place], object]) -> None:
        cpu = free.get()
        try:
            job(Place(cpu, 1))
        finally:
            free.put(cpu)

    with ThreadPoolExecutor(free.qsize()) as pool:
        running = [pool.submit(alone, job) for job in jobs]
    for done in running:
        done.result()


def add_budget(parser: argparse.ArgumentParser, cpu_minutes: float) -> None:
    """Options that say how long each training lasts."""
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--cpu-minutes",
        type=float,
        default=cpu_minutes,
        help=f"CPU time of each training, its workers' included; {cpu_minutes:g} by default",
    )
    budget.add_argument("--minutes", type=float, help="wall-clock minutes of each training instead")
    budget.add_argument("--steps", type=int, help="optimiser steps of each training instead")


def budget_arguments(chosen: argparse.Namespace) -> list[str]:
    """The same, as ``medseg train`` has them."""
    if chosen.steps is not None:
        return ["--max-steps", str(chosen.steps)]
    if chosen.minutes is not None:
        return ["--max-minutes", f"{chosen.minutes:g}"]
    return ["--max-cpu-minutes", f"{chosen.cpu_minutes:g}"]


def trained_and_scored(
    folder: Path, data: Path, arguments: Sequence[str], place: Place, fold: str = "0"
) -> dict[str, Any]:
    """Train one fold by the command line, segment its validation cases, score the label maps.

    Each of the three is done once: what a folder holds already is taken from there. A training that was cut
    short begins anew, for nobody knows what it had taken.

    Args:
        folder: Of this training alone.
        data: A folder with a ``dataset.json`` and ``labelsTr``.
        arguments: What else ``medseg train`` is given: recipe, budget, seed.
        place: Where it runs.
        fold: Which one.

    Returns:
        ``dice`` by class and ``mean_dice`` of the label maps on their native grids; ``finished`` and
        ``curve`` (the run's ``finished.json`` and ``metrics.csv``); ``training`` and ``predicting``, each
        with what it took from outside.
    """
    model, predictions, scores = (folder / part for part in ("run", "predictions", "scores"))
    trained = model / f"fold_{fold}"
    log = folder / "log.txt"

    def train() -> dict[str, Any]:
        shutil.rmtree(model, ignore_errors=True)
        train = ["train", "--data", str(data), "--fold", fold, *arguments]
        return asdict(run([*MEDSEG, *train, "--out", model], place, log)[1])

    def predict() -> dict[str, Any]:
        shutil.rmtree(predictions, ignore_errors=True)
        segment = ["predict", "--model", model, "--validation", "--fold", fold, "--out", predictions]
        return asdict(run([*MEDSEG, *segment], place, log)[1])

    training = once(folder / "training.json", train)
    predicting = once(folder / "predicting.json", predict)
    with (trained / "metrics.csv").open(newline="", encoding="utf-8") as handle:
        curve = list(csv.DictReader(handle))
    return {
        **scored(predictions, data / "labelsTr", scores, place, log),
        "finished": read_json(trained / "finished.json"),
        "curve": curve,
        "training": training,
        "predicting": predicting,
    }


def scored(predictions: Path, references: Path, out: Path, place: Place, log: Path) -> dict[str, Any]:
    """Dice by class and its mean, as ``medseg evaluate`` has them."""
    shutil.rmtree(out, ignore_errors=True)
    evaluate = ["evaluate", "--pred", predictions, "--ref", references, "--out", out]
    run([*MEDSEG, *evaluate], place, log)
    summary = read_json(out / "summary.json")
    return {
        "dice": {entry["name"]: entry["dice"]["mean"] for entry in summary["classes"]},
        "mean_dice": summary["mean"]["dice"],
        "cases": summary["n_cases"],
    }


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown.

    Example:
        >>> print(table(["a", "b"], [[1, None]]))
        | a | b |
        |---|---|
        | 1 | - |
    """
    lines = [heads, *(["-" if cell is None else cell for cell in row] for row in rows)]
    drawn = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    drawn.insert(1, "|" + "---|" * len(heads))
    return "\n".join(drawn)


def shown(number: float | None, digits: int = 4) -> str:
    """A number with so many digits, or a dash where there is none."""
    return "-" if number is None else f"{number:.{digits}f}"
