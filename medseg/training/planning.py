"""From a fingerprint to a plan: spacing, normalisation, patch, batch and network, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.progress import Progress
from medseg.runs import Fingerprint, NetworkPlan, Normalization, Plan, PreprocessingSpec, Recipe
from medseg.training.fingerprint import fingerprint

__all__ = ["Topology", "plan_from_dataset", "plan_from_fingerprint", "plan_topology"]

AXCODES = "RAS"
PATCH_BUDGET_VOXELS = 128**3
"""Largest patch: with 32 features a U-Net's training step then takes some 8 GiB at a batch of two."""
LARGEST_BATCH = 4
SMALLEST_BATCH = 2
SMALLEST_GRID = 4
"""Voxels per axis that the network's deepest level keeps at least."""
MOST_LEVELS = 6
MOST_FEATURES = 320
ANISOTROPY = 2.0
"""An axis whose voxels are this much longer than the finest axis' is neither pooled nor convolved across."""

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Topology:
    """Levels of a U-shaped network.

    Attributes:
        kernel_sizes: One triple per level.
        strides: From each level to the next: one triple fewer than levels.
    """

    kernel_sizes: tuple[Triple, ...]
    strides: tuple[Triple, ...]

    @property
    def divisor(self) -> Triple:
        """What a patch's sizes must be divisible by."""
        first, second, third = np.prod(np.array([(1, 1, 1), *self.strides]), axis=0).tolist()
        return first, second, third


def plan_topology(patch_size: Sequence[int], spacing_mm: Sequence[float]) -> Topology:
    """Choose depth, strides and kernels for a patch.

    An axis is halved while it keeps ``SMALLEST_GRID`` voxels and its voxels are not much longer than those
    of the finest axis that can still be halved. A kernel reaches across an axis under the same condition on
    spacing. There are two levels at least.

    Args:
        patch_size: Voxels per axis.
        spacing_mm: Spacing per axis, in millimetres.

    Example:
        >>> plan_topology((64, 64, 16), (1.0, 1.0, 4.0)).strides
        ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    """
    size, spacing = np.asarray(patch_size, dtype=float), np.asarray(spacing_mm, dtype=float)
    strides: list[Triple] = []
    kernels: list[Triple] = []
    counts = np.ones(3, dtype=bool)
    while True:
        can_be_halved = size / 2 >= SMALLEST_GRID
        # An axis of few voxels keeps its spacing, and the others shall not wait for it.
        counts = can_be_halved if can_be_halved.any() else counts
        near = spacing < ANISOTROPY * spacing[counts].min() * (1 - 1e-6)
        kernels.append(_triple(np.where(near, 3, 1)))
        halved = near & can_be_halved
        if not strides and not halved.any():
            halved = near & (size == size[near].max())  # the smallest U-Net; the patch is padded for it
        if not halved.any() or len(kernels) == MOST_LEVELS:
            return Topology(tuple(kernels), tuple(strides))
        strides.append(_triple(np.where(halved, 2, 1)))
        size, spacing = np.where(halved, size / 2, size), np.where(halved, spacing * 2, spacing)


def plan_from_dataset(dataset: Dataset, recipe: Recipe, progress: Progress | None = None) -> Plan:
    """Read the training data and decide; see ``fingerprint`` for what is refused."""
    return plan_from_fingerprint(dataset, fingerprint(dataset, AXCODES, progress), recipe)


def plan_from_fingerprint(dataset: Dataset, facts: Fingerprint, recipe: Recipe) -> Plan:
    """Decide from a fingerprint.

    The plan depends on data and recipe alone: not on the machine, nor on how the data set is laid out.

    Raises:
        ConfigError: The recipe's patch size does not suit the network.
    """
    reasons: dict[str, str] = {"axcodes": "one orientation for all cases, whatever their files'"}
    spacing = recipe.spacing_mm or facts.median_spacing_mm
    reasons["spacing_mm"] = "given by the recipe" if recipe.spacing_mm else "median of the training cases"
    normalization = tuple(
        _normalization(name, facts, channel, reasons) for channel, name in enumerate(dataset.channel_names)
    )
    patch, topology = _patch(recipe, facts, spacing, reasons)
    return Plan(
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        fingerprint=facts,
        preprocessing=PreprocessingSpec(axcodes=AXCODES, spacing_mm=spacing, normalization=normalization),
        patch_size=patch,
        batch_size=recipe.training.batch_size or _batch(patch, reasons),
        network=_network(dataset, recipe, topology, reasons),
        reasons=reasons,
    )


