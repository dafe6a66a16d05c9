"""What a training has taken so far: minutes by the wall, and minutes of processors."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

__all__ = ["Clock", "cpu_seconds"]


class Clock:
    """Counts from :meth:`start` on, and adds what was taken before a resume.

    Attributes:
        minutes_before: By the wall, before.
        cpu_minutes_before: Of processors, before.

    Example:
        >>> clock = Clock(minutes_before=2.0)
        >>> clock.minutes >= 2.0
        True
    """

    def __init__(self, minutes_before: float = 0.0, cpu_minutes_before: float = 0.0) -> None:
        self.minutes_before = minutes_before
        self.cpu_minutes_before = cpu_minutes_before
        self.start()

    def start(self) -> None:
        """Count from now on; what came before stays."""
        self._started, self._cpu_started = time.monotonic(), cpu_seconds()

    @property
    def minutes(self) -> float:
        """Minutes by the wall."""
        return self.minutes_before + (time.monotonic() - self._started) / 60.0

    @property
    def cpu_minutes(self) -> float:
        """Minutes of all processors together, of this process and its workers."""
        return self.cpu_minutes_before + (cpu_seconds() - self._cpu_started) / 60.0


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and its children, living and ended."""
    this = psutil.Process()
    own = this.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in this.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ends while it is asked: its parent counts it from then on
            times = child.cpu_times()
            total += times.user + times.system
    return float(total)
