"""Postprocessing that a run's own validation cases choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.data import Dataset, Split
from medseg.errors import ConfigError, InputError
from medseg.io import Case, read_volume, write_volume
from medseg.runs import Recipe, RunFolder
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import load_segmenter
from medseg.training import Budget, TrainingOptions, choose_postprocessing, train
from medseg.training import postprocess_choice as module
from medseg.volume import Volume

OPTIONS = TrainingOptions(Budget(max_steps=1), seed=4, device="cpu", workers=0)
AUTO = PostprocessChoice.model_validate("auto")


@pytest.fixture
def run(crossvalidated: RunFolder) -> RunFolder:
    return crossvalidated


class _Spoiling:
    """Segments as the reference does, but for what it adds."""

    def __init__(self, spoil: Any, seen: list[tuple[int, str]], fold: int) -> None:
        self.spoil, self.seen, self.fold = spoil, seen, fold


def _predicting(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> list[tuple[int, str]]:
    """Have every fold give the reference with a flaw; gives which fold saw which case."""
    seen: list[tuple[int, str]] = []

    def load(_path: Path, _device: str, fold: int, **_: Any) -> _Spoiling:
        return _Spoiling(spoil, seen, fold)

    def predict(jobs: list[tuple[_Spoiling, Case]], folder: Path, _progress: Any) -> list[Any]:
        outcomes = []
        for number, (segmenter, case) in enumerate(jobs):
            segmenter.seen.append((segmenter.fold, case.id))
            assert case.label is not None
            reference = read_volume(case.label)
            array = reference.array.copy()
            segmenter.spoil(array[0], number)
            write_volume(Volume(array, reference.grid), folder / f"{case.id}.nii.gz", labels=True)
            outcomes.append(_Outcome(folder / f"{case.id}.nii.gz"))
        return outcomes

    monkeypatch.setattr(module, "load_segmenter", load)
    monkeypatch.setattr(module, "predict_jobs", predict)
    return seen


class _Outcome:
    error = None

    def __init__(self, output: Path) -> None:
        self.output = output


def test_what_helps_is_kept_for_that_class_alone(
    run: RunFolder, phantoms: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ventricles = phantoms.labels.values[phantoms.labels.names.index("ventricles")]

    def speck(labels: np.ndarray, _number: int) -> None:
        assert labels[0, 0, 0] == 0
        labels[0, 0, 0] = ventricles

    seen = _predicting(monkeypatch, speck)
    chosen = choose_postprocessing(run, phantoms)

    split = Split.load(run.split_path)
    assert sorted(seen) == [(fold, name) for fold in range(3) for name in split.validation(fold)]
    assert (chosen.cases, chosen.folds) == (6, (0, 1, 2))
    kept = {*chosen.choice.smallest_volume_ml, *chosen.choice.largest_component}
    assert kept == {"ventricles"}
    assert chosen.choice.fill_holes == ()
    dice = chosen.dice["ventricles"]
    assert dice.before < dice.after == 1.0
    assert all(
        other.before == other.after == 1.0 for name, other in chosen.dice.items() if name != "ventricles"
    )
    assert run.chosen_postprocess() == chosen
    assert run.chosen(AUTO) == chosen.choice
    assert not (run.path / ".validation").exists()


def test_what_helps_nothing_is_left_out(
    run: RunFolder, phantoms: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    _predicting(monkeypatch, lambda _labels, _number: None)
    chosen = choose_postprocessing(run, phantoms)
    assert chosen.choice.does_nothing
    assert not any(trial.helps for trial in chosen.tried)
    assert all(dice.before == dice.after == 1.0 for dice in chosen.dice.values())


def test_one_case_is_no_evidence(run: RunFolder, phantoms: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def speck(labels: np.ndarray, number: int) -> None:
        if number == 2:
            labels[0, 0, 0] = phantoms.labels.values[1]

    _predicting(monkeypatch, speck)
    assert choose_postprocessing(run, phantoms).choice.does_nothing


def test_holes_that_belong_to_another_class_are_not_filled(
    run: RunFolder, phantoms: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filling helps the ventricles, yet would take the place of nodules that their cleaning has dropped."""
    labels = phantoms.labels
    ventricles, nodules = (labels.values[labels.names.index(name)] for name in ("ventricles", "nodules"))
    trials: list[Any] = []
    original = module.combined

    def both(found: Any, *, with_holes: bool = True) -> PostprocessChoice:
        trials.append(with_holes)
        if with_holes:  # as if this had been found: nodules are lost, and their place filled
            return PostprocessChoice(smallest_volume_ml={"nodules": 1e3}, fill_holes=("ventricles",))
        return original(found, with_holes=False)

    monkeypatch.setattr(module, "combined", both)
    _predicting(monkeypatch, lambda _labels, _number: None)
    chosen = choose_postprocessing(run, phantoms)
    assert trials == [True, False]
    assert chosen.choice.does_nothing
    assert ventricles != nodules


def test_it_is_chosen_when_the_recipe_says_so_and_anew_with_more_folds(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    auto = recipe.model_copy(update={"postprocess": AUTO})
    run = train(phantoms, auto, tmp_path / "run", folds=[0], options=OPTIONS)
    first = run.chosen_postprocess()
    assert first is not None
    assert (first.folds, first.cases) == ((0,), 2)
    assert load_segmenter(run.path, "cpu").postprocess == first.choice
    before = run.postprocess_path.stat().st_mtime_ns
    resumed = TrainingOptions(Budget(max_steps=1), seed=4, device="cpu", workers=0, resume=True)
    train(phantoms, auto, run.path, folds=[0], options=resumed)
    assert run.postprocess_path.stat().st_mtime_ns == before
    run.postprocess_path.unlink()
    with pytest.raises(ConfigError, match=r"postprocessing was not chosen yet; let the training end"):
        load_segmenter(run.path, "cpu")
    assert load_segmenter(run.path, "cpu", postprocess=PostprocessChoice()).postprocess.does_nothing
    train(phantoms, auto, run.path, folds=[0], options=resumed)  # as after a kill before it was written
    assert run.chosen_postprocess() == first


def test_what_is_wrong_is_told(run: RunFolder, phantoms: Dataset, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="holds no case 'mr_005', which the run has"):
        choose_postprocessing(run, replace(phantoms, cases=phantoms.cases[:-1]))
    empty = RunFolder(tmp_path)
    empty.save_recipe(run.recipe())
    empty.save_plan(run.plan())
    Split.load(run.split_path).save(empty.split_path)
    with pytest.raises(InputError, match="has no finished fold; train one first"):
        choose_postprocessing(empty, phantoms)
