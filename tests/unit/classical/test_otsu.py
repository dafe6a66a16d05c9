"""Multi-Otsu: hand-computed cuts, brute force, and scikit-image as an independent implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medseg.classical import multi_otsu, otsu_baseline, otsu_thresholds
from medseg.data.phantoms import make_phantom, phantom_labels
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.labels import LabelScheme
from medseg.metrics import overlap_metrics


def between_class_variance(counts: np.ndarray, centres: np.ndarray, cuts: tuple[int, ...]) -> float:
    parts = [slice(a, b) for a, b in itertools.pairwise((0, *cuts, len(counts)))]
    weights = [counts[part].sum() for part in parts]
    if min(weights) == 0:
        return -np.inf
    return sum(
        (counts[part] @ centres[part]) ** 2 / weight for part, weight in zip(parts, weights, strict=True)
    )


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_no_other_cut_is_better(classes: int) -> None:
    rng = np.random.default_rng(classes)
    counts, centres = rng.integers(0, 20, 14), np.sort(rng.random(14))
    thresholds = otsu_thresholds(counts, centres, classes)
    ours = tuple(int(np.flatnonzero(centres == threshold)[0]) + 1 for threshold in thresholds)
    every_cut = itertools.combinations(range(1, 14), classes - 1)
    best = max(between_class_variance(counts, centres, cuts) for cuts in every_cut)
    assert between_class_variance(counts, centres, ours) == pytest.approx(best)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_it_agrees_with_scikit_image(classes: int) -> None:
    filters = pytest.importorskip("skimage.filters")
    image = make_phantom("mr", 3, shape=(32, 32, 20)).image.array
    counts, edges = np.histogram(image, bins=48)
    centres = (edges[:-1] + edges[1:]) / 2
    # threshold_multiotsu works in single precision: with two classes it misses the best cut by one bin here.
    if classes == 2:
        theirs = filters.threshold_otsu(hist=(counts, centres))
    else:
        theirs = filters.threshold_multiotsu(classes=classes, hist=(counts, centres))
    np.testing.assert_allclose(otsu_thresholds(counts, centres, classes), np.atleast_1d(theirs))


def test_three_well_parted_peaks_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (20, 20, 20))
    image = np.array([-100.0, 50.0, 400.0])[truth] + rng.normal(0.0, 8.0, truth.shape)
    np.testing.assert_array_equal(multi_otsu(image, 3), truth)


def test_a_few_very_bright_voxels_do_not_hide_the_rest() -> None:
    image = np.repeat([0.0, 1.0, 1e6], [2000, 2000, 3])
    np.testing.assert_array_equal(multi_otsu(image, 2), np.repeat([0, 1, 1], [2000, 2000, 3]))


@pytest.mark.parametrize(("image", "classes"), [(np.zeros(9), 2), (np.arange(9.0), 1), (np.arange(3.0), 4)])
def test_impossible_numbers_of_classes_are_refused(image: np.ndarray, classes: int) -> None:
    with pytest.raises(ConfigError, match="intensity classes for"):
        multi_otsu(image, classes)


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        multi_otsu(np.array([0.0, np.nan, 1.0]), 2)


def test_the_baseline_takes_the_best_assignment_there_is() -> None:
    rng = np.random.default_rng(5)
    labels = LabelScheme.from_names({1: "a", 4: "b"})
    reference = rng.choice([0, 1, 4], (12, 12, 12), p=[0.6, 0.3, 0.1])
    image = np.searchsorted([0, 1, 4], reference) * 10.0 + rng.normal(0.0, 6.0, reference.shape)
    ours = otsu_baseline(image, reference, labels, smoothing_voxels=0.0)
    bands = multi_otsu(image.astype(np.float32), 3)
    candidates = (np.array(values)[bands] for values in itertools.product([0, 1, 4], repeat=3))
    best = max(np.mean([found.dice for found in overlap_metrics(c, reference, labels)]) for c in candidates)
    assert np.mean([found.dice for found in overlap_metrics(ours, reference, labels)]) == pytest.approx(best)


def test_the_baseline_is_perfect_where_intensity_tells_all() -> None:
    labels = LabelScheme.from_names({1: "a", 2: "b"})
    reference = np.random.default_rng(0).choice([0, 1, 2], (8, 8, 8))
    found = otsu_baseline(reference * 100.0, reference, labels, smoothing_voxels=0.0)
    np.testing.assert_array_equal(found, reference)


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_thresholds_cannot_segment_phantoms(kind: str) -> None:
    labels = phantom_labels(kind)
    for index in range(3):
        phantom = make_phantom(kind, [0, index])
        image, reference = phantom.image.array[0], phantom.label.array[0]
        for smoothing_voxels in (0.0, 1.0):
            found = otsu_baseline(image, reference, labels, smoothing_voxels=smoothing_voxels)
            dice = np.mean([entry.dice for entry in overlap_metrics(found, reference, labels)])
            assert 0.0 < dice < 0.45


def test_what_cannot_be_compared_is_refused() -> None:
    labels = LabelScheme.from_names({1: "a"})
    with pytest.raises(GeometryError, match="differ in shape"):
        otsu_baseline(np.zeros((3, 3, 3)), np.zeros((3, 3, 4)), labels)
    with pytest.raises(ConfigError, match="fewer classes"):
        otsu_baseline(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), labels, classes=40)
