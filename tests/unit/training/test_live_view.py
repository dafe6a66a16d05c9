"""What a training shows of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.progress import Board
from medseg.training.watching import LiveView, append_rows
from medseg.training.watching.live_view import DataClock, SmoothedLoss, score_rows, told_minutes


class _Watcher:
    """Keeps what it was shown."""

    def __init__(self) -> None:
        self.boards: list[Board] = []
        self.advanced: list[float] = []
        self.open = 0

    @contextmanager
    def task(self, _description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        assert total == 100.0
        yield self.advanced.append

    @contextmanager
    def board(self) -> Iterator[Callable[[Board], None]]:
        self.open += 1
        try:
            yield self.boards.append
        finally:
            self.open -= 1

    def note(self, message: str) -> None:
        raise AssertionError(message)


def _module(**changes: Any) -> Any:
    dice = {"dice_liver": 0.5, "mean_dice": 0.5}
    defaults = {"step": 10, "progress": 0.25, "quality": 0.5, "best_quality": 0.5}
    clock = SimpleNamespace(minutes=changes.pop("minutes", 3.0))
    return SimpleNamespace(**(defaults | {"columns": lambda: dice, "clock": clock} | changes))


def _trainer() -> Any:
    return SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.0025}])])


def _facts(board: Board) -> dict[str, str]:
    return dict(board.facts)


def test_the_board_tells_where_a_training_stands(tmp_path: Path) -> None:
    watcher = _Watcher()
    view = LiveView(watcher, "Training fold 1", tmp_path / "metrics.csv")
    view.on_train_start(_trainer(), _module(step=0, minutes=0.0, progress=0.0))
    assert _facts(watcher.boards[-1])["time left"] == "-"
    assert watcher.boards[-1].columns == ()

    view.on_train_batch_end(_trainer(), _module(), {"loss": 0.75}, None, 0)
    view.on_validation_end(_trainer(), _module())

    board = watcher.boards[-1]
    facts = _facts(board)
    assert board.title == "Training fold 1"
    assert (facts["step"], facts["loss, smoothed"], facts["learning rate"]) == ("10", "0.7500", "2.50e-03")
    assert (facts["time used"], facts["time left"]) == ("3 min 00 s", "9 min 00 s")  # a quarter in 3 minutes
    assert board.columns == ("", "last", "best, step 10")
    assert board.rows == (("Dice liver", "0.5000", "0.5000"), ("mean Dice", "0.5000", "0.5000"))
    assert sum(watcher.advanced) == 25.0


def test_the_best_validation_stays_when_a_worse_one_follows(tmp_path: Path) -> None:
    watcher = _Watcher()
    view = LiveView(watcher, "x", tmp_path / "metrics.csv")
    view.on_train_start(_trainer(), _module())
    view.on_validation_end(_trainer(), _module())
    worse = {"dice_liver": 0.25, "mean_dice": 0.25}
    view.on_validation_end(_trainer(), _module(step=20, quality=0.25, columns=lambda: worse))
    assert watcher.boards[-1].columns[-1] == "best, step 10"
    assert watcher.boards[-1].rows[0] == ("Dice liver", "0.2500", "0.5000")


@pytest.mark.parametrize(
    ("column", "values", "best"),
    [("mean_dice", (0.25, 0.75, 0.5), 4), ("reconstruction_error", (3, 1, 2), 4)],
)
def test_a_resumed_training_knows_the_best_one(
    column: str, values: tuple[float, ...], best: int, tmp_path: Path
) -> None:
    path, watcher = tmp_path / "metrics.csv", _Watcher()
    rows = [[step, step / 2, value] for step, value in zip((2, 4, 6), values, strict=True)]
    append_rows(path, ["step", "minutes", column], rows)
    LiveView(watcher, "x", path).on_train_start(_trainer(), _module())
    assert watcher.boards[-1].columns == ("", "last", f"best, step {best}")
    assert watcher.boards[-1].rows[0][1:] == (f"{values[2]:.4f}", f"{values[1]:.4f}")


@pytest.mark.parametrize("failed", [False, True])
def test_it_is_taken_away(failed: bool, tmp_path: Path) -> None:
    watcher = _Watcher()
    view = LiveView(watcher, "x", tmp_path / "metrics.csv")
    view.on_train_start(_trainer(), _module())
    assert watcher.open == 1
    if failed:
        view.on_exception(_trainer(), _module(), RuntimeError())
    view.teardown(_trainer(), _module(), "fit")
    assert watcher.open == 0


def test_of_many_structures_the_mean_and_the_worst_are_shown() -> None:
    last: dict[str, float | None] = {f"dice_s{number}": number / 40 for number in range(40)}
    last["dice_s0"] = None
    last["mean_dice"] = 0.5
    rows, footnote = score_rows({"step": 3.0, "minutes": 1.0, **last}, {})
    assert [row[0] for row in rows] == ["mean Dice", *(f"Dice s{number}" for number in range(1, 6))]
    assert rows[0] == ("mean Dice", "0.5000", "-")
    assert footnote == "the worst 5 of 40"


def test_waiting_is_counted_from_a_step_s_end_to_the_next_batch() -> None:
    times = iter([1.0, 3.0, 10.0, 10.5])
    clock = DataClock(lambda: next(times))
    clock.come()  # nobody has waited
    clock.wait()
    clock.come()
    clock.wait()
    clock.come()
    clock.come()
    assert clock.seconds == pytest.approx(2.5)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50))
def test_the_smoothed_loss_lies_among_the_losses(losses: list[float]) -> None:
    smoothed = SmoothedLoss()
    for loss in losses:
        value = smoothed.add(loss)
    assert min(losses) - 1e-9 <= value <= max(losses) + 1e-9


def test_times_for_people() -> None:
    assert [told_minutes(minutes) for minutes in (0, 0.999, 59.99, 61)] == [
        "0 s",
        "1 min 00 s",
        "59 min 59 s",
        "1 h 01 min",
    ]
