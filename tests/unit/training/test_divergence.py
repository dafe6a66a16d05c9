"""A training whose loss is no number ends at once, names its batch and keeps the last good checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medseg.data import Dataset, Split
from medseg.errors import ConfigError
from medseg.runs import Recipe, RunFolder
from medseg.training import Budget, TrainingOptions, train
from medseg.training.watching import StopInTime, load_resume_state
from medseg.training.watching.divergence import diverged, samples_of, spoilt_samples


def _batch(*numbers: int, value: float = 0.0) -> dict[str, Any]:
    image = torch.zeros(len(numbers), 1, 2, 2, 2)
    image[-1, 0, 1, 1, 1] = value
    return {"image": image, "number": torch.tensor(numbers), "case": [f"mr_{number}" for number in numbers]}


def _step(stop: StopInTime, loss: float, batch: dict[str, Any], step: int = 4, progress: float = 0.5) -> Any:
    trainer = SimpleNamespace(should_stop=False)
    module: Any = SimpleNamespace(step=step, progress=progress)
    stop.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)}, batch, 0)  # type: ignore[arg-type]
    return trainer


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_loss_that_is_no_number_names_its_batch_and_the_one_before(loss: str, tmp_path: Path) -> None:
    stop = StopInTime(RunFolder(tmp_path).fold(0))
    _step(stop, 1.0, _batch(4, 5), step=3)
    with pytest.raises(ConfigError) as caught:
        _step(stop, float(loss), _batch(6, 7))
    assert str(caught.value) == (
        f"optimizer.learning_rate: the loss became {loss} at step 4, on samples 6 (case mr_6) and 7 "
        "(case mr_7), after one on samples 4 (case mr_4) and 5 (case mr_5); lower it in the recipe and train "
        "into another --out (no checkpoint was written yet)"
    )


def test_an_image_that_is_no_number_is_to_blame(tmp_path: Path) -> None:
    fold = RunFolder(tmp_path).fold(0)
    fold.resume_state.parent.mkdir(parents=True)
    fold.resume_state.touch()
    with pytest.raises(ConfigError) as caught:
        _step(StopInTime(fold), float("nan"), _batch(6, 7, value=float("inf")))
    assert "NaN or infinite voxels in sample 7 (case mr_7); look at these cases" in str(caught.value)
    assert f"the last good checkpoint is kept in {fold.resume_state}" in str(caught.value)


@pytest.mark.parametrize(("progress", "stops"), [(0.999, False), (1.0, True)])
def test_training_stops_when_the_budget_is_used(progress: float, stops: bool, tmp_path: Path) -> None:
    trainer = _step(StopInTime(RunFolder(tmp_path).fold(0)), 1.0, _batch(1), progress=progress)
    assert trainer.should_stop is stops


def test_only_spoilt_images_are_blamed() -> None:
    assert spoilt_samples(_batch(1, 2)) == ()
    assert spoilt_samples(_batch(1, 2, value=float("nan"))) == ((2, "mr_2"),)
    assert samples_of(_batch(3)) == ((3, "mr_3"),)


def test_three_samples_are_listed_as_people_do(tmp_path: Path) -> None:
    error = diverged("it broke", 9, samples_of(_batch(1, 2, 3)), RunFolder(tmp_path).fold(0))
    assert error.what == "it broke at step 9, on samples 1 (case mr_1), 2 (case mr_2) and 3 (case mr_3)"


def test_a_training_that_really_diverges(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    """Without normalising layers, a learning rate far too high makes the weights overflow."""
    wild = recipe.model_copy(
        update={
            "network": recipe.network.model_copy(update={"options": {"norm": None}}),
            "optimizer": recipe.optimizer.model_copy(
                update={"name": "sgd", "learning_rate": 1e12, "gradient_clip": 1e30, "warmup": 0.5}
            ),
        }
    )
    options = TrainingOptions(Budget(max_steps=400), seed=4, device="cpu", workers=0)
    run = RunFolder(tmp_path / "run")

    with pytest.raises(ConfigError, match=r"became .* at step \d+, on samples? \d+ \(case mr_") as caught:
        train(phantoms, wild, run.path, folds=[0], options=options)

    training = set(Split.load(run.split_path).training(0))
    named = {name for name in (case.id for case in phantoms.cases) if f"(case {name})" in str(caught.value)}
    assert named
    assert named <= training
    state = run.fold(0).resume_state
    if state.is_file():
        weights = load_resume_state(state)["network"].values()
        assert all(bool(tensor.isfinite().all()) for tensor in weights)
        assert str(state) in str(caught.value)
    assert not run.fold(0).finished
