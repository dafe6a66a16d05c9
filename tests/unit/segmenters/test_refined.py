"""Segmenters whose scores are refined: networks, ensembles, and their memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg.classical import best_dice_labels, dense_crf, graph_cut
from medseg.cli.main import main
from medseg.errors import ConfigError, ResourceError
from medseg.files import read_json
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.runs import Normalization, PreprocessingSpec
from medseg.runs.postprocess import PostprocessChoice, RefineChoice
from medseg.runs.recipe import InferenceChoice
from medseg.segmenters import NetworkSegmenter, RefinedSegmenter, Segmenter, load_segmenter
from medseg.volume import Volume

LABELS = LabelScheme.from_names({3: "vessel"})
METHODS = ("graph_cut", "dense_crf", "expected_dice")


def brightness(postprocess: PostprocessChoice | None = None, mode: str = "auto") -> NetworkSegmenter:
    """Gives the z-scored intensity as the score of a vessel, and its negative as that of the background."""
    network = nn.Conv3d(1, 2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1, 1))
    return NetworkSegmenter(
        network,
        labels=LABELS,
        channel_names=("CT",),
        preprocessing=PreprocessingSpec(normalization=[Normalization(scheme="zscore")]),
        patch_size=(8, 8, 8),
        inference=InferenceChoice(mode=mode),
        postprocess=postprocess,
    )


@pytest.fixture
def image() -> Volume:
    rng = np.random.default_rng(0)
    ball = np.linalg.norm(np.indices((20, 18, 16)).T - (9, 9, 8), axis=-1).T < 6.0
    array = (ball + 0.6 * rng.normal(size=ball.shape)).astype(np.float32)
    affine = np.array(
        [[0.0, 0.9, 0.0, 3.0], [-1.2, 0.0, 0.0, 5.0], [0.0, 0.0, 2.0, -7.0], [0.0, 0.0, 0.0, 1.0]]
    )
    return Volume(array[np.newaxis], Grid(ball.shape, affine))


def scores_of(segmenter: Segmenter, image: Volume) -> np.ndarray:
    stage = segmenter.scores(image)
    return stage.read(0, stage.length).numpy()


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_the_function_on_the_image_s_own_grid(method: str, image: Volume) -> None:
    plain = scores_of(brightness(), image)
    refined = scores_of(RefinedSegmenter(brightness(), RefineChoice(method=method)), image)
    spacing_mm = image.grid.spacing_mm
    assert spacing_mm == pytest.approx((1.2, 0.9, 2.0))
    if method == "graph_cut":
        np.testing.assert_array_equal(refined.argmax(axis=0), graph_cut(plain, image.array, spacing_mm))
    elif method == "expected_dice":
        np.testing.assert_array_equal(refined.argmax(axis=0), best_dice_labels(plain))
    else:
        np.testing.assert_allclose(refined, dense_crf(plain, image.array, spacing_mm), atol=1e-5)
    np.testing.assert_allclose(np.exp(refined).sum(axis=0), 1.0, atol=1e-4)
    assert np.count_nonzero(refined.argmax(axis=0) != plain.argmax(axis=0)) > 100


def test_the_best_expected_dice_takes_in_what_is_uncertain(image: Volume) -> None:
    plain = brightness().segment(image).array
    segmenter = RefinedSegmenter(brightness(), RefineChoice(method="expected_dice"))
    best = segmenter.segment(image).array
    assert (best >= plain).all()
    assert np.count_nonzero(best) > np.count_nonzero(plain)
    assert "by expected_dice" in str(segmenter.plan(image))


@pytest.mark.parametrize("mode", ["streaming", "sliding-window"])
def test_it_does_not_matter_in_which_order_scores_come(mode: str, image: Volume) -> None:
    choice = RefineChoice(method="graph_cut")
    one = RefinedSegmenter(brightness(), choice).segment(image)
    other = RefinedSegmenter(brightness(mode=mode), choice).segment(image)
    np.testing.assert_array_equal(one.array, other.array)


def test_label_maps_are_cleaned_afterwards(image: Volume) -> None:
    cleaning = PostprocessChoice(largest_component="all")
    refined = RefinedSegmenter(brightness(cleaning), RefineChoice(method="graph_cut", smoothness_mm=0.2))
    assert refined.postprocess == cleaning.model_copy(update={"refine": refined.choice})
    without = RefinedSegmenter(brightness(), refined.choice).segment(image).array
    labels = refined.segment(image).array
    assert 0 < np.count_nonzero(labels) < np.count_nonzero(without)


def test_the_plan_names_both_ways_and_keeps_to_the_limit(image: Volume) -> None:
    refined = RefinedSegmenter(brightness(), RefineChoice(method="dense_crf"))
    plan = refined.plan(image)
    assert plan.by_part["scores"] == 8 * image.grid.voxel_count
    assert "by dense_crf" in str(plan)
    assert "on the network grid" in str(plan)
    small = RefinedSegmenter(brightness(), refined.choice, max_ram_bytes=plan.peak_bytes // 2)
    with pytest.raises(ResourceError, match="dense_crf needs"):
        small.plan(image)


def test_networks_do_not_refine_by_themselves() -> None:
    with pytest.raises(ConfigError, match="put a RefinedSegmenter around it"):
        brightness(PostprocessChoice(refine=RefineChoice(method="graph_cut")))


def test_the_mean_of_an_ensemble_is_refined_not_its_members(
    make_run: Callable[..., Path], image: Volume
) -> None:
    run = make_run(trained=(0, 1))
    choice = RefineChoice(method="dense_crf", iterations=2)
    refined = load_segmenter(run, "cpu", postprocess=PostprocessChoice(refine=choice))
    mean = scores_of(load_segmenter(run, "cpu", postprocess=PostprocessChoice()), image)
    expected = dense_crf(np.log(mean), image.array, image.grid.spacing_mm, iterations=2)
    np.testing.assert_allclose(scores_of(refined, image), expected, atol=1e-4)


def test_predict_refines_as_a_file_says(
    make_run: Callable[..., Path], image: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(image, tmp_path / "image.nii.gz")
    (tmp_path / "clean.yaml").write_text("refine: {method: graph_cut, smoothness_mm: 3}\nfill_holes: all\n")
    code = main(
        [
            *["predict", "--model", str(make_run()), "--input", str(tmp_path / "image.nii.gz")],
            *["--out", str(tmp_path / "out"), "--postprocess", str(tmp_path / "clean.yaml")],
        ]
    )
    assert code == 0
    assert "scores refined by graph_cut (smoothness mm 3.0); holes filled of all" in capsys.readouterr().err
    summary = read_json(tmp_path / "out" / "summary.json")
    assert RefineChoice.model_validate(summary["postprocess"]["refine"]).options() == {"smoothness_mm": 3.0}
    labels = read_volume(tmp_path / "out" / "image.nii.gz")
    choice = PostprocessChoice(refine=RefineChoice(method="graph_cut", smoothness_mm=3.0), fill_holes="all")
    expected = load_segmenter(make_run("same"), "cpu", postprocess=choice).segment(image)
    np.testing.assert_array_equal(labels.array, expected.array)
