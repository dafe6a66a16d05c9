"""Does a training that was killed end where an undisturbed one ends?

Trains once undisturbed. Then starts the same training anew, kills its whole process group with SIGKILL at a
random moment of its preprocessing, of its training, or while a checkpoint is being written, often kills the
resumed one as well, resumes to the end, and compares the two runs bit for bit; until there were as many kills
as asked for:

    python benchmarks/resume.py [--data DATASET] [--recipe RECIPE] [--max-steps 200] [--kills 20] [--out DIR]

A training whose result lies in --out is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import once, table
from PIL import Image

from medseg.data import Split
from medseg.data.phantoms import write_phantom_dataset
from medseg.files import read_json

TINY_RECIPE = """\
description: as small as a U-Net gets, with dropout to test that its randomness repeats too
folds: 3
network: {name: unet, base_features: 4, options: {dropout: 0.1}}
training: {patch_size: [16, 16, 16], batch_size: 2, checkpoint_every: 5, validate_every: 20}
"""
PHASES = ("preprocessing", "training", "checkpointing")
SECOND_KILL_PROBABILITY = 0.6
TRIALS = 20
POLL_S = 0.002
PAUSE = 0.1
"""Of an undisturbed training: the longest that a killed one goes on from where its moment has come."""

TEMPORARY = re.compile(r"\.[0-9a-f]+\.part\..+")
CLOCKS = ("minutes", "seconds")


@dataclass(frozen=True)
class Training:
    """One training by the command line, into a folder of its own."""

    data: str
    recipe: str
    max_steps: int
    workers: int
    out: Path

    @property
    def fold(self) -> Path:
        """Where its only fold lies."""
        return self.out / "fold_0"

    @property
    def manifest(self) -> Path:
        """Written when preprocessing begins, and again when it is done, also of a resumed training."""
        return self.out / "manifest.json"

    def start(self, *, resume: bool) -> subprocess.Popen[str]:
        """Start it in a process group that can be killed as one."""
        command = [sys.executable, "-m", "medseg", "train", "--quiet", "--device", "cpu", "--seed", "1"]
        command += ["--data", self.data, "--recipe", self.recipe, "--out", str(self.out), "--fold", "0"]
        command += ["--max-steps", str(self.max_steps), "--workers", str(self.workers)]
        command += ["--resume"] if resume else []
        return subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self, *, resume: bool) -> None:
        """Run it to its end."""
        wait_for(self.start(resume=resume))

    def time(self) -> dict[str, float]:
        """Run it undisturbed: seconds from the end of its preprocessing to its end."""
        shutil.rmtree(self.out, ignore_errors=True)
        process = self.start(resume=False)
        await_that(self.fold.exists, process)
        prepared = time.monotonic()
        wait_for(process)
        return {"seconds": time.monotonic() - prepared}

    def kill(self, phase: str, moment: float, pause_s: float, *, resume: bool) -> str | None:
        """Start it, kill it in a phase.

        Args:
            phase: One of ``PHASES``.
            moment: How much it may preprocess or train before, of the whole.
            pause_s: Seconds that it goes on from there; when checkpointing, until the next checkpoint too.
            resume: Whether it goes on with what is there.

        Returns:
            What it was doing, by the files that it left; None if it had ended.
        """
        started = time.time()
        process = self.start(resume=resume)

        def trains() -> bool:
            return self.fold.exists() and self.manifest.stat().st_mtime > started

        if phase == "preprocessing":
            await_that(self.manifest.exists, process)
            count = len(Split.load(self.out / "split.json").case_ids)
            await_that(lambda: self.prepared_cases() >= moment * count, process, poll_s=0.0)
        else:
            await_that(lambda: trains() and self.steps() >= moment * self.max_steps, process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=pause_s)
        if phase == "checkpointing":
            await_that(self.writes_checkpoint, process, poll_s=0.0)
        if process.poll() is not None:
            wait_for(process)
            return None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return self.state()

    def steps(self) -> int:
        """How many steps are in the table of steps, which grows with every checkpoint."""
        table_of_steps = self.fold / "steps.csv"
        return max(0, table_of_steps.read_bytes().count(b"\n") - 1) if table_of_steps.exists() else 0

    def prepared_cases(self) -> int:
        """How many cases are preprocessed, and whole."""
        return sum(not path.name.startswith(".") for path in self.out.glob("cache/*"))

    def writes_checkpoint(self) -> bool:
        """Whether a file of weights lies there under its temporary name."""
        folder = self.fold / "checkpoints"
        return folder.is_dir() and any(TEMPORARY.fullmatch(entry.name) for entry in os.scandir(folder))

    def state(self) -> str:
        """How far the files on disk have come."""
        if (self.fold / "finished.json").exists():
            return "finished, tidying up"
        suffix = ", a checkpoint half written" if self.writes_checkpoint() else ""
        if (self.fold / "checkpoints" / "last.pt").exists():
            return f"last step done{suffix}"
        if (self.fold / "checkpoints" / "resume.ckpt").exists():
            return f"training, step {resume_step(self.fold)}{suffix}"
        if self.fold.exists():
            return f"training, no checkpoint yet{suffix}"
        done = f"preprocessing, {self.prepared_cases()} cases done"
        return done if self.manifest.exists() else "planning"


def await_that(condition: Callable[[], bool], process: subprocess.Popen[str], poll_s: float = POLL_S) -> None:
    """Wait until it holds, or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(poll_s)


