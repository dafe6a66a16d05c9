"""Many things at a time, in processes of one thread each; in order, and without a trace if one fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from medseg.errors import ResourceError
from medseg.progress import Progress, SilentProgress, track

__all__ = ["available_cores", "for_each"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def available_cores() -> int:
    """The processor cores that this process may use, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    description: str = "working",
    progress: Progress | None = None,
) -> list[Result]:
    """Apply a function to each item, in this process or in several.

    Args:
        function: Of a module's top level, for processes import it by its name.
        items: What can be pickled.
        workers: Processes; with 1 the work is done here. A script that asks for more has to start its work
            under ``if __name__ == "__main__":``, since processes import it anew.
        description: For the progress bar.
        progress: Shows how far it is.

    Returns:
        The results in the order of ``items``, however many workers there were.

    Raises:
        MedsegError: That of the first item, in their order, that failed.
        ResourceError: A process was killed, as systems out of memory do.

    Example:
        >>> for_each(abs, [-2, 1])
        [2, 1]
    """
    shown = progress or SilentProgress()
    if workers == 1:
        return [function(item) for item in track(items, description, shown)]
    with _pool(workers) as pool:
        with _inherited_by_workers():
            futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in track(futures, description, shown)]
        except BrokenProcessPool as error:
            raise ResourceError(
                "a process was killed, perhaps for want of memory", fix="use fewer processes (--jobs)"
            ) from error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the work, and at once if it fails or is interrupted."""
    others = set(multiprocessing.active_children())
    # Forking would copy whatever threads and locks the caller has; a new interpreter has none.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _inherited_by_workers() -> Iterator[None]:
    """Processes that are started within have one thread each, and leave Ctrl-C to their parent."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    masks = hasattr(signal, "pthread_sigmask")
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed, which would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_after, args=(parent,), daemon=True).start()


def _leave_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