def _normalization(name: str, facts: Fingerprint, channel: int, reasons: dict[str, str]) -> Normalization:
    key = f"normalization of {name}"
    if name.strip().upper() != "CT":
        reasons[key] = "not CT, so intensities have no unit: each image to mean 0 and deviation 1"
        return Normalization(scheme="zscore")
    intensity = facts.foreground_intensity[channel]
    if not intensity["lower"] < intensity["upper"]:
        reasons[key] = "CT, but the labelled structures have one intensity: each image standardised"
        return Normalization(scheme="zscore")
    reasons[key] = (
        "CT: clipped to percentiles 0.5 and 99.5 of the labelled structures, then standardised by them"
    )
    return Normalization(scheme="clip_zscore", **intensity)


def _patch(
    recipe: Recipe, facts: Fingerprint, spacing: Sequence[float], reasons: dict[str, str]
) -> tuple[Triple, Topology]:
    if recipe.training.patch_size is not None:
        patch = recipe.training.patch_size
        topology = plan_topology(patch, spacing)
        fitted = _rounded_up(patch, topology.divisor)
        if patch != fitted:
            raise ConfigError(
                f"training.patch_size {patch} is not divisible by {topology.divisor}", fix=f"use {fitted}"
            )
        reasons["patch_size"] = "given by the recipe"
        return patch, topology
    size = np.asarray(facts.median_shape) * np.asarray(facts.median_spacing_mm) / np.asarray(spacing)
    wanted = np.maximum(1, size.round())
    reasons["patch_size"] = "the median case, each axis rounded up to what the network divides by"
    while True:
        topology = plan_topology(wanted, spacing)
        patch = _rounded_up(wanted, topology.divisor)
        if math.prod(patch) <= PATCH_BUDGET_VOXELS:
            return patch, topology
        reasons["patch_size"] = f"the median case, cut where it is longest to {PATCH_BUDGET_VOXELS} voxels"
        can_shrink = np.asarray(patch) > np.asarray(topology.divisor)  # a single thick slice cannot
        longest = int(np.argmax(np.where(can_shrink, wanted * np.asarray(spacing), 0.0)))
        wanted[longest] = patch[longest] - topology.divisor[longest]


def _batch(patch: Triple, reasons: dict[str, str]) -> int:
    batch = int(np.clip(2 * PATCH_BUDGET_VOXELS // math.prod(patch), SMALLEST_BATCH, LARGEST_BATCH))
    reasons["batch_size"] = f"{batch} patches fit the memory that two of the largest take"
    if batch == LARGEST_BATCH:
        reasons["batch_size"] = "small patches: more of them would buy fewer steps in the same time"
    return batch


def _network(dataset: Dataset, recipe: Recipe, topology: Topology, reasons: dict[str, str]) -> NetworkPlan:
    levels = len(topology.kernel_sizes)
    given = recipe.network.options
    features = given.get("features")
    if isinstance(features, list) and len(features) != levels:
        raise ConfigError(
            f"network.options.features has {len(features)} levels, this data suits {levels}",
            fix=f"give {levels} numbers, or network.base_features alone",
        )
    reasons["network"] = (
        f"{levels} levels: the deepest keeps at least {SMALLEST_GRID} voxels an axis; axes with voxels "
        f"{ANISOTROPY:g} times as long as the finest, or longer, are left whole until the others catch up"
    )
    base = recipe.network.base_features
    planned: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": len(dataset.channel_names),
        "out_channels": len(dataset.labels),
        "features": [min(base * 2**level, max(base, MOST_FEATURES)) for level in range(levels)],
        "kernel_sizes": [list(kernel) for kernel in topology.kernel_sizes],
        "strides": [list(stride) for stride in topology.strides],
    }
    return NetworkPlan(name=recipe.network.name, options=planned | given)


def _rounded_up(size: Sequence[float], divisor: Triple) -> Triple:
    return _triple(
        [math.ceil(length / factor - 1e-9) * factor for length, factor in zip(size, divisor, strict=True)]
    )


def _triple(values: Any) -> Triple:
    first, second, third = (int(value) for value in values)
    return first, second, third
