"""How results spread over folds and over seeds."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medseg.data import Dataset, Split
from medseg.data.splits import make_split
from medseg.errors import ConfigError, InputError
from medseg.files import read_json, write_json
from medseg.runs import Recipe, RunFolder
from medseg.runs.recipe import PretrainChoice
from medseg.training import Budget, TrainingOptions, train, train_seeds
from medseg.training.spread import spread_of, summarise_folds, write_cross_validation

OPTIONS = TrainingOptions(Budget(max_steps=1), seed=4, device="cpu", workers=0)


def test_a_spread_by_hand() -> None:
    spread = spread_of([0.2, None, 0.4, 0.9])
    assert spread.values == (0.2, None, 0.4, 0.9)
    assert spread.mean == pytest.approx(0.5)
    assert spread.sd == pytest.approx(statistics.stdev([0.2, 0.4, 0.9]))
    assert (spread.lowest, spread.highest) == (0.2, 0.9)


def test_one_number_has_no_deviation_and_none_has_nothing() -> None:
    assert spread_of([0.5]).sd is None
    assert spread_of([None]).mean is None
    assert spread_of([]).highest is None


def test_folds_are_summed_up(crossvalidated: RunFolder, phantoms: Dataset) -> None:
    found = read_json(crossvalidated.cross_validation)
    finished = [read_json(fold.finished_mark) for fold in crossvalidated.folds()]
    assert found["folds"] == [0, 1, 2]
    assert list(found["dice"]) == [*phantoms.labels.names[1:], "mean_dice"]
    assert found["dice"]["mean_dice"]["values"] == [fold["mean_dice"] for fold in finished]
    assert found["dice"]["mean_dice"]["mean"] == pytest.approx(
        statistics.mean(fold["mean_dice"] for fold in finished)
    )
    assert found["dice"]["nodules"]["values"] == [fold["dice"]["nodules"] for fold in finished]
    assert summarise_folds(crossvalidated.folds())["nodules"].mean == found["dice"]["nodules"]["mean"]


def test_they_are_when_the_last_one_is_done(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    make_split(["a", "b", "c", "d"], folds=2).save(run.split_path)
    for index in range(2):
        assert not run.cross_validation.exists()
        write_json({"dice": {"liver": 0.5}, "mean_dice": 0.5}, run.fold(index).finished_mark)
        write_cross_validation(run)
    assert read_json(run.cross_validation)["dice"]["liver"]["sd"] == 0.0
    before = run.cross_validation.stat().st_mtime_ns
    write_cross_validation(run)
    assert run.cross_validation.stat().st_mtime_ns == before


def test_one_fold_is_no_cross_validation(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    Split(seed=None, folds=(("a",),), training_only=("b",)).save(run.split_path)
    write_json({"dice": {"liver": 0.5}, "mean_dice": 0.5}, run.fold(0).finished_mark)
    write_cross_validation(run)
    assert not run.cross_validation.exists()


def test_seeds_are_runs_of_their_own_and_can_be_resumed(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "seeds"
    alone = train(phantoms, recipe, out / "seed_5", folds=[0], options=replace(OPTIONS, seed=5))
    with pytest.raises(InputError, match=r"seed_5: is there already; add --resume"):
        train_seeds(phantoms, recipe, out, 2, folds=[0], options=OPTIONS)
    assert not (out / "seed_4").exists()
    weights = alone.fold(0).weights().read_bytes()

    found = train_seeds(phantoms, recipe, out, 2, folds=[0], options=replace(OPTIONS, resume=True))

    assert list(found.runs) == [4, 5]
    assert found.runs[5].fold(0).weights().read_bytes() == weights
    assert found.runs[4].manifest()["seed"] == 4
    written: dict[str, Any] = read_json(out / "seeds.json")
    assert written["seeds"] == [4, 5]
    scores = [read_json(found.runs[seed].fold(0).finished_mark)["mean_dice"] for seed in (4, 5)]
    assert written["dice"]["mean_dice"]["values"] == scores
    assert found.dice["mean_dice"].lowest == min(scores)
    assert found.dice["mean_dice"].sd == pytest.approx(statistics.stdev(scores))


@pytest.mark.parametrize("count", [1, 0, -3])
def test_one_seed_has_no_spread(count: int, phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--seeds: {count} seeds have no spread; use 2 or more"):
        train_seeds(phantoms, recipe, tmp_path / "seeds", count)
    assert not (tmp_path / "seeds").exists()


def test_seeds_that_cannot_be_are_refused_before_any_work(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="4294967296 is no seed"):
        train_seeds(phantoms, recipe, tmp_path / "seeds", 2, options=replace(OPTIONS, seed=2**32 - 1))
    pretraining = recipe.model_copy(update={"pretrain": PretrainChoice(noise_std=0.3)})
    with pytest.raises(ConfigError, match="a pretraining has no Dice"):
        train_seeds(phantoms, pretraining, tmp_path / "seeds", 2)
    assert not (tmp_path / "seeds").exists()


def test_a_value_that_is_missing_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for index, dice in enumerate([0.5, None, 0.75]):
        content = {"dice": {"liver": dice}, "mean_dice": dice or 0.0}
        write_json(content, run.fold(index).finished_mark)
    assert summarise_folds(run.folds())["liver"].mean == 0.625
