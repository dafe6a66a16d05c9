"""What a piece of work takes: time, processors, memory of the process and of those that it starts."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

__all__ = ["Cost", "Meter"]

_SECONDS_BETWEEN = 0.25
_LARGEST_SHARE = 0.02
"""Of the time, that looking at the memory may take: at large processes the system looks for long."""

_TELLS_HIGH_WATER = Path("/proc/self/status").is_file()


@dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Of this process and of those that it started and that have ended.
        peak_memory_bytes: The largest sum of what this process and those that it started held at a time.
            Pages that several share count once, where the system tells (Linux).
        peak_device_bytes: Memory that PyTorch took on a GPU; ``None`` without one.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    peak_device_bytes: int | None


class Meter:
    """Measures while it is entered; a thread looks at the memory, four times a second at most.

    Peaks of this process itself that are shorter than that are seen all the same, where the system keeps
    its high-water mark (Linux). That mark is of the process's whole life, so each piece of work that is
    measured should have a process of its own.

    Example:
        >>> with Meter() as meter:
        ...     block = bytearray(50_000_000)
        >>> meter.cost().peak_memory_bytes > 50_000_000
        True
    """

    def __init__(self) -> None:
        self._peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._cost: Cost | None = None

    def __enter__(self) -> Self:
        self._started, self._cpu_before = time.monotonic(), _cpu_seconds()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        self._done.set()
        self._thread.join()
        self._look()
        self._cost = Cost(
            seconds=seconds,
            cpu_seconds=_cpu_seconds() - self._cpu_before,
            peak_memory_bytes=max(self._peak_bytes, _high_water_bytes()),
            peak_device_bytes=_device_bytes(),
        )

    def cost(self) -> Cost:
        """What was measured, once it is over.

        Raises:
            RuntimeError: It is not.
        """
        if self._cost is None:
            raise RuntimeError("the work that is measured is not over")
        return self._cost

    def _watch(self) -> None:
        while not self._done.is_set():
            before = time.thread_time()
            self._look()
            self._done.wait(max(_SECONDS_BETWEEN, (time.thread_time() - before) / _LARGEST_SHARE))

    def _look(self) -> None:
        process = psutil.Process()
        others = process.children(recursive=True)
        if others or not _TELLS_HIGH_WATER:
            self._peak_bytes = max(self._peak_bytes, sum(map(_bytes_of, [process, *others])))


def _bytes_of(process: psutil.Process) -> int:
    try:
        facts = process.memory_full_info() if sys.platform == "linux" else process.memory_info()
    except psutil.Error:  # it has ended meanwhile
        return 0
    return int(getattr(facts, "pss", facts.rss))


def _high_water_bytes() -> int:
    """The most that this process itself ever held; 0 where the system does not tell.

    Not ``ru_maxrss``: Linux lets a process that was just started begin with its parent's.
    """
    if not _TELLS_HIGH_WATER:
        return 0
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + ended)


def _device_bytes() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())
