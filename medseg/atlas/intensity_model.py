"""What intensities say about classes, given where each class is to be expected: EM with a Markov prior.

K. Van Leemput, F. Maes, D. Vandermeulen and P. Suetens, "Automated model-based tissue classification of MR
images of the brain", IEEE TMI 18, 1999. Each class is a mixture of Gaussians whose parameters are those of
the image at hand; the atlas says with what probability a class is at a voxel; neighbours tend to be alike.
The Markov field is solved by its mean field (J. Zhang, IEEE Trans. Signal Processing 40, 1992) or by iterated
conditional modes (J. Besag, J. R. Stat. Soc. B 48, 1986).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from scipy.special import logsumexp

from medseg.errors import ConfigError, GeometryError
from medseg.runs.part import Part

__all__ = ["IntensityChoice", "IntensityModel", "Posterior", "classify", "fit_mixture", "neighbour_votes"]

Array = npt.NDArray[np.float64]
_LEAST = 1e-10


class IntensityChoice(Part):
    """How intensities and neighbours are heeded.

    Attributes:
        background_components: Gaussians of the background, which is made of several tissues.
        class_components: Gaussians of each other class.
        iterations: Of EM, at most.
        tolerance: EM ends when the mean log-likelihood of a voxel grows by less.
        markov_weight: How much one neighbour of the same class speaks for a class, as a logarithm of odds;
            0 leaves each voxel to itself.
        markov_method: ``"mean_field"``: neighbours count by their probabilities; ``"icm"``: by their most
            likely class.
        markov_iterations: Of the Markov field, after EM.
        least_variance: Of a Gaussian: what noise there is at least.
    """

    background_components: PositiveInt = 3
    class_components: PositiveInt = 1
    iterations: PositiveInt = 30
    tolerance: PositiveFloat = 1e-4
    markov_weight: NonNegativeFloat = 0.6
    markov_method: Literal["mean_field", "icm"] = "mean_field"
    markov_iterations: PositiveInt = 5
    least_variance: PositiveFloat = 1e-4

    def components(self, classes: int) -> tuple[int, ...]:
        """Gaussians of each class, background first."""
        return (self.background_components, *[self.class_components] * (classes - 1))


@dataclass(frozen=True, eq=False)
class IntensityModel:
    """Mixtures of Gaussians, one mixture for each class.

    Attributes:
        owner: (G,), the class that each Gaussian belongs to.
        weights: (G,), its part of its class; of sum 1 within each class.
        means: (G, C).
        covariances: (G, C, C).
    """

    owner: npt.NDArray[np.intp]
    weights: Array
    means: Array
    covariances: Array

    def log_densities(self, values: Array) -> Array:
        """Logarithms of weight times density of each Gaussian at each voxel, (G, V)."""
        channels = values.shape[1]
        found = np.empty((len(self.owner), len(values)))
        for number, (mean, covariance) in enumerate(zip(self.means, self.covariances, strict=True)):
            root = np.linalg.cholesky(covariance)
            scaled = np.linalg.solve(root, (values - mean).T)
            norm = channels * np.log(2.0 * np.pi) + 2.0 * np.log(np.diag(root)).sum()
            found[number] = -0.5 * ((scaled**2).sum(axis=0) + norm)
        return found + np.log(np.maximum(self.weights, _LEAST))[:, np.newaxis]

    def log_likelihoods(self, values: Array, classes: int) -> Array:
        """Logarithms of the density of each class at each voxel, (K, V)."""
        each = self.log_densities(values)
        return np.stack([logsumexp(each[self.owner == k], axis=0) for k in range(classes)])


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the model makes of an image.

    Attributes:
        probabilities: (K, X, Y, Z), of sum 1.
        model: The Gaussians that were found.
        log_likelihoods: Mean over the voxels, after each iteration of EM.
    """

    probabilities: npt.NDArray[np.float32]
    model: IntensityModel
    log_likelihoods: tuple[float, ...]


def classify(
    values: npt.NDArray[np.floating],
    prior: npt.NDArray[np.floating],
    choice: IntensityChoice,
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    region: npt.NDArray[np.bool_] | None = None,
) -> Posterior:
    """Probabilities of classes from an image and an atlas's prior.

    Args:
        values: (C, X, Y, Z), intensities.
        prior: (K, X, Y, Z), of sum 1.
        choice: How.
        spacing_mm: Of the voxels: near neighbours count more.
        region: Where the model is fitted and applied; elsewhere the prior stands. Everywhere if left out.

    Raises:
        GeometryError: Shapes differ.
        ConfigError: The region holds fewer voxels than there are Gaussians.
    """
    if values.shape[1:] != prior.shape[1:] or (region is not None and region.shape != prior.shape[1:]):
        raise GeometryError(f"image {values.shape}, prior {prior.shape} and region do not fit")
    inside = np.ones(prior.shape[1:], bool) if region is None else region
    chosen = values[:, inside].T.astype(np.float64)
    expected = np.log(np.maximum(prior[:, inside].astype(np.float64), _LEAST))
    full = prior.astype(np.float64)
    model = _start(chosen, expected, choice.components(len(prior)), choice)
    likelihoods: list[float] = []
    pull = np.zeros_like(expected)
    while not _settled(likelihoods, choice):
        model, likelihood = _step(chosen, expected + pull, model, choice)
        likelihoods.append(likelihood)
        full[:, inside] = _posterior(model.log_likelihoods(chosen, len(prior)) + expected + pull)
        pull = _pull(full, inside, spacing_mm, choice)
    fixed = model.log_likelihoods(chosen, len(prior)) + expected
    for _ in range(choice.markov_iterations if choice.markov_weight else 0):
        full[:, inside] = _posterior(fixed + _pull(full, inside, spacing_mm, choice))
    return Posterior(full.astype(np.float32), model, tuple(likelihoods))