def wait_for(process: subprocess.Popen[str]) -> None:
    """Wait for an end that must be a good one."""
    _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"the training ended with {process.returncode}:\n{errors}")


def resume_step(fold: Path) -> int:
    """The step that a resumed training would go on from."""
    return int(torch.load(fold / "checkpoints" / "resume.ckpt", weights_only=True)["step"])


def damaged_files(out: Path) -> list[str]:
    """Files of a run that cannot be read whole; those under temporary names do not count as files."""
    damaged = []
    for path in sorted(out.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(out).parts):
            continue
        try:
            read_whole(path)
        except Exception as error:  # noqa: BLE001  whatever it is, the file cannot be read
            damaged.append(f"{path.relative_to(out)}: {error}")
    return damaged


def read_whole(path: Path) -> None:
    """Read a file as what its name says it is."""
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in {".pt", ".ckpt"}:
        torch.load(path, weights_only=True)
    elif path.suffix == ".npy":
        np.load(path, allow_pickle=False)
    elif path.suffix == ".b2nd":
        import blosc2

        blosc2.open(str(path), mode="r")[()]
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()


def differences(reference: Path, other: Path) -> list[str]:
    """What differs between two finished runs; clocks aside, nothing should."""
    found = []
    for path in sorted((reference / "fold_0" / "checkpoints").glob("*.pt")):
        twin = other / path.relative_to(reference)
        if not twin.exists():
            continue  # told of below
        weights, others = (torch.load(file, weights_only=True) for file in (path, twin))
        if weights.keys() != others.keys() or not all(torch.equal(weights[k], others[k]) for k in weights):
            found.append(path.name)
    for name in ("steps.csv", "metrics.csv"):
        if rows_of(reference / "fold_0" / name) != rows_of(other / "fold_0" / name):
            found.append(name)
    for name in ("recipe.yaml", "plan.json", "split.json"):
        if (reference / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    files, other_files = (
        {str(path.relative_to(run)) for path in run.rglob("*") if "tensorboard" not in path.parts}
        for run in (reference, other)
    )
    return found + [f"file {name}" for name in sorted(files ^ other_files)]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without the clock."""
    with path.open(encoding="utf-8", newline="") as handle:
        return [
            {key: value for key, value in row.items() if not any(clock in key for clock in CLOCKS)}
            for row in csv.DictReader(handle)
        ]


def main() -> None:
    """Train undisturbed, then kill, resume and compare until there were kills enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="data set; built-in phantoms by default")
    parser.add_argument("--recipe", help="recipe, name or file; a tiny U-Net by default")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare patches")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="a folder for runs and results; a temporary one by default")
    options = parser.parse_args()
    if options.out is not None:
        sys.exit(not all_equal(options, options.out))
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(not all_equal(options, Path(scratch)))


