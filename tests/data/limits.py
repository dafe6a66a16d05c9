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
def limited(seconds: float, more_bytes: int) -> Iterator[None]:
    """Let work take so many seconds, and so much more address space than the process has. Linux, main thread.

    Raises:
        TookTooLongError: In the midst of the work.
        MemoryError: From whatever asks for too much.
    """

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"not done within {seconds:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space_bytes() + more_bytes, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
