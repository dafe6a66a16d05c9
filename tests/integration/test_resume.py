"""A training that is killed, interrupted or terminated goes on as if nothing had happened."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medseg.cli.main import main
from medseg.data.phantoms import write_phantom_dataset
from tests.data.processes import Started, medseg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="processes are not killed by signals there"),
]

STEPS = 40
RECIPE = """
folds: 3
network: {name: unet, base_features: 2, options: {dropout: 0.2}}
training:
  patch_size: [16, 16, 8]
  batch_size: 2
  checkpoint_every: 5
  validate_every: 10
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantoms, a recipe, and an undisturbed training."""
    folder = tmp_path_factory.mktemp("resume")
    write_phantom_dataset(folder / "data", "mr", count=6, test_count=0, shape=(24, 24, 20))
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    assert main(_arguments(folder, folder / "undisturbed")) == 0
    return folder


def _arguments(work: Path, out: Path) -> list[str]:
    return [
        "train",
        *("--data", str(work / "data"), "--recipe", str(work / "recipe.yaml"), "--out", str(out)),
        *("--max-steps", str(STEPS), "--seed", "5", "--device", "cpu", "--workers", "1", "--quiet"),
    ]


def _start(work: Path, out: Path, *more: str) -> Started:
    # The number of threads decides in which order numbers are added up.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return Started(medseg, [*_arguments(work, out), *more], environment=environment)


def _stopped(
    work: Path, out: Path, when: Callable[[], bool], stop: Callable[[Started], None], *more: str
) -> Started:
    """Start a training and stop it at a moment; again if it was faster than that."""
    for _ in range(5):
        process = _start(work, out, *more)
        while not when() and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is None:
            stop(process)
            return process
        assert process.returncode == 0, process.communicate()[1]
        shutil.rmtree(out)
    pytest.fail("the training ends before it can be stopped")


def _kill(process: Started) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _steps(out: Path) -> int:
    path = out / "fold_0" / "steps.csv"
    return max(0, path.read_text(encoding="utf-8").count("\n") - 1) if path.exists() else 0


def _assert_as_undisturbed(work: Path, out: Path) -> None:
    undisturbed = work / "undisturbed"
    for name in ("last.pt", "best.pt"):
        first, second = (
            torch.load(run / "fold_0" / "checkpoints" / name, weights_only=True) for run in (undisturbed, out)
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
        files = [run / "fold_0" / "checkpoints" / name for run in (undisturbed, out)]
        assert files[0].read_bytes() == files[1].read_bytes()
    for name in ("steps.csv", "metrics.csv"):
        tables = []
        for run in (undisturbed, out):
            with (run / "fold_0" / name).open(encoding="utf-8", newline="") as handle:
                rows = csv.DictReader(handle)
                tables.append([{key: row[key] for key in row if key != "minutes"} for row in rows])
        assert tables[0] == tables[1], name
    finished = json.loads((out / "fold_0" / "finished.json").read_text(encoding="utf-8"))
    assert finished["steps"] == STEPS
    ours, theirs = (
        {path.relative_to(run) for path in run.rglob("*") if "tensorboard" not in path.parts}
        for run in (out, undisturbed)
    )
    assert ours == theirs


def test_a_training_killed_twice_ends_with_the_same_weights(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    checkpoint = out / "fold_0" / "checkpoints" / "resume.ckpt"
    _stopped(work, out, checkpoint.exists, _kill)
    reached = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < reached < STEPS
    _stopped(work, out, lambda: _steps(out) > reached + 15, _kill, "--resume")
    assert not (out / "fold_0" / "finished.json").exists()
    assert main([*_arguments(work, out), "--resume"]) == 0
    _assert_as_undisturbed(work, out)


def test_a_training_killed_while_it_preprocesses_ends_with_the_same_weights(
    work: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _stopped(work, out, (out / "cache").exists, _kill)
    assert not (out / "fold_0" / "checkpoints").exists()
    assert main([*_arguments(work, out), "--resume"]) == 0
    _assert_as_undisturbed(work, out)


@pytest.mark.parametrize(
    ("sent", "code", "message"), [(signal.SIGINT, 130, "medseg: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_a_training_that_is_stopped_says_so_and_can_be_resumed(
    sent: signal.Signals, code: int, message: str, work: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    checkpoint = out / "fold_0" / "checkpoints" / "resume.ckpt"

    def stop(process: Started) -> None:
        # A terminal sends Ctrl-C to everyone, a scheduler asks the one process that it started.
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)

    process = _stopped(work, out, checkpoint.exists, stop)
    shown, errors = process.communicate(timeout=60)
    assert (process.returncode, shown, errors) == (code, "", message)
    assert main([*_arguments(work, out), "--resume"]) == 0
    _assert_as_undisturbed(work, out)


def _runs(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text()  # a zombie has ended
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
def test_helpers_of_a_killed_training_do_not_stay(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    helpers: list[Path] = []

    def kill_the_parent_alone(process: Started) -> None:
        for children in Path(f"/proc/{process.pid}/task").glob("*/children"):
            helpers.extend(Path("/proc") / child for child in children.read_text().split())
        process.kill()
        process.wait()

    _stopped(work, out, lambda: _steps(out) > 0, kill_the_parent_alone)
    assert helpers
    for _ in range(600):
        if not any(_runs(helper) for helper in helpers):
            return
        time.sleep(0.1)
    pytest.fail("helper processes outlive the training")
