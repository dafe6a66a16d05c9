"""The dense CRF against the sum over all pairs, and what its links promise."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from medseg.classical import dense_crf, dense_crf_bytes
from medseg.classical.links import intensity_step
from medseg.errors import ConfigError, GeometryError, InputError

OPTIONS: dict[str, Any] = {
    "bilateral_weight": 3.0,
    "bilateral_sigma_mm": 2.0,
    "contrast": 2.0,
    "spatial_weight": 1.0,
    "spatial_sigma_mm": 1.5,
}


def problem(seed: int, classes: int = 3, shape: tuple[int, ...] = (5, 6, 4)) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    truth = (np.indices(shape).sum(axis=0) // 3) % classes
    image = truth + 0.3 * rng.normal(size=shape)
    scores = 0.8 * (np.arange(classes).reshape(-1, *[1] * len(shape)) == truth) + rng.normal(
        size=(classes, *shape)
    )
    return scores, image, np.array([1.0, 0.7, 2.0][: len(shape)]), truth


def exact(
    scores: np.ndarray,
    image: np.ndarray,
    spacing_mm: np.ndarray,
    iterations: int,
    costs: np.ndarray,
    bilateral_weight: float,
    bilateral_sigma_mm: float,
    contrast: float,
    spatial_weight: float,
    spatial_sigma_mm: float,
) -> np.ndarray:
    """The mean field by definition: a matrix of all pairs for each kernel."""
    shape = scores.shape[1:]
    channels = image.reshape(-1, *shape)
    place = np.stack([axis.ravel() for axis in np.indices(shape)], axis=1) * spacing_mm
    apart = ((place[:, np.newaxis] - place) ** 2).sum(axis=2)
    differ = np.zeros_like(apart)
    for channel, step in zip(channels, intensity_step(channels), strict=True):
        values = channel.ravel()
        differ += (values[:, np.newaxis] - values) ** 2 / (contrast * step) ** 2 / len(channels)
    total = np.zeros_like(apart)
    for weight, exponent in (
        (bilateral_weight, apart / bilateral_sigma_mm**2 + differ),
        (spatial_weight, apart / spatial_sigma_mm**2),
    ):
        kernel = np.exp(-exponent / 2)
        root = 1.0 / np.sqrt(kernel.sum(axis=1))
        kernel *= root[:, np.newaxis] * root
        np.fill_diagonal(kernel, 0.0)
        total += weight * kernel
    unary = -scores.reshape(len(scores), -1)
    current = -unary
    for _ in range(iterations):
        current = -unary - costs @ (softmax(current, axis=0) @ total)
    return log_softmax(current, axis=0).reshape(scores.shape)


@pytest.mark.parametrize(("shape", "channels"), [((5, 6, 4), 1), ((7, 9), 1), ((5, 4, 4), 3)])
@pytest.mark.parametrize("passes", [1, 2])
def test_it_is_near_the_sum_over_all_pairs(shape: tuple[int, ...], channels: int, passes: int) -> None:
    scores, image, spacing, _ = problem(0, 3, shape)
    rng = np.random.default_rng(1)
    several = np.stack([image, *(image + rng.normal(size=shape) for _ in range(channels - 1))])
    found = softmax(dense_crf(scores, several, spacing, iterations=5, passes=passes, **OPTIONS), axis=0)
    wanted = softmax(exact(scores, several, spacing, 5, 1.0 - np.eye(3), **OPTIONS), axis=0)
    assert np.abs(found - wanted).mean() < (0.012 if passes == 1 else 0.009)
    assert np.abs(found - wanted).max() < 0.1
    # Far from what it was given, so that being near means something.
    assert np.abs(softmax(scores, axis=0) - wanted).mean() > 0.08


def test_by_distance_alone_the_sum_is_exact() -> None:
    scores, image, spacing, _ = problem(1)
    options = {**OPTIONS, "bilateral_weight": 0.0}
    found = dense_crf(scores, image, spacing, iterations=4, **options)
    wanted = exact(scores, image, spacing, 4, 1.0 - np.eye(3), **options)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_costs_of_classes_beside_each_other_count_by_row_and_column() -> None:
    scores, image, spacing, _ = problem(2)
    costs = np.array([[0.0, 1.0, 2.0], [0.5, 0.0, 0.1], [2.0, 1.5, -0.2]])
    options = {**OPTIONS, "bilateral_weight": 0.0}
    found = dense_crf(scores, image, spacing, iterations=3, compatibility=costs, **options)
    np.testing.assert_allclose(found, exact(scores, image, spacing, 3, costs, **options), atol=1e-4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_axes_may_be_exchanged(order: tuple[int, int, int]) -> None:
    scores, image, spacing, _ = problem(3)
    options = {**OPTIONS, "passes": 2}
    found = dense_crf(scores, image, spacing, **options)
    back = [0, *(1 + axis for axis in np.argsort(order))]
    turned = dense_crf(
        scores.transpose(0, *(1 + axis for axis in order)),
        image.transpose(order),
        spacing[list(order)],
        **options,
    ).transpose(back)
    # The lattice does not turn with the axes, so that sums differ a little.
    assert np.abs(softmax(found, axis=0) - softmax(turned, axis=0)).mean() < 0.02
    options = {**options, "bilateral_weight": 0.0}
    np.testing.assert_allclose(
        dense_crf(scores, image, spacing, **options),
        dense_crf(
            scores.transpose(0, *(1 + axis for axis in order)),
            image.transpose(order),
            spacing[list(order)],
            **options,
        ).transpose(back),
        atol=1e-4,
    )


def test_it_repairs_noisy_scores_of_a_volume() -> None:
    truth = np.indices((18, 18, 12)).sum(axis=0) // 9 % 3
    rng = np.random.default_rng(4)
    image = truth + 0.3 * rng.normal(size=truth.shape)
    scores = np.stack([truth == index for index in range(3)]) + rng.normal(size=(3, *truth.shape))
    found = dense_crf(scores, image, (1.0, 1.0, 1.5), **OPTIONS).argmax(axis=0)
    assert (scores.argmax(axis=0) == truth).mean() < 0.7
    assert (found == truth).mean() > 0.9


def test_borders_go_to_where_the_image_has_an_edge() -> None:
    image = np.repeat([0.0, 10.0], [6, 4])[np.newaxis] * np.ones((3, 1))
    rough = np.repeat([-0.4, 0.4], [5, 5])[np.newaxis] * np.ones((3, 1))
    options = {**OPTIONS, "contrast": 0.5}
    found = dense_crf(np.stack([-rough, rough]), image, (1.0, 1.0), **options).argmax(axis=0)
    assert found[0].tolist() == [0] * 6 + [1] * 4


def test_results_are_logarithms_of_probabilities_and_repeat() -> None:
    scores, image, spacing, _ = problem(5)
    found = dense_crf(scores, image, spacing)
    assert (found.dtype, found.shape) == (np.float32, scores.shape)
    np.testing.assert_allclose(np.exp(found).sum(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found, dense_crf(scores, image, spacing))


def test_without_iterations_or_weights_scores_stay() -> None:
    scores, image, spacing, _ = problem(6)
    wanted = log_softmax(scores, axis=0)
    np.testing.assert_allclose(dense_crf(scores, image, spacing, iterations=0), wanted, atol=1e-5)
    alone = dense_crf(scores, image, spacing, bilateral_weight=0.0, spatial_weight=0.0)
    np.testing.assert_allclose(alone, wanted, atol=1e-5)


def test_memory_of_a_large_volume_is_below_the_limit() -> None:
    assert dense_crf_bytes((256, 256, 128), 5) < 3 << 30
    assert dense_crf_bytes((256, 256, 128), 5) < dense_crf_bytes((256, 256, 128), 5, channels=4)


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        ({"image": np.zeros((3, 4, 5))}, GeometryError, "differ in shape"),
        ({"scores": np.full((2, 4, 4, 4), np.inf)}, InputError, "scores holds NaN"),
        ({"iterations": -1}, ConfigError, "iterations"),
        ({"passes": 0}, ConfigError, "passes"),
        ({"bilateral_weight": -1.0}, ConfigError, "weights"),
        ({"spatial_sigma_mm": 0.0}, ConfigError, "sigmas"),
        ({"compatibility": np.eye(3)}, ConfigError, "for 2 classes"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], kind: type[Exception], what: str) -> None:
    fitting = {"scores": np.zeros((2, 4, 4, 4)), "image": np.zeros((4, 4, 4)), "spacing_mm": (1.0, 1.0, 1.0)}
    with pytest.raises(kind, match=what):
        dense_crf(**{**fitting, **change})
