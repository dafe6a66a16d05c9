from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time

import pytest

from medseg.training.clock import Clock, cpu_seconds

SPEND = "import time\nwhile time.process_time() < 0.5: pass"


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_own_work_counts_and_sleep_does_not() -> None:
    before = cpu_seconds()
    _work(0.2)
    time.sleep(0.3)
    assert 0.15 <= cpu_seconds() - before < 0.3


def test_a_child_counts_while_it_lives_and_after() -> None:
    before = cpu_seconds()
    child = subprocess.Popen(
        [sys.executable, "-c", SPEND + "\nprint('spent', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    living = cpu_seconds() - before
    child.communicate("\n")
    ended = cpu_seconds() - before
    assert living >= 0.45
    assert ended >= living - 0.02


def test_what_was_taken_before_a_resume_is_added() -> None:
    clock = Clock(minutes_before=3.0, cpu_minutes_before=5.0)
    _work(0.06)
    assert 3.0 < clock.minutes < 4.0
    assert 5.0 < clock.cpu_minutes < 6.0
    clock.start()
    assert clock.cpu_minutes == pytest.approx(5.0, abs=5e-4)


def test_processes_of_a_pool_count() -> None:
    before = cpu_seconds()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(exec, (SPEND, {}))  # a function of this file would have it import PyTorch
        assert cpu_seconds() - before >= 0.3
