"""What recipes and options may ask for beyond the defaults, each seen in a short training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.files import read_json
from medseg.runs import Recipe, RunFolder
from medseg.training import Budget, TrainingOptions, train
from medseg.training.module import SegmentationModule

STEPS = 5


def _options(steps: int = STEPS, **changes: Any) -> TrainingOptions:
    return TrainingOptions(Budget(max_steps=steps), seed=4, device="cpu", workers=0, **changes)


def _changed(recipe: Recipe, part: str, **changes: Any) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | {part: getattr(recipe, part).model_dump() | changes})


def _weights(run: RunFolder, which: str = "last") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run.fold(0).weights(which), weights_only=True)
    return weights


def _differing(first: RunFolder, second: RunFolder) -> list[str]:
    one, other = _weights(first), _weights(second)
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def _killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SegmentationModule.training_step

    def step(self: SegmentationModule, *arguments: Any) -> Any:
        if self.step >= steps:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(SegmentationModule, "training_step", step)


@pytest.fixture(scope="module")
def plain(phantoms: Dataset, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(phantoms, recipe, tmp_path_factory.mktemp("runs") / "plain", folds=[0], options=_options())


def test_the_average_is_kept_and_survives_a_resume(
    phantoms: Dataset, recipe: Recipe, plain: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged = _changed(recipe, "optimizer", averaging=0.9)
    whole = train(phantoms, averaged, tmp_path / "whole", folds=[0], options=_options())
    assert _weights(whole).keys() == _weights(plain).keys()
    assert "head.weight" in _differing(whole, plain)
    _killed_after(3, monkeypatch)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(phantoms, averaged, tmp_path / "parts", folds=[0], options=_options())
    monkeypatch.undo()
    parts = train(phantoms, averaged, tmp_path / "parts", folds=[0], options=_options(resume=True))
    assert not _differing(whole, parts)


def test_batch_norms_are_measured_anew_and_nothing_else_changes(
    phantoms: Dataset, recipe: Recipe, plain: RunFolder, tmp_path: Path
) -> None:
    measured = _changed(recipe, "training", recalibration_batches=2)
    run = train(phantoms, measured, tmp_path / "run", folds=[0], options=_options())
    differing = _differing(run, plain)
    assert differing
    assert all(
        name.rsplit(".", 1)[1] in {"running_mean", "running_var", "num_batches_tracked"} for name in differing
    )
    assert {int(value) for name, value in _weights(run).items() if name.endswith("tracked")} == {2}


def test_two_small_batches_make_one_step(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    """Without batch norm and with a loss that is a mean over patches, they are one batch of two."""
    options = {"norm": "instance"}
    runs = []
    for batch_size, accumulate in ((2, 1), (1, 2)):
        chosen = Recipe.model_validate(
            recipe.model_dump()
            | {
                "network": recipe.network.model_dump() | {"options": options},
                "loss": {"name": "weighted_cross_entropy"},
                "training": recipe.training.model_dump()
                | {"batch_size": batch_size, "accumulate": accumulate},
            }
        )
        runs.append(train(phantoms, chosen, tmp_path / f"{accumulate}", folds=[0], options=_options(2)))
    one, other = map(_weights, runs)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-3, atol=2e-4)
    assert [read_json(run.fold(0).finished_mark)["steps"] for run in runs] == [2, 2]
    lines = [run.fold(0).steps.read_text().splitlines() for run in runs]
    assert [len(rows) for rows in lines] == [3, 3]
    losses = [[float(row.split(",")[1]) for row in rows[1:]] for rows in lines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_checkpointed_activations_train_the_same_weights(
    phantoms: Dataset, recipe: Recipe, plain: RunFolder, tmp_path: Path
) -> None:
    sparing = _changed(recipe, "training", checkpoint_activations=True)
    run = train(phantoms, sparing, tmp_path / "run", folds=[0], options=_options())
    one, other = _weights(run), _weights(plain)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_deterministic_trainings_are_equal_to_the_bit(
    phantoms: Dataset, recipe: Recipe, plain: RunFolder, tmp_path: Path
) -> None:
    run = train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options(deterministic=True))
    assert not _differing(run, plain)
    assert run.manifest()["deterministic"] is True
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("clock", ["max_minutes", "max_cpu_minutes"])
def test_a_clock_is_not_deterministic(clock: str) -> None:
    with pytest.raises(ConfigError, match=r"--deterministic.*--max-steps"):
        TrainingOptions(Budget(**{"max_steps": 3, clock: 5.0}), deterministic=True)  # type: ignore[arg-type]


def test_cpu_minutes_end_a_training(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    options = TrainingOptions(Budget(max_cpu_minutes=0.02), seed=4, device="cpu", workers=0)
    run = train(phantoms, recipe, tmp_path / "run", folds=[0], options=options)
    finished = read_json(run.fold(0).finished_mark)
    assert finished["cpu_minutes"] >= 0.02
    assert finished["steps"] >= 1


def test_a_compiled_network_learns_the_same(
    phantoms: Dataset, recipe: Recipe, plain: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and differentiated as ever; what Inductor makes of it is PyTorch's own to test, in a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = _changed(recipe, "training", compile=True)
    run = train(phantoms, compiled, tmp_path / "run", folds=[0], options=_options())
    one, other = _weights(run), _weights(plain)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=1e-3)