def fit_mixture(
    values: Array, log_prior: Array, components: Sequence[int], choice: IntensityChoice
) -> tuple[IntensityModel, tuple[float, ...]]:
    """EM without neighbours.

    Args:
        values: (V, C).
        log_prior: (K, V), logarithms of the probability of each class at each voxel.
        components: Gaussians of each class.
        choice: Iterations, tolerance, least variance.

    Returns:
        The model, and the mean log-likelihood before each iteration: it never falls.
    """
    model = _start(values, log_prior, components, choice)
    likelihoods: list[float] = []
    while not _settled(likelihoods, choice):
        model, likelihood = _step(values, log_prior, model, choice)
        likelihoods.append(likelihood)
    return model, tuple(likelihoods)


def neighbour_votes(probabilities: Array, spacing_mm: Sequence[float]) -> Array:
    """Sum of the six neighbours' probabilities, each weighted by the smallest spacing over its distance.

    Args:
        probabilities: (K, X, Y, Z).
        spacing_mm: Of the voxels.
    """
    votes = np.zeros_like(probabilities)
    for axis, spacing in enumerate(spacing_mm, start=1):
        weight = min(spacing_mm) / spacing
        before, after = [slice(None)] * 4, [slice(None)] * 4
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        votes[tuple(after)] += weight * probabilities[tuple(before)]
        votes[tuple(before)] += weight * probabilities[tuple(after)]
    return votes


def _settled(likelihoods: Sequence[float], choice: IntensityChoice) -> bool:
    """Whether EM has come to its end."""
    if len(likelihoods) >= choice.iterations:
        return True
    return len(likelihoods) > 1 and abs(likelihoods[-1] - likelihoods[-2]) < choice.tolerance


def _pull(
    full: Array, inside: npt.NDArray[np.bool_], spacing_mm: Sequence[float], choice: IntensityChoice
) -> Array:
    """What neighbours add to the logarithms of a class's probability, (K, V)."""
    if not choice.markov_weight:
        return np.zeros((len(full), int(inside.sum())))
    if choice.markov_method == "icm":
        classes = np.arange(len(full))[:, None, None, None]
        full = (full.argmax(axis=0) == classes).astype(np.float64)
    return choice.markov_weight * neighbour_votes(full, spacing_mm)[:, inside]


def _posterior(scores: Array) -> Array:
    found: Array = np.exp(scores - logsumexp(scores, axis=0))
    return found


def _start(
    values: Array, log_prior: Array, components: Sequence[int], choice: IntensityChoice
) -> IntensityModel:
    """Gaussians of the intensities that the prior expects of each class, from dark to bright."""
    if len(values) < sum(components):
        raise ConfigError(
            f"{len(values)} voxels cannot tell {sum(components)} Gaussians apart", fix="ask for fewer"
        )
    prior = np.exp(log_prior)
    responsibilities = []
    order = np.argsort(values[:, 0], kind="stable")
    for belonging, count in zip(prior, components, strict=True):
        rank = np.empty(len(values))
        rank[order] = np.cumsum(belonging[order])
        part = np.minimum((count * rank / max(rank.max(), _LEAST)).astype(int), count - 1)
        responsibilities += [belonging * (part == number) for number in range(count)]
    owner = np.repeat(np.arange(len(components)), components)
    return _maximized(values, np.stack(responsibilities), owner, choice)


def _step(
    values: Array, log_prior: Array, model: IntensityModel, choice: IntensityChoice
) -> tuple[IntensityModel, float]:
    """One iteration of EM, and the mean log-likelihood before it."""
    joint = model.log_densities(values) + log_prior[model.owner]
    total = logsumexp(joint, axis=0)
    likelihood = float((total - logsumexp(log_prior, axis=0)).mean())
    return _maximized(values, np.exp(joint - total), model.owner, choice), likelihood


def _maximized(
    values: Array, responsibilities: Array, owner: npt.NDArray[np.intp], choice: IntensityChoice
) -> IntensityModel:
    mass = responsibilities.sum(axis=1) + _LEAST
    means = responsibilities @ values / mass[:, np.newaxis]
    covariances = np.empty((len(owner), values.shape[1], values.shape[1]))
    for number, (belonging, mean) in enumerate(zip(responsibilities, means, strict=True)):
        off = values - mean
        covariances[number] = (belonging[:, np.newaxis] * off).T @ off / mass[number]
    covariances += choice.least_variance * np.eye(values.shape[1])
    of_class = np.bincount(owner, weights=mass)
    return IntensityModel(owner, mass / of_class[owner], means, covariances)
