"""Multi-Otsu as a method: what it learns, what it gives, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medseg.classical import graph_cut, multi_otsu, otsu_baseline
from medseg.data import Dataset, load_dataset
from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import BundleError, ConfigError
from medseg.files import read_json, write_json
from medseg.fitting import fit
from medseg.io import read_volume
from medseg.runs import MethodRecipe, load_any_recipe
from medseg.runs.postprocess import PostprocessChoice, RefineChoice
from medseg.segmenters import load_segmenter, validation_cases


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), count=4, test_count=0, shape=(24, 24, 20)
    )


def recipe(**options: Any) -> MethodRecipe:
    return MethodRecipe(method="multi_otsu", folds=2, options=options)


def test_the_shipped_recipe_is_one() -> None:
    found = load_any_recipe("multi_otsu")
    assert isinstance(found, MethodRecipe)
    assert found.postprocess.largest_component == "all"


def test_labels_are_those_of_the_bands(phantoms: Dataset, tmp_path: Path) -> None:
    run = fit(phantoms, recipe(bands=4, smoothing_mm=1.5), tmp_path / "run", folds=[0])
    learnt = read_json(run.fold(0).model / "bands.json")
    case = validation_cases(run.path)[0][0]
    image = read_volume(case.images)
    sigmas = [1.5 / length for length in image.grid.spacing_mm]
    bands = multi_otsu(ndimage.gaussian_filter(image.array[0].astype(np.float32), sigmas), 4)
    expected = phantoms.labels.to_values(np.asarray(learnt["classes"])[bands])
    np.testing.assert_array_equal(load_segmenter(run.path).segment(case).array[0], expected)
    assert len(set(learnt["classes"])) > 1
    assert np.sum(learnt["frequencies"], axis=1) == pytest.approx(np.ones(4))


def test_it_is_no_better_than_with_the_answer_in_hand(phantoms: Dataset, tmp_path: Path) -> None:
    run = fit(phantoms, recipe(), tmp_path / "run", folds=[0])
    segmenter = load_segmenter(run.path)
    for case in validation_cases(run.path)[0]:
        image, truth = read_volume(case.images), read_volume(case.label).array[0]
        ours = segmenter.segment(case).array[0]
        best = otsu_baseline(
            image.array[0],
            truth,
            phantoms.labels,
            smoothing_voxels=[1.0 / mm for mm in image.grid.spacing_mm],
        )
        dice = [
            np.mean(
                [
                    2 * ((x == v) & (truth == v)).sum() / ((x == v).sum() + (truth == v).sum())
                    for v in phantoms.labels.values[1:]
                ]
            )
            for x in (ours, best)
        ]
        assert 0.0 < dice[0] <= dice[1] + 1e-9


def test_thresholds_of_training_cases_are_kept(phantoms: Dataset, tmp_path: Path) -> None:
    run = fit(phantoms, recipe(bands=3, thresholds="training", smoothing_mm=0.0), tmp_path / "run", folds=[0])
    learnt = read_json(run.fold(0).model / "bands.json")
    case = validation_cases(run.path)[0][0]
    image = read_volume(case.images)
    bands = np.searchsorted(learnt["bounds"], image.array[0].astype(np.float32), side="right")
    expected = phantoms.labels.to_values(np.asarray(learnt["classes"])[bands])
    np.testing.assert_array_equal(load_segmenter(run.path).segment(case).array[0], expected)


def test_scores_can_be_refined(phantoms: Dataset, tmp_path: Path) -> None:
    run = fit(phantoms, recipe(), tmp_path / "run", folds=[0])
    case = validation_cases(run.path)[0][0]
    image = read_volume(case.images)
    stage = load_segmenter(run.path).scores(image)
    cut = graph_cut(stage.read(0, stage.length).numpy(), image.array, image.grid.spacing_mm)
    choice = PostprocessChoice(refine=RefineChoice(method="graph_cut"))
    refined = load_segmenter(run.path, postprocess=choice).segment(case)
    np.testing.assert_array_equal(refined.array[0], phantoms.labels.to_values(cut))


def test_what_does_not_fit_is_refused(phantoms: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no channel 3"):
        fit(phantoms, recipe(channel=3), tmp_path / "none", folds=[0])
    with pytest.raises(ConfigError, match="intensity classes"):
        fit(phantoms, recipe(bands=12), tmp_path / "many", folds=[0])
    run = fit(phantoms, recipe(), tmp_path / "run", folds=[0])
    path = run.fold(0).model / "bands.json"
    learnt = read_json(path)
    for damaged in ({**learnt, "classes": [0]}, {"classes": [0, 1]}):
        write_json(damaged, path)
        with pytest.raises(BundleError, match="fit it anew"):
            load_segmenter(run.path)


@pytest.mark.data
def test_of_the_hippocampus_intensities_tell_little(test_data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(test_data / "mr" / "hippocampus")
    few = Dataset(**{**vars(dataset), "cases": dataset.cases[:8]})
    run = fit(few, recipe(), tmp_path / "run", folds=[0])
    segmenter = load_segmenter(run.path)
    scores = []
    for case in validation_cases(run.path)[0]:
        found, truth = segmenter.segment(case).array[0] > 0, read_volume(case.label).array[0] > 0
        scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert 0.02 < np.mean(scores) < 0.4
