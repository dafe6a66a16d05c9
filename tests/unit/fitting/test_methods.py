"""Fitting and loading, with the smallest method there can be: the class whose mean intensity is nearest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.data import Dataset
from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import BundleError, ConfigError, InputError, ResourceError
from medseg.files import read_json, write_json
from medseg.fitting import FitOptions, fit
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.registry import METHODS
from medseg.runs import MethodRecipe, RunFolder, load_any_recipe, load_recipe
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import EnsembleSegmenter, load_segmenter, predict_cases, validation_cases
from medseg.volume import Volume
from tests.data.nearest_mean import NearestMean


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_entries", {**METHODS._entries})
    METHODS.register("nearest_mean", "tests.data.nearest_mean:NearestMean", "the class whose mean is nearest")
    monkeypatch.setattr(NearestMean, "fitted", [])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), count=4, test_count=0, shape=(20, 18, 16)
    )


@pytest.fixture
def recipe() -> MethodRecipe:
    return MethodRecipe(method="nearest_mean", options={"shift": 0.0}, folds=2)


def test_a_run_holds_all_that_repeats_it(phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path) -> None:
    run = fit(phantoms, recipe, tmp_path / "run", folds=[1])
    assert (run.method_recipe(), run.task().labels) == (recipe, phantoms.labels)
    assert run.manifest()["seed"] == 0
    assert set(run.manifest()["inputs_sha256"]) == {case.id for case in phantoms.cases}
    finished = read_json(run.fold(1).finished_mark)
    assert finished["cases"] == 2
    assert finished["minutes"] >= 0
    held_out = {case.id for case in validation_cases(run.path)[1]}
    assert held_out.isdisjoint(NearestMean.fitted[0][1])
    assert len(held_out) == 2


def test_it_segments_what_it_was_fitted_to(phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path) -> None:
    run = fit(phantoms, recipe, tmp_path / "run", folds=[0])
    segmenter = load_segmenter(run.path)
    means = read_json(run.fold(0).model / "means.json")
    image = read_volume(phantoms.cases[0].images[0])
    nearest = np.abs(image.array[0][..., None] - means).argmin(axis=-1)
    labels = segmenter.segment(phantoms.cases[0])
    assert labels.grid == image.grid
    np.testing.assert_array_equal(labels.array[0], phantoms.labels.to_values(nearest))
    (outcome,) = predict_cases(segmenter, phantoms.cases[:1], tmp_path / "labels")
    assert outcome.error is None
    assert outcome.as_dict()["plan"]["by_part"]["scores"] == nearest.size * len(phantoms.labels) * 4
    np.testing.assert_array_equal(read_volume(outcome.output).array, labels.array)  # type: ignore[arg-type]


def test_scores_are_logarithms_of_probabilities_along_any_axis(
    phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path
) -> None:
    segmenter = load_segmenter(fit(phantoms, recipe, tmp_path / "run", folds=[0]).path)
    image = read_volume(phantoms.cases[0].images[0])
    whole = segmenter.scores(image).read(0, image.grid.shape[2])
    np.testing.assert_allclose(np.exp(whole.numpy()).sum(axis=0), 1.0, atol=1e-4)
    for axis in range(3):
        stage = segmenter.scores(image, segmenter.plan(image, axis))
        assert (stage.axis, stage.length, len(stage.box)) == (axis, image.grid.shape[axis], 3)
        part = stage.read(3, 5).numpy()
        np.testing.assert_array_equal(part, np.take(whole.numpy(), [3, 4], axis=1 + axis))


def test_several_folds_are_an_ensemble(phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path) -> None:
    run = fit(phantoms, recipe, tmp_path / "run")
    both = load_segmenter(run.path)
    assert isinstance(both, EnsembleSegmenter)
    image = read_volume(phantoms.cases[0].images[0])
    depth = image.grid.shape[2]
    probabilities = [
        np.exp(load_segmenter(run.path, fold=fold).scores(image).read(0, depth).numpy()) for fold in (0, 1)
    ]
    np.testing.assert_allclose(
        both.scores(image).read(0, depth).numpy(), np.mean(probabilities, axis=0), atol=1e-5
    )
    both.segment(image)


def test_resuming_fits_what_is_left(phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path) -> None:
    run = fit(phantoms, recipe, tmp_path / "run", folds=[0])
    with pytest.raises(InputError, match="holds fold 0 of a run already"):
        fit(phantoms, recipe, tmp_path / "run")
    run.fold(1).path.mkdir()
    (run.fold(1).path / ".unfinished").mkdir()  # as a killed one leaves it
    (run.fold(1).path / ".unfinished" / "half.json").touch()
    fit(phantoms, recipe, tmp_path / "run", options=FitOptions(resume=True))
    assert len(NearestMean.fitted) == 2
    assert [entry.name for entry in run.fold(1).model.iterdir()] == ["means.json"]
    other = recipe.model_copy(update={"options": {"shift": 3.0}})
    with pytest.raises(ConfigError, match="another recipe"):
        fit(phantoms, other, tmp_path / "run", options=FitOptions(resume=True))


def test_a_fit_that_fails_leaves_no_trace(phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path) -> None:
    failing = recipe.model_copy(update={"options": {"fails": True}})
    with pytest.raises(InputError, match="cannot be learnt from"):
        fit(phantoms, failing, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_is_told(phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'shifts'.*did you mean 'shift'"):
        fit(phantoms, recipe.model_copy(update={"options": {"shifts": 1}}), tmp_path / "run")
    with pytest.raises(ConfigError, match="there is no fold 2"):
        fit(phantoms, recipe, tmp_path / "run", folds=[2])
    with pytest.raises(ConfigError, match="0 processes"):
        FitOptions(jobs=0)
    run = fit(phantoms, recipe, tmp_path / "run", folds=[0])
    with pytest.raises(ConfigError, match="is a way through a network"):
        load_segmenter(run.path, mode="streaming")
    with pytest.raises(ConfigError, match="chosen on validation cases"):
        load_segmenter(run.path, postprocess=PostprocessChoice(chosen_by="validation"))
    with pytest.raises(InputError, match="without a network"):
        run.plan()
    image = Volume(np.zeros((1, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
    with pytest.raises(ResourceError, match=r"nearest mean needs .* allow"):
        load_segmenter(run.path, max_ram_bytes=1000).segment(image)
    with pytest.raises(InputError, match="NaN"):
        load_segmenter(run.path).segment(Volume(np.full_like(image.array, np.nan), image.grid))
    shutil.rmtree(run.fold(0).model)
    with pytest.raises(BundleError, match="the run is damaged"):
        load_segmenter(run.path)


def test_scores_that_are_none_are_refused(phantoms: Dataset, recipe: MethodRecipe, tmp_path: Path) -> None:
    run = fit(phantoms, recipe, tmp_path / "run", folds=[0])
    write_json([0.0], run.fold(0).model / "means.json")
    with pytest.raises(BundleError, match="gives scores of shape"):
        load_segmenter(run.path).segment(phantoms.cases[0])


def test_recipes_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: nearest_mean\noptions: {shift: 2}\n")
    assert load_any_recipe(path) == MethodRecipe(method="nearest_mean", options={"shift": 2})
    with pytest.raises(ConfigError, match="without a network"):
        load_recipe(path)
    path.write_text("method: nearest_man\n")
    with pytest.raises(ConfigError, match="did you mean 'nearest_mean'"):
        load_any_recipe(path)
    path.write_text("method: nearest_mean\npostprocess: auto\n")
    with pytest.raises(ConfigError, match="say what shall be done"):
        load_any_recipe(path)
    assert load_any_recipe("unet") == load_recipe("unet")


def test_the_command_line_fits_and_predicts(
    phantoms: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: nearest_mean\nfolds: 2\n")
    run, out = str(tmp_path / "run"), str(tmp_path / "labels")
    train = ["train", "--data", str(phantoms.source), "--recipe", str(path), "--out", run]
    assert main([*train, "--max-steps", "3"]) == 64
    assert main(train) == 0
    assert "Fitted run" in capsys.readouterr().out
    assert RunFolder.open(run).is_method
    assert main(["predict", "--model", run, "--validation", "--out", out]) == 0
    assert len(list(Path(out).glob("*.nii.gz"))) == 2
    image = tmp_path / "bad.nii.gz"
    write_volume(Volume(np.zeros((2, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4))), image)
    capsys.readouterr()
    assert main(["predict", "--model", run, "--input", str(image), "--out", out]) == 2
    assert "channel" in capsys.readouterr().err
