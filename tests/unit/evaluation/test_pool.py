"""Many cases at a time: in order, with the first failure's error, and no process left behind."""

from __future__ import annotations

import json
import math
import multiprocessing
import operator
import os
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from medseg.errors import ConfigError, InputError, ResourceError
from medseg.evaluation.pool import for_each_case, workers_for
from medseg.files import read_json

# Workers find functions by their modules, so those of this file will not do.
BIG = 10**9


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_the_items(workers: int) -> None:
    numbers = [float(number * 37 % 11) for number in range(20)]
    assert for_each_case(math.sqrt, numbers, workers=workers) == [math.sqrt(number) for number in numbers]
    assert multiprocessing.active_children() == []


def test_workers_have_one_thread_and_the_parent_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    assert for_each_case(os.getenv, names, workers=2) == ["1", "1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_failure_in_order_is_told(tmp_path: Path, workers: int) -> None:
    good = tmp_path / "good.json"
    good.write_text(json.dumps(1))
    paths = [good, tmp_path / "b.json", tmp_path / "c.json", good]
    with pytest.raises(InputError, match=r"b\.json: does not exist"):
        for_each_case(read_json, paths, workers=workers)
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_a_resource_error() -> None:
    with pytest.raises(ResourceError, match="was killed, perhaps for want of memory; use fewer --jobs"):
        for_each_case(os._exit, [9, 9, 9], workers=2)
    assert multiprocessing.active_children() == []


def test_processes_of_others_are_left_alone() -> None:
    other = multiprocessing.get_context("spawn").Process(target=operator.abs, args=(1,))
    other.start()
    with pytest.raises(InputError):
        for_each_case(read_json, ["/nowhere/a.json"] * 3, workers=2)
    other.join()
    assert other.exitcode == 0


def test_what_workers_import_is_light() -> None:
    heavy = {"torch", "monai", "lightning", "matplotlib", "typer"}
    code = f"import sys, medseg.evaluation.case; sys.exit(' '.join({heavy!r} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_progress_counts_items() -> None:
    seen: list[float] = []

    class Watching:
        def task(self, _description: str, total: float | None = None) -> AbstractContextManager[object]:
            assert total == 3
            return nullcontext(seen.append)

        def note(self, message: str) -> None:
            raise AssertionError(message)

    for_each_case(abs, [1, 2, 3], progress=Watching())  # type: ignore[arg-type]
    assert seen == [1, 1, 1]


def test_as_many_workers_as_the_work_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.evaluation.pool._cores", lambda: 8)
    monkeypatch.setattr("medseg.evaluation.pool.available_memory_bytes", lambda: 200 * BIG)
    assert workers_for([1000] * 50, None) == 1
    assert workers_for([BIG // 10] * 50, None) == 8
    assert workers_for([BIG // 10] * 3, None) == 3
    assert workers_for([], None) == 1
    monkeypatch.setattr("medseg.evaluation.pool.available_memory_bytes", lambda: 10 * BIG)
    assert workers_for([BIG // 10] * 50, None) == 2
    monkeypatch.setattr("medseg.evaluation.pool.available_memory_bytes", lambda: 0)
    assert workers_for([BIG // 10] * 50, None) == 1
    assert workers_for([BIG // 10] * 50, 12) == 12
    assert workers_for([1000] * 2, 12) == 2
    with pytest.raises(ConfigError, match="0 jobs cannot work"):
        workers_for([1000], 0)