def all_equal(options: argparse.Namespace, folder: Path) -> bool:
    """Whether every killed training ended as the undisturbed one."""
    folder.mkdir(parents=True, exist_ok=True)
    data, recipe = options.data, options.recipe
    if data is None:
        data = str(folder / "phantoms")
        if not (folder / "phantoms" / "dataset.json").exists():
            write_phantom_dataset(data, "mr", count=6, test_count=0, shape=(28, 28, 24))
    if recipe is None:
        recipe = str(folder / "tiny.yaml")
        Path(recipe).write_text(TINY_RECIPE, encoding="utf-8")
    undisturbed = Training(data, recipe, options.max_steps, options.workers, folder / "undisturbed")
    seconds = once(folder / "undisturbed.json", undisturbed.time)["seconds"]
    rows: list[dict[str, Any]] = []
    while sum(len(row["kills"]) for row in rows) < options.kills:
        number = len(rows)
        training = replace(undisturbed, out=folder / f"killed_{number}")
        moments = random.Random(f"{options.seed}, {number}")
        result = folder / f"killed_{number}.json"
        if not result.exists():
            shutil.rmtree(training.out, ignore_errors=True)
        make = Disturbance(undisturbed, training, seconds, moments, PHASES[number % len(PHASES)]).result
        rows.append(once(result, make))
        shutil.rmtree(training.out, ignore_errors=True)
        print(f"{number}: {read_json(result)}", file=sys.stderr, flush=True)
    lines = [
        [
            number,
            "; ".join(kill["state"] for kill in row["kills"]),
            "yes" if not row["differing"] else f"no: {', '.join(row['differing'])}",
            ", ".join(row["damaged"]) or "none",
        ]
        for number, row in enumerate(rows)
    ]
    print(table(["training", "killed in", "equal to the undisturbed", "damaged files"], lines))
    equal = sum(not row["differing"] and not row["damaged"] for row in rows)
    kills = sum(len(row["kills"]) for row in rows)
    print(f"\n{kills} kills; {equal} of {len(rows)} trainings equal, bit for bit, no file damaged")
    return equal == len(rows)


@dataclass(frozen=True)
class Disturbance:
    """A training that is killed once or twice and resumed to its end."""

    undisturbed: Training
    training: Training
    seconds: float
    moments: random.Random
    first: str

    def result(self) -> dict[str, Any]:
        """The kills, and what is wrong with the run at its end."""
        kills = [self._first_kill()]
        damaged = damaged_files(self.training.out)
        if self.moments.random() < SECOND_KILL_PROBABILITY:
            phase = self.moments.choice(PHASES[1:])
            again = self._kill(phase, resume=True)
            kills += [again] if again is not None else []
            damaged += damaged_files(self.training.out)
        self.training.finish(resume=True)
        damaged += damaged_files(self.training.out)
        differing = differences(self.undisturbed.out, self.training.out)
        return {"kills": kills, "damaged": damaged, "differing": differing}

    def _first_kill(self) -> dict[str, Any]:
        for _ in range(TRIALS):
            kill = self._kill(self.first, resume=False)
            if kill is not None:
                return kill
            shutil.rmtree(self.training.out)
        sys.exit(f"the training always ended before it could be killed in {self.first}")

    def _kill(self, phase: str, *, resume: bool) -> dict[str, Any] | None:
        moment, pause_s = self.moments.random(), self.moments.uniform(0.0, PAUSE * self.seconds)
        state = self.training.kill(phase, moment, pause_s, resume=resume)
        return None if state is None else {"phase": phase, "moment": moment, "state": state}


if __name__ == "__main__":
    main()
