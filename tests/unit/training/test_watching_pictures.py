"""Pictures of a training: when they may be drawn, and what they are drawn of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medseg.errors import ResourceError
from medseg.geometry import Grid
from medseg.runs import Plan, RunFolder
from medseg.training.cache import CachedCase
from medseg.training.watching import Curves, WorstCasePicture, append_rows
from medseg.training.watching import pictures as module
from medseg.training.watching.pictures import DrawingAllowance

pytest.importorskip("matplotlib", reason="pictures need the extra 'report'")


class _Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_picture_may_cost_a_small_part_of_the_time() -> None:
    clock = _Clock()
    allowance = DrawingAllowance(0.01, clock)
    assert not allowance.due  # the first may take a second
    clock.seconds = 99.0
    assert not allowance.due
    clock.seconds = 100.0
    assert allowance.due
    with allowance.drawing():
        clock.seconds += 0.25
    clock.seconds += 24.9
    assert not allowance.due
    clock.seconds += 0.2
    assert allowance.due


def _module(step: int, progress: float = 0.5, **changes: Any) -> Any:
    state = {"step": step, "validated_step": step, "progress": progress}
    columns = {"dice_ventricles": 0.5, "dice_nodules": None, "mean_dice": 0.5}
    return SimpleNamespace(**(state | {"columns": lambda: columns} | changes))


class _Free(DrawingAllowance):
    @property
    def due(self) -> bool:
        return True


class _Never(DrawingAllowance):
    @property
    def due(self) -> bool:
        return False


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What ``draw_curves`` was given."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "draw_curves", lambda *given, **named: calls.append((*given, named)))
    return calls


def _curves(folder: Path, plan: Plan, allowance: DrawingAllowance) -> Curves:
    fold = RunFolder(folder).fold(1)
    fold.path.mkdir()
    append_rows(fold.steps, ["step", "loss", "learning_rate"], [[1, 2.0, 0.1], [2, 1.5, 0.1]])
    header = ["step", "minutes", "dice_ventricles", "dice_nodules", "mean_dice"]
    append_rows(fold.metrics, header, [[2, 0.5, 0.25, None, 0.25]])
    return Curves(fold, plan, SimpleNamespace(note=pytest.fail), allowance)  # type: ignore[arg-type]


def test_curves_are_drawn_of_the_tables(plan: Plan, tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    _curves(tmp_path, plan, _Free()).on_train_epoch_end(None, _module(2))  # type: ignore[arg-type]
    ((path, steps, losses, validated, minutes, curves, named),) = drawn
    assert path == tmp_path / "fold_1" / "curves.png"
    assert (steps, losses, validated, minutes) == ([1.0, 2.0], [2.0, 1.5], [2.0], [0.5])
    assert [curve.name for curve in curves] == ["ventricles", "nodules", "mean"]
    assert [curve.color is None for curve in curves] == [False, False, True]
    assert curves[0].values == [0.25]
    assert np.isnan(curves[1].values[0])
    assert named["measure"] == "Dice"


def test_each_validation_is_drawn_once_and_the_last_one_always(
    plan: Plan, tmp_path: Path, drawn: list[tuple[Any, ...]]
) -> None:
    trainer: Any = None
    curves = _curves(tmp_path, plan, _Free())
    for step, validated in ((2, 2), (4, 2), (6, 6)):
        curves.on_train_epoch_end(trainer, _module(step, validated_step=validated))
    assert len(drawn) == 2
    curves.teardown(trainer, _module(6, progress=1.0), "fit")
    assert len(drawn) == 2

    never = _curves(tmp_path / "b", plan, _Never()) if (tmp_path / "b").mkdir() is None else curves
    never.on_train_epoch_end(trainer, _module(2))
    assert len(drawn) == 2
    never.teardown(trainer, _module(4, progress=0.5), "fit")  # interrupted
    never.teardown(trainer, _module(4, progress=1.0, validated_step=2), "fit")  # it will validate once more
    assert len(drawn) == 2
    never.teardown(trainer, _module(4, progress=1.0), "validate")
    assert len(drawn) == 3


def test_a_full_disk_loses_the_picture_not_the_training(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ResourceError("no space left on the disk", where="curves.png")

    monkeypatch.setattr(module, "draw_curves", full)
    notes: list[str] = []
    curves = _curves(tmp_path, plan, _Free())
    curves._progress = SimpleNamespace(note=notes.append)  # type: ignore[assignment]
    curves.on_train_epoch_end(None, _module(2))  # type: ignore[arg-type]
    assert notes == ["A picture could not be drawn: curves.png: no space left on the disk"]


def test_the_worst_case_is_drawn_on_its_own_grid(
    plan: Plan, cases: list[CachedCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        module, "overlay", lambda *given, **named: calls.append((*given, SimpleNamespace(**named)))
    )
    grids = {case.id: Grid(case.image.shape[1:], np.eye(4)) for case in cases}
    fold, progress = RunFolder(tmp_path).fold(0), SimpleNamespace(note=pytest.fail)
    worst = WorstCasePicture(fold, plan, cases, grids.__getitem__, progress, _Free())  # type: ignore[arg-type]
    trainer: Any = None
    worst.on_validation_start(trainer, _module(8))
    dice = {0: [0.9, 0.9, 0.9, 0.9], 1: [np.nan] * 4, 2: [0.2, np.nan, 0.8, 0.5], 3: [0.6] * 4}
    for number, values in dice.items():
        case = cases[number]
        predicted = np.full(case.label.shape, number, np.int16)
        outputs = {"predicted": predicted, "dice": np.array(values)}
        worst.on_validation_batch_end(trainer, _module(8), outputs, {"case": [case.id]}, number)
    worst.on_train_epoch_end(trainer, _module(8))

    ((path, image, labels, named),) = calls
    assert path == tmp_path / "fold_0" / "worst_case.png"
    assert image.grid == grids[cases[2].id]
    np.testing.assert_array_equal(image.array[0], cases[2].image[0])
    np.testing.assert_array_equal(labels.to_indices(named.reference.array[0]), cases[2].label)
    assert (named.prediction.array == labels.values[2]).all()
    first, third, fourth = (labels.names[index] for index in (1, 3, 4))
    assert named.title == (
        f"{cases[2].id}, worst of 6 at step 8: mean Dice 0.500 ({first} 0.20, {fourth} 0.50, {third} 0.80)"
    )
    worst.on_validation_start(trainer, _module(9))
    worst.on_train_epoch_end(trainer, _module(9))  # no case has been seen: nothing to draw
    assert len(calls) == 1


def test_a_training_leaves_both(crossvalidated: RunFolder) -> None:
    for fold in crossvalidated.folds():
        for picture in (fold.curves, fold.worst_case):
            assert picture.read_bytes().startswith(b"\x89PNG")
