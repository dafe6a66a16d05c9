"""``medseg compare`` in processes: killed, it leaves nothing running, and goes on where it stopped."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from medseg.cli.main import main
from medseg.data.phantoms import write_phantom_dataset
from medseg.files import read_json
from tests.data.processes import Started, medseg

TINY = """
network: {name: unet, base_features: 2}
training: {patch_size: [16, 16, 8], batch_size: 2, checkpoint_every: 2, validate_every: 2, precision: float32}
"""


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_comparison_that_was_killed_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_phantom_dataset(tmp_path / "data", count=4, test_count=0, shape=(24, 24, 20))
    (tmp_path / "tiny.yaml").write_text(TINY)
    out = tmp_path / "out"
    arguments = ["compare", "--data", tmp_path / "data", "--out", out, "--folds", 2, "--fold", 0]
    arguments += ["--recipes", tmp_path / "tiny.yaml", "--max-steps", 6]
    arguments += ["--device", "cpu", "--quiet"]
    started = Started(medseg, [*map(str, arguments)])
    run = out / "runs" / "tiny" / "fold_0"
    wait_for(lambda: (run / "checkpoints" / "resume.ckpt").is_file() or started.poll() is not None)
    assert started.poll() is None
    workers = psutil.Process(started.pid).children(recursive=True)
    started.kill()
    started.wait()
    wait_for(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))
    assert not (out / "comparison.csv").exists()

    assert main([*map(str, arguments), "--resume"]) == 0
    assert "tiny" in capsys.readouterr().out
    with (out / "comparison.csv").open(newline="") as handle:
        (tiny,) = csv.DictReader(handle)
    assert (tiny["recipe"], tiny["n_cases"], tiny["failed_jobs"]) == ("tiny", "2", "0")
    assert 5000 < float(tiny["parameters"]) < 6000
    assert float(tiny["peak_fit_bytes"]) > 200e6
    assert read_json(out / "results/tiny/fold_0/fit.json")["resumed"]
    assert (out / "report.html").stat().st_size > 100_000


def test_wrong_calls_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "--data", str(tmp_path), "--recipes", "unet", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--train-sizes", "5,many"]) == 64
    assert "'many' is neither a number from 1 nor 'all'" in capsys.readouterr().err
    assert main(arguments) == 2
    assert not (tmp_path / "out").exists()
