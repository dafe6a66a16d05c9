"""Fully connected conditional random field: every pair of voxels is linked, near and alike ones strongly.

P. Kraehenbuehl, V. Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials",
NeurIPS 2011, here in 3D and in millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.classical.links import as_channels, intensity_step
from medseg.errors import ConfigError

__all__ = ["dense_crf", "dense_crf_bytes", "require_crf_options"]

_CORNER_BYTES, _CLASS_BYTES = 24, 40
"""Per voxel, for each corner of the lattice around it, and for each class: measured."""


def dense_crf(
    scores: npt.NDArray[Any],
    image: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    iterations: int = 10,
    bilateral_weight: float = 1.0,
    bilateral_sigma_mm: float = 2.0,
    contrast: float = 1.0,
    spatial_weight: float = 0.5,
    spatial_sigma_mm: float = 1.0,
    compatibility: npt.ArrayLike | None = None,
    passes: int = 1,
) -> npt.NDArray[np.float32]:
    """Class scores in which each voxel has heard all others, by mean-field inference.

    Two Gaussians link voxels: one of distance and intensity, one of distance alone. Each is divided by the
    roots of both ends' sums, as in the authors' code, so that what a voxel hears is a weighted mean of the
    others' beliefs and weights are in nats, whatever the spacing. The second is summed exactly, the first
    within a few per cent (see ``passes``).

    Args:
        scores: Logarithms of probabilities, or logits, shape (K, X, Y) or (K, X, Y, Z).
        image: Intensities, shape (X, Y[, Z]) or (C, X, Y[, Z]).
        spacing_mm: Distance between voxels along each axis.
        iterations: Of the mean field; 0 gives the normalised scores.
        bilateral_weight: Of the links by distance and intensity.
        bilateral_sigma_mm: Their deviation in space.
        contrast: Their deviation in intensity, in root mean squares of the differences between neighbours; of
            several channels the mean of the squares counts.
        spatial_weight: Of the links by distance alone.
        spatial_sigma_mm: Their deviation.
        compatibility: Cost of a class (rows) beside another (columns), shape (K, K); 1 for any two different
            ones (Potts) if left out.
        passes: Of the lattice on which the first are summed; see
            :class:`medseg.networks.blocks.PermutohedralLattice`.

    Returns:
        Logarithms of probabilities, shape of ``scores``.

    Raises:
        GeometryError: Shapes or spacing do not fit.
        InputError: Scores or intensities are not finite.
        ConfigError: An option is out of range, or there are fewer than two classes.

    Example:
        >>> foreground = np.array([[2.0, 2.0, -0.5, 2.0, -2.0, -2.0, -2.0]])
        >>> image = np.array([[5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0]])
        >>> scores = np.stack([-foreground, foreground])
        >>> dense_crf(scores, image, (1.0, 1.0), bilateral_weight=3.0).argmax(axis=0).tolist()
        [[1, 1, 1, 1, 0, 0, 0]]
    """
    channels = as_channels(image, scores, spacing_mm)
    weights, sigmas = (bilateral_weight, spatial_weight), (bilateral_sigma_mm, spatial_sigma_mm, contrast)
    require_crf_options(iterations, weights, sigmas, passes)
    costs = _compatibility(compatibility, len(scores))
    # Imported late: thresholds and cuts need no PyTorch.
    import torch

    from medseg.networks.blocks import BilateralKernel, SpatialKernel, mean_field

    with torch.no_grad():
        unary = torch.from_numpy(np.ascontiguousarray(scores, np.float32)).flatten(1).neg()
        kernels: list[BilateralKernel | SpatialKernel] = []
        if bilateral_weight > 0.0 and iterations and unary.numel():
            steps = intensity_step(channels)
            deviations = [contrast * math.sqrt(len(steps)) * (step or 1.0) for step in steps]
            seen = torch.from_numpy(np.ascontiguousarray(channels, np.float32))
            kernels.append(BilateralKernel(seen, spacing_mm, bilateral_sigma_mm, deviations, passes))
        if spatial_weight > 0.0 and iterations and unary.numel():
            kernels.append(SpatialKernel(scores.shape[1:], spacing_mm, spatial_sigma_mm, unary))
        used = [weight for weight in weights if weight > 0.0][: len(kernels)]
        result = mean_field(unary, kernels, used, torch.from_numpy(costs), iterations if kernels else 0)
        return np.asarray(torch.log_softmax(result, dim=0).numpy()).reshape(scores.shape)


def dense_crf_bytes(shape: Sequence[int], classes: int, channels: int = 1) -> int:
    """Memory that :func:`dense_crf` takes beside image and scores, at its fullest moment.

    Args:
        shape: Voxels along each axis.
        classes: Number of classes.
        channels: Of the image.

    Example:
        >>> dense_crf_bytes((256, 256, 128), classes=5) < 3 << 30
        True
    """
    corners = len(shape) + channels + 1
    return math.prod(shape) * (_CORNER_BYTES * corners + _CLASS_BYTES * classes)


def require_crf_options(
    iterations: int, weights: Sequence[float], sigmas: Sequence[float], passes: int
) -> None:
    """Refuse options that are out of range.

    Raises:
        ConfigError: One is.
    """
    if iterations < 0 or passes < 1:
        raise ConfigError(f"{iterations} iterations, {passes} passes", fix="give 0 and 1 at least")
    if not all(0.0 <= weight < math.inf for weight in weights):
        raise ConfigError(f"weights {tuple(weights)}", fix="give numbers from 0")
    if not all(0.0 < sigma < math.inf for sigma in sigmas):
        raise ConfigError(f"sigmas and contrast {tuple(sigmas)}", fix="give numbers above 0")


def _compatibility(given: npt.ArrayLike | None, classes: int) -> npt.NDArray[np.float32]:
    costs = 1.0 - np.eye(classes) if given is None else np.asarray(given)
    if costs.shape != (classes, classes) or not np.isfinite(costs).all():
        raise ConfigError(
            f"a compatibility of shape {costs.shape} for {classes} classes",
            fix=f"give {classes} rows of {classes} finite costs",
        )
    return costs.astype(np.float32)
