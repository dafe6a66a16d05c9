"""What a piece of code takes of a process's memory, beside what was planned for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.data.processes import Started, python

MEASURED = """
import ctypes, gc, sys
import numpy as np
import torch

torch.set_num_threads(1)
# Huge pages, where a system hands them out unasked, count as taken as a whole.
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)

def resident(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

def measured(work):
    '''Bytes that the work takes at its peak. What earlier work has freed is given back first: it would
    serve again and be missed in the sum.'''
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")
    before = resident("VmRSS")
    kept = work()
    return resident("VmHWM") - before
"""


class Peak(NamedTuple):
    """Bytes: planned, of them those that the allocator may or may not keep back, and measured."""

    planned: int
    kept_back: int
    measured: int

    def holds(self) -> bool:
        """Whether it is as planned within a fifth, whatever part the allocator kept back."""
        return 0.8 * (self.planned - self.kept_back) <= self.measured <= 1.2 * self.planned


@pytest.fixture
def peaks() -> Callable[..., list[Peak]]:
    """Runs code that prints ``planned kept_back measured(work)`` a line, in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")

    def run(code: str, *arguments: object) -> list[Peak]:
        process = Started(python, MEASURED + code, [*map(str, arguments)])
        shown, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return [Peak(*map(int, line.split())) for line in shown.splitlines()]

    return run
