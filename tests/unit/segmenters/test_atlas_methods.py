"""Methods built on atlases, from recipe to label map: on phantoms, and on real cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.classical import expected_dice
from medseg.data import Dataset, load_dataset
from medseg.data.phantoms import write_phantom_dataset
from medseg.data.splits import Split
from medseg.errors import ConfigError, InputError
from medseg.fitting import fit
from medseg.io import read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.metrics import overlap_metrics
from medseg.runs import MethodRecipe, load_any_recipe
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import load_segmenter
from medseg.volume import Volume

QUICK = {
    "multi_atlas": {
        "atlases": 3,
        "template_rounds": 1,
        "affine": {"iterations": 15},
        "deformable": {"iterations": [15, 10]},
    },
    "probabilistic_atlas": {
        "affine": {"iterations": 15},
        "deformable": {"iterations": [15, 10]},
        "affine_rounds": 1,
        "deformable_rounds": 1,
    },
    "shape_model": {
        "atlas": {
            "affine": {"iterations": 15},
            "deformable": {"iterations": [15, 10]},
            "affine_rounds": 1,
            "deformable_rounds": 1,
        },
        "shape": {"iterations": 15},
    },
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), count=6, test_count=0, shape=(32, 32, 24)
    )


def recipe(method: str, **options: object) -> MethodRecipe:
    return MethodRecipe.model_validate(
        {"method": method, "options": {**QUICK[method], **options}, "folds": 3}
    )


def mean_dice(found: Volume, reference: Volume, labels: LabelScheme) -> float:
    scores = overlap_metrics(found.array[0], reference.array[0], labels)
    return float(np.nanmean([score.dice for score in scores]))


@pytest.mark.parametrize("method", QUICK)
def test_recipes_of_the_package_load(method: str) -> None:
    found = load_any_recipe(method)
    assert isinstance(found, MethodRecipe)
    assert found.method == method


@pytest.mark.parametrize("method", QUICK)
def test_it_segments_phantoms(phantoms: Dataset, method: str, tmp_path: Path) -> None:
    run = fit(phantoms, recipe(method), tmp_path / "run", folds=[0])
    segmenter = load_segmenter(run.path)
    case = next(case for case in phantoms.cases if case.id in Split.load(run.split_path).validation(0))
    image = read_volume(case.images)
    assert case.label is not None
    labels = segmenter.segment(image)
    assert labels.grid == image.grid
    assert mean_dice(labels, read_volume(case.label), phantoms.labels) > 0.45
    # The voxels may be stored in any orientation.
    turned = segmenter.segment(image.reoriented("PIR")).reoriented(image.grid.axcodes)
    assert (turned.array == labels.array).mean() > 0.99
    np.testing.assert_array_equal(load_segmenter(run.path).segment(image).array, labels.array)
    run.path.rename(tmp_path / "elsewhere")  # all that it needs lies in the run
    np.testing.assert_array_equal(load_segmenter(tmp_path / "elsewhere").segment(image).array, labels.array)


def test_the_recipe_takes_the_labels_of_the_best_expected_dice(phantoms: Dataset, tmp_path: Path) -> None:
    shipped = load_any_recipe("multi_atlas").postprocess
    quick = recipe("multi_atlas").model_copy(update={"postprocess": shipped})
    run = fit(phantoms, quick, tmp_path / "run", folds=[0])
    case = next(case for case in phantoms.cases if case.id in Split.load(run.split_path).validation(0))
    image = read_volume(case.images)
    plain = load_segmenter(run.path, postprocess=PostprocessChoice())
    likely, found = (segmenter.segment(image).array[0] for segmenter in (plain, load_segmenter(run.path)))
    stage = plain.scores(image)
    probabilities = np.exp(stage.read(0, stage.length).numpy())
    best, common = (
        expected_dice(probabilities, phantoms.labels.to_indices(labels)).sum() for labels in (found, likely)
    )
    assert best > common + 0.001


@pytest.mark.parametrize("method", QUICK)
def test_what_cannot_be_learnt_from_is_refused(phantoms: Dataset, method: str, tmp_path: Path) -> None:
    other = {"atlas": {"channel": 1}} if method == "shape_model" else {"channel": 1}
    with pytest.raises(ConfigError, match=r"there is no channel 1.*choose one of 0 to 0"):
        fit(phantoms, recipe(method, **other), tmp_path / "run", folds=[0])
    first = phantoms.cases[0]
    image = read_volume(first.images)
    write_volume(Volume(np.ones_like(image.array), image.grid), tmp_path / "flat.nii.gz")
    flat = replace(phantoms, cases=(replace(first, images=(tmp_path / "flat.nii.gz",)), *phantoms.cases[1:]))
    with pytest.raises(InputError, match=r"flat\.nii\.gz: all voxels have the same intensity"):
        fit(flat, recipe(method), tmp_path / "run")
    unknown = replace(phantoms, labels=replace(phantoms.labels, ignore=99))
    assert first.label is not None
    label = read_volume(first.label)
    label.array[0, 0, 0, 0] = 99
    write_volume(label, tmp_path / "partly.nii.gz", labels=True)
    partly = replace(unknown, cases=(replace(first, label=tmp_path / "partly.nii.gz"), *phantoms.cases[1:]))
    with pytest.raises(InputError, match=r"partly\.nii\.gz: holds voxels that nobody has labelled"):
        fit(partly, recipe(method), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.data
def test_hippocampi(test_data: Path, tmp_path: Path) -> None:
    whole = load_dataset(test_data / "mr" / "hippocampus")
    few = replace(whole, cases=whole.cases[:9], declared_split=None)
    chosen = MethodRecipe.model_validate({"method": "multi_atlas", "folds": 9, "options": {"atlases": 5}})
    run = fit(few, chosen, tmp_path / "run", folds=[0])
    segmenter = load_segmenter(run.path)
    held_out = Split.load(run.split_path).validation(0)
    scores = [
        mean_dice(segmenter.segment(case), read_volume(case.label), whole.labels)
        for case in few.cases
        if case.id in held_out and case.label is not None
    ]
    assert len(scores) == 1
    assert scores[0] > 0.78


def test_shapes_alone_and_as_regulariser_differ(phantoms: Dataset, tmp_path: Path) -> None:
    run = fit(phantoms, recipe("shape_model"), tmp_path / "run", folds=[0])
    image = read_volume(phantoms.cases[0].images)
    depth = image.grid.shape[2]
    held = load_segmenter(run.path).scores(image).read(0, depth).numpy()
    run.save_recipe(recipe("shape_model", use="alone"))
    alone = load_segmenter(run.path).scores(image).read(0, depth).numpy()
    run.save_recipe(recipe("shape_model", weight=0.0))
    free = load_segmenter(run.path).scores(image).read(0, depth).numpy()
    for scores in (held, alone, free):
        np.testing.assert_allclose(np.exp(scores).sum(axis=0), 1.0, atol=1e-4)
    assert np.abs(np.exp(alone) - np.exp(held)).max() > 0.1
    assert np.abs(np.exp(free) - np.exp(held)).max() > 0.1
