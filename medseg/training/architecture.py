"""How a network follows from the data: of what its constructor names, the plan decides the shape."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.registry import NETWORKS
from medseg.runs import NetworkPlan, Recipe

__all__ = ["Topology", "Triple", "plan_network", "plan_topology", "round_to", "round_up"]

SMALLEST_GRID = 4
"""Voxels per axis that the network's deepest level keeps at least."""
MOST_LEVELS = 6
DEFAULT_FEATURES = 32
"""Of the first level, where nobody says otherwise."""
MOST_FEATURES = 320
ANISOTROPY = 2.0
"""An axis whose voxels are this much longer than the finest axis' is neither pooled nor convolved across."""

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Topology:
    """Levels of resolution.

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
    spacing, and never across a single slice. There are two levels at least.

    Args:
        patch_size: Voxels per axis.
        spacing_mm: Spacing per axis, in millimetres.

    Example:
        >>> plan_topology((64, 64, 16), (1.0, 1.0, 4.0)).strides
        ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    """
    size, spacing = np.asarray(patch_size, dtype=float), np.asarray(spacing_mm, dtype=float)
    has_neighbours = size > 1 if (size > 1).any() else size > 0
    strides: list[Triple] = []
    kernels: list[Triple] = []
    counts = np.ones(3, dtype=bool)
    while True:
        can_be_halved = size / 2 >= SMALLEST_GRID
        # An axis of few voxels keeps its spacing, and the others shall not wait for it.
        counts = can_be_halved if can_be_halved.any() else counts
        near = spacing < ANISOTROPY * spacing[counts].min() * (1 - 1e-6)
        kernels.append(_triple(np.where(near & has_neighbours, 3, 1)))
        halved = near & can_be_halved
        if not strides and not halved.any():
            halved = near & (size == size[near].max())  # the fewest levels; the patch is padded for them
        if not halved.any() or len(kernels) == MOST_LEVELS:
            return Topology(tuple(kernels), tuple(strides))
        strides.append(_triple(np.where(halved, 2, 1)))
        size, spacing = np.where(halved, size / 2, size), np.where(halved, spacing * 2, spacing)


def plan_network(
    dataset: Dataset,
    recipe: Recipe,
    topology: Topology,
    spacing_mm: Sequence[float],
    reasons: dict[str, str],
) -> NetworkPlan:
    """Hand the network what its constructor names of: levels' features, kernels and strides, and spacing.

    Args:
        dataset: Decides channels and classes.
        recipe: Its ``network.options`` go before what is planned.
        topology: Levels that suit the data.
        spacing_mm: Of the network's grid, per axis, in millimetres.
        reasons: Gains one for the network.

    Raises:
        ConfigError: The recipe names widths that do not suit the network or the data's levels.
    """
    name, given = recipe.network.name, recipe.network.options
    constructor = NETWORKS.resolve(name)
    named = inspect.signature(constructor).parameters
    levels = len(topology.kernel_sizes)
    # Where every level is pooled, the last one too, the coarsest grid has no convolutions of its own.
    used = levels - 1 if getattr(constructor, "pools_last_level", False) else levels
    _require_fitting_widths(recipe, named, used)
    base = recipe.network.base_features or DEFAULT_FEATURES
    shape: dict[str, Any] = {
        "features": [min(base * 2**level, max(base, MOST_FEATURES)) for level in range(used)],
        "base_features": base,
        "kernel_sizes": [list(kernel) for kernel in topology.kernel_sizes[:used]],
        "kernel_size": list(topology.kernel_sizes[0]),
        "strides": [list(stride) for stride in topology.strides],
        "spacing_mm": list(spacing_mm),
    }
    planned: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": len(dataset.channel_names),
        "out_channels": len(dataset.labels),
    } | {option: value for option, value in shape.items() if option in named}
    reasons["network"] = "every layer keeps the grid: nothing to plan"
    if "strides" in named:
        reasons["network"] = _why(topology)
    if isinstance(crf := given.get("crf"), dict) and "spacing_mm" not in crf:
        given = given | {"crf": {**crf, "spacing_mm": list(spacing_mm)}}
    return NetworkPlan(name=name, options=planned | given)


def round_up(size: Sequence[float], divisor: Triple) -> Triple:
    """The smallest sizes at or above ``size`` that ``divisor`` divides."""
    return _triple(
        [math.ceil(length / factor - 1e-9) * factor for length, factor in zip(size, divisor, strict=True)]
    )


def round_to(size: Sequence[float], divisor: Triple) -> Triple:
    """The nearest sizes that ``divisor`` divides, the smaller of two; none is 0.

    Example:
        >>> round_to((35, 50, 3), (8, 8, 8))
        (32, 48, 8)
    """
    return _triple(
        [
            max(1, math.ceil(length / factor - 0.5)) * factor
            for length, factor in zip(size, divisor, strict=True)
        ]
    )


def _triple(values: Any) -> Triple:
    first, second, third = (int(value) for value in values)
    return first, second, third


def _require_fitting_widths(recipe: Recipe, named: Any, levels: int) -> None:
    features = recipe.network.options.get("features")
    if isinstance(features, list) and "features" in named and len(features) != levels:
        raise ConfigError(
            f"network.options.features has {len(features)} levels, this data suits {levels}",
            fix=f"give {levels} numbers, or network.base_features alone",
        )
    if recipe.network.base_features is not None and not {"features", "base_features"} & set(named):
        raise ConfigError(
            f"network '{recipe.network.name}' takes no network.base_features",
            fix="leave it out; `medseg inspect` and the network's documentation name its options",
        )


def _why(topology: Topology) -> str:
    levels = len(topology.kernel_sizes)
    reason = (
        f"{levels} levels: the deepest keeps at least {SMALLEST_GRID} voxels an axis; axes with voxels "
        f"{ANISOTROPY:g} times as long as the finest, or longer, are left whole until the others catch up"
    )
    for axis, name in enumerate("XYZ"):
        flat = sum(kernel[axis] == 1 for kernel in topology.kernel_sizes)
        if flat:
            reason += f"; no kernel reaches across {name} on {flat} of them"
    return reason
