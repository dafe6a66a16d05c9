"""Many things at a time: in order, with the first failure's error, and no process left behind."""

from __future__ import annotations

import json
import math
import multiprocessing
import operator
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from medseg.errors import InputError, ResourceError
from medseg.files import read_json
from medseg.workers import for_each

# Workers find functions by their modules, so those of this file will not do.


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_the_items(workers: int) -> None:
    numbers = [float(number * 37 % 11) for number in range(20)]
    assert for_each(math.sqrt, numbers, workers=workers) == [math.sqrt(number) for number in numbers]
    assert multiprocessing.active_children() == []


def test_workers_have_one_thread_and_the_parent_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    assert for_each(os.getenv, names, workers=2) == ["1", "1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_failure_in_order_is_told(tmp_path: Path, workers: int) -> None:
    good = tmp_path / "good.json"
    good.write_text(json.dumps(1))
    paths = [good, tmp_path / "b.json", tmp_path / "c.json", good]
    with pytest.raises(InputError, match=r"b\.json: does not exist"):
        for_each(read_json, paths, workers=workers)
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_a_resource_error() -> None:
    with pytest.raises(ResourceError, match="was killed, perhaps for want of memory; use fewer"):
        for_each(os._exit, [9, 9, 9], workers=2)
    assert multiprocessing.active_children() == []


def test_processes_of_others_are_left_alone() -> None:
    other = multiprocessing.get_context("spawn").Process(target=operator.abs, args=(1,))
    other.start()
    with pytest.raises(InputError):
        for_each(read_json, ["/nowhere/a.json"] * 3, workers=2)
    other.join()
    assert other.exitcode == 0


def test_progress_counts_items() -> None:
    seen: list[float] = []

    class Watching:
        def task(self, _description: str, total: float | None = None) -> AbstractContextManager[object]:
            assert total == 3
            return nullcontext(seen.append)

        def note(self, message: str) -> None:
            raise AssertionError(message)

    for_each(abs, [1, 2, 3], progress=Watching())  # type: ignore[arg-type]
    assert seen == [1, 1, 1]
