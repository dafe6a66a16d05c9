"""Progress: items pass through unchanged and the watcher is told of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from medseg.progress import Progress, SilentProgress, track


class Recorder:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, float | None]] = []
        self.advanced: list[float] = []
        self.closed = 0

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        self.tasks.append((description, total))
        try:
            yield self.advanced.append
        finally:
            self.closed += 1


def test_each_item_advances_by_one_after_it_was_used() -> None:
    progress = Recorder()
    seen = [(item, len(progress.advanced)) for item in track("abc", "letters", progress)]
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    assert progress.advanced == [1, 1, 1]
    assert progress.closed == 1


def test_length_is_the_total_where_there_is_one() -> None:
    progress = Recorder()
    list(track([1, 2], "sized", progress))
    list(track(iter([1, 2]), "endless", progress))
    list(track(iter([1, 2]), "told", progress, total=2))
    assert progress.tasks == [("sized", 2), ("endless", None), ("told", 2)]


def test_task_is_closed_when_work_fails() -> None:
    progress = Recorder()
    items = track("abc", "letters", progress)
    next(items)
    with pytest.raises(ValueError, match="no"):
        items.throw(ValueError("no"))
    assert progress.closed == 1


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    progress: Progress = SilentProgress()
    with progress.task("quiet", 3) as advance:
        advance(1)
    assert list(track(range(3), "quiet", progress)) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")
