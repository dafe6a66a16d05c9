"""Time and memory of a piece of work."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from medseg.comparison.measuring import Meter

_MEASURED = """
import json, sys, time
from medseg.comparison.measuring import Meter
with Meter() as meter:
    {work}
print(json.dumps(meter.cost().__dict__))
"""


def measure(work: str) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-c", _MEASURED.format(work=work)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(result.stdout)
    return found


def test_time_is_measured_by_the_clock_and_by_the_processor() -> None:
    with Meter() as meter:
        time.sleep(0.3)
    cost = meter.cost()
    assert 0.3 <= cost.seconds < 5.0
    assert cost.cpu_seconds < 0.3
    assert cost.peak_device_bytes is None


def test_what_is_not_over_has_no_cost() -> None:
    with Meter() as meter, pytest.raises(RuntimeError, match="is not over"):
        meter.cost()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the high-water mark and shared pages")
def test_memory_is_the_processes_own_and_that_of_those_it_starts() -> None:
    held = bytearray(400_000_000)  # of this process, which must not count for those that it starts
    held[::4096] = b"1" * len(held[::4096])
    idle = measure("pass")["peak_memory_bytes"]
    short = measure("block = bytearray(200_000_000); del block")["peak_memory_bytes"]
    program = "import time; block = bytearray(200_000_000); time.sleep(1.5)"
    child = measure(f"import subprocess; subprocess.run([sys.executable, '-c', {program!r}])")
    assert idle < 300e6
    assert 195e6 < short - idle < 230e6
    # The pages of shared libraries count in part where several processes share them.
    assert 100e6 < child["peak_memory_bytes"] - idle < 260e6
    assert len(held) == 400_000_000
