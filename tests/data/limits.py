"""Bounds on what work may take, so that a hang or a flood of memory is a failure and no stand-still."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["TookTooLongError", "limited"]


class TookTooLongError(BaseException):
    """The time is over. No ``Exception``: whoever handles those must not swallow it."""


@contextmanager
def limited(cpu_seconds: float, more_bytes: int) -> Iterator[None]:
    """Let work take so much of the processor's time, and so much more address space than the process has.

    Time that other processes take does not count. Linux, main thread.

    Raises:
        TookTooLongError: In the midst of the work.
        MemoryError: From whatever asks for too much.
    """

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"not done within {cpu_seconds:g} s of the processor's time")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, ring)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space_bytes() + more_bytes, hard))
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, handler)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
