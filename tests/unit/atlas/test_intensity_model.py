"""EM with a prior: scikit-learn's mixture where the prior is flat, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.atlas.intensity_model import IntensityChoice, classify, fit_mixture, neighbour_votes
from medseg.errors import ConfigError, GeometryError


@pytest.mark.parametrize("channels", [1, 2])
def test_a_flat_prior_gives_scikit_learns_mixture(channels: int) -> None:
    mixture = pytest.importorskip("sklearn.mixture")
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [4.0, 1.0], [9.0, -2.0]])[:, :channels]
    values = np.concatenate([rng.normal(centre, 1.0, (400, channels)) for centre in centres])
    choice = IntensityChoice(iterations=300, tolerance=1e-10, least_variance=1e-6)
    model, likelihoods = fit_mixture(values, np.zeros((1, len(values))), (3,), choice)
    # Two Gaussians of one class or three classes' own: with one class the prior says nothing.
    theirs = mixture.GaussianMixture(
        3, tol=1e-12, max_iter=500, reg_covar=1e-6, means_init=centres, random_state=0
    ).fit(values)
    order = np.argsort(theirs.means_[:, 0])
    np.testing.assert_allclose(model.means, theirs.means_[order], atol=1e-3)
    np.testing.assert_allclose(model.weights, theirs.weights_[order], atol=1e-3)
    np.testing.assert_allclose(model.covariances, theirs.covariances_[order], atol=1e-2)
    assert likelihoods[-1] == pytest.approx(theirs.score(values), abs=1e-5)


def test_a_flat_prior_over_classes_gives_the_mixtures_decisions() -> None:
    mixture = pytest.importorskip("sklearn.mixture")
    rng = np.random.default_rng(1)
    truth = rng.permutation(np.repeat([0, 1], 500)).reshape(10, 10, 10)
    image = rng.normal(truth * 5.0, 1.0)[np.newaxis]
    prior = np.stack([np.where(truth == 0, 0.51, 0.49), np.where(truth == 0, 0.49, 0.51)])  # all but flat
    choice = IntensityChoice(background_components=1, markov_weight=0.0, iterations=200, tolerance=1e-9)
    found = classify(image, prior, choice).probabilities.argmax(axis=0)
    theirs = mixture.GaussianMixture(2, random_state=0).fit(image.reshape(-1, 1))
    rank = np.argsort(np.argsort(theirs.means_[:, 0]))
    assert (found.ravel() == rank[theirs.predict(image.reshape(-1, 1))]).mean() > 0.99


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_the_likelihood_never_falls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.integers(0, 3, 300) * 2.0, 1.0)[:, np.newaxis]
    prior = rng.dirichlet(np.ones(3), 300).T
    choice = IntensityChoice(tolerance=1e-9, iterations=40, least_variance=1e-9)
    _, likelihoods = fit_mixture(values, np.log(prior), (2, 1, 1), choice)
    assert np.diff(likelihoods).min() > -1e-6


def test_neighbours_by_hand() -> None:
    line = np.array([1.0, 0.0, 1.0, 0.0]).reshape(1, 4, 1, 1)
    np.testing.assert_allclose(neighbour_votes(line, (1.0, 1.0, 1.0)).ravel(), [0.0, 2.0, 0.0, 1.0])
    # A neighbour twice as far counts half.
    np.testing.assert_allclose(neighbour_votes(line, (2.0, 1.0, 1.0)).ravel(), [0.0, 1.0, 0.0, 0.5])


@pytest.mark.parametrize("method", ["mean_field", "icm"])
def test_neighbours_take_noise_away(method: str) -> None:
    rng = np.random.default_rng(2)
    truth = np.zeros((16, 16, 16), int)
    truth[4:12, 4:12, 4:12] = 1
    image = rng.normal(truth * 1.5, 1.0)[np.newaxis]
    prior = np.full((2, 16, 16, 16), 0.5)
    prior[1] += np.where(truth == 1, 0.2, -0.2)
    prior[0] = 1.0 - prior[1]
    right = {}
    for weight in (0.0, 0.8):
        choice = IntensityChoice(background_components=1, markov_weight=weight, markov_method=method)
        found = classify(image, prior, choice)
        right[weight] = (found.probabilities.argmax(axis=0) == truth).mean()
        np.testing.assert_allclose(found.probabilities.sum(axis=0), 1.0, atol=1e-5)
    assert right[0.8] > right[0.0] + 0.03
    assert right[0.8] > 0.97


def test_intensities_correct_a_prior_that_is_out_of_place() -> None:
    rng = np.random.default_rng(3)
    truth = np.zeros((20, 12, 12), int)
    truth[6:14, 3:9, 3:9] = 1
    image = rng.normal(truth * 4.0, 1.0)[np.newaxis]
    displaced = np.roll(truth, 2, axis=0)
    prior = np.stack([1.0 - 0.8 * displaced - 0.1, 0.8 * displaced + 0.1])
    found = classify(image, prior, IntensityChoice(background_components=1))
    assert (found.probabilities.argmax(axis=0) == truth).mean() > 0.995
    assert (displaced == truth).mean() < 0.96


def test_outside_the_region_the_prior_stands() -> None:
    rng = np.random.default_rng(4)
    image, prior = rng.normal(size=(1, 8, 8, 8)), rng.dirichlet(np.ones(2), (8, 8, 8)).transpose(3, 0, 1, 2)
    region = np.zeros((8, 8, 8), bool)
    region[2:6, 2:6, 2:6] = True
    found = classify(image, prior, IntensityChoice(), region=region).probabilities
    np.testing.assert_allclose(found[:, ~region], prior[:, ~region], atol=1e-6)
    assert np.abs(found[:, region] - prior[:, region]).max() > 0.05


def test_what_does_not_fit_is_refused() -> None:
    image, prior = np.zeros((1, 3, 3, 3)), np.full((2, 3, 3, 3), 0.5)
    with pytest.raises(GeometryError, match="do not fit"):
        classify(image, prior[..., :2], IntensityChoice())
    region = np.zeros((3, 3, 3), bool)
    region[0, 0, 0] = True
    with pytest.raises(ConfigError, match="1 voxels cannot tell 4 Gaussians apart"):
        classify(image, prior, IntensityChoice(), region=region)
