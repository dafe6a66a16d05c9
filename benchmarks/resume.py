"""Does a training that was killed end where an undisturbed one ends?

Trains once undisturbed. Then, several times, starts the same training anew, kills its whole process group
with SIGKILL at a random moment of the work (planning, preprocessing, training, checkpointing), now and then
kills the resumed one as well, resumes to the end, and compares the two runs bit for bit.

    python benchmarks/resume.py [--data DATASET] [--recipe RECIPE] [--max-steps 200] [--kills 5]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import MedsegError
from medseg.training.arrays import StoredArray

TINY_RECIPE = """\
description: as small as a U-Net gets, with dropout to test that its randomness repeats too
folds: 3
network: {name: unet, base_features: 4, options: {dropout: 0.1}}
training: {patch_size: [16, 16, 16], batch_size: 2, checkpoint_every: 5, validate_every: 20}
"""
SECOND_KILL_PROBABILITY = 0.5
POLL_S = 0.005


@dataclass(frozen=True)
class Training:
    """One training by the command line, into a folder of its own."""

    data: str
    recipe: str
    max_steps: int
    workers: int
    out: Path

    def start(self, *, resume: bool) -> subprocess.Popen[str]:
        """Start it in a process group that can be killed as one."""
        command = [sys.executable, "-m", "medseg", "train", "--quiet", "--device", "cpu", "--seed", "1"]
        command += ["--data", self.data, "--recipe", self.recipe, "--out", str(self.out)]
        command += ["--max-steps", str(self.max_steps), "--workers", str(self.workers)]
        command += ["--resume"] if resume else []
        return subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self, *, resume: bool) -> None:
        """Run it to its end."""
        _wait_for(self.start(resume=resume))

    def time(self) -> tuple[float, float]:
        """Run it undisturbed: seconds until its folder is there, and seconds from then to its end."""
        started = time.monotonic()
        process = self.start(resume=False)
        self.await_folder(process)
        work = time.monotonic()
        _wait_for(process)
        return work - started, time.monotonic() - work

    def await_folder(self, process: subprocess.Popen[str]) -> None:
        """Wait until the run's folder is there, which the work begins with."""
        while not self.out.exists() and process.poll() is None:
            time.sleep(POLL_S)

    def kill_after(self, seconds: float, *, resume: bool) -> str | None:
        """Start it, kill it so long after its folder is there; what it was doing, None if it had ended."""
        process = self.start(resume=resume)
        self.await_folder(process)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return self.phase()
        return None

    def phase(self) -> str:
        """How far the files on disk have come."""
        fold = self.out / "fold_0"
        if (fold / "finished.json").exists():
            return "finished, tidying up"
        if (fold / "checkpoints" / "last.pt").exists():
            return "last step done, finishing"
        if (fold / "checkpoints" / "resume.ckpt").exists():
            return f"training, step {resume_step(fold)}"
        if fold.exists():
            return "training, no checkpoint yet"
        return "preprocessing" if (self.out / "manifest.json").exists() else "planning"


def _wait_for(process: subprocess.Popen[str]) -> None:
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
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in {".pt", ".ckpt"}:
                torch.load(path, weights_only=True)
            elif path.suffix == ".b2nd":
                StoredArray(path)[...]
        except (OSError, ValueError, RuntimeError, EOFError, MedsegError) as error:
            damaged.append(f"{path.relative_to(out)}: {error}")
    return damaged


def differences(reference: Path, other: Path) -> list[str]:
    """What differs between two finished runs; clocks aside, nothing should."""
    found = []
    for name in ("last.pt", "best.pt"):
        weights, others = (
            torch.load(run / "fold_0" / "checkpoints" / name, weights_only=True) for run in (reference, other)
        )
        if weights.keys() != others.keys() or not all(torch.equal(weights[k], others[k]) for k in weights):
            found.append(name)
    for name in ("steps.csv", "metrics.csv"):
        if table(reference / "fold_0" / name) != table(other / "fold_0" / name):
            found.append(name)
    files, other_files = (
        {str(path.relative_to(run)) for path in run.rglob("*") if "tensorboard" not in path.parts}
        for run in (reference, other)
    )
    return found + [f"file {name}" for name in sorted(files ^ other_files)]


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without the clock."""
    with path.open(encoding="utf-8", newline="") as handle:
        return [
            {key: value for key, value in row.items() if key != "minutes"} for row in csv.DictReader(handle)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="data set; built-in phantoms by default")
    parser.add_argument("--recipe", help="recipe, name or file; a tiny U-Net by default")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5, help="how many trainings are killed and compared")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare patches")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, recipe = options.data, options.recipe
        if data is None:
            data = str(folder / "phantoms")
            write_phantom_dataset(data, "mr", count=6, test_count=0, shape=(28, 28, 24))
        if recipe is None:
            recipe = str(folder / "tiny.yaml")
            Path(recipe).write_text(TINY_RECIPE, encoding="utf-8")
        undisturbed = Training(data, recipe, options.max_steps, options.workers, folder / "undisturbed")
        start_s, work_s = undisturbed.time()
        print(f"undisturbed: {options.max_steps} steps, {start_s:.1f} s to start, {work_s:.1f} s of work")
        print(f"{'run':>3}  {'killed after':<14}{'while':<52}{'equal to the undisturbed':<26}damaged files")
        moments = random.Random(options.seed)
        equal = 0
        for number in range(1, options.kills + 1):
            training = replace(undisturbed, out=folder / f"killed_{number}")
            times, phases, damaged = kill_and_resume(training, work_s, moments)
            differing = differences(undisturbed.out, training.out)
            equal += not differing and not damaged
            verdict = f"no: {', '.join(differing)}" if differing else "yes"
            shown = (
                f"{', '.join(times):<14}{', '.join(phases):<52}{verdict:<26}{', '.join(damaged) or 'none'}"
            )
            print(f"{number:>3}  {shown}", flush=True)
            shutil.rmtree(training.out)
    print(f"{equal} of {options.kills} equal, bit for bit")
    sys.exit(equal != options.kills)


def kill_and_resume(
    training: Training, work_s: float, moments: random.Random
) -> tuple[list[str], list[str], list[str]]:
    """Kill a training once or twice and resume it to its end: the times, what it was doing, damaged files."""
    times: list[str] = []
    phases: list[str] = []
    damaged: list[str] = []
    kills = 1 + (moments.random() < SECOND_KILL_PROBABILITY)
    while len(phases) < kills:
        seconds = moments.uniform(0.0, work_s)
        phase = training.kill_after(seconds, resume=bool(phases))
        if phase is None and phases:  # the resumed one came to its end
            break
        if phase is None:
            shutil.rmtree(training.out)
            continue
        times.append(f"{seconds:.1f} s")
        phases.append(phase)
        damaged += damaged_files(training.out)
    training.finish(resume=True)
    return times, phases, damaged + damaged_files(training.out)


if __name__ == "__main__":
    main()
