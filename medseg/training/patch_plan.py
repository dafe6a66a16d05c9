"""Patch and batch: as much of the median case as a step's memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from medseg.errors import ConfigError
from medseg.io.sizes import format_bytes
from medseg.runs import Fingerprint, NetworkPlan, Recipe
from medseg.training.architecture import Topology, Triple, plan_topology, round_to, round_up
from medseg.training.step_memory import step_memory

__all__ = ["LARGEST_BATCH", "SMALLEST_BATCH", "plan_patch"]

SMALLEST_BATCH = 2
LARGEST_BATCH = 4
FEW_VOXELS = 32**3
"""A step of fewer voxels costs little, and has little for batch norm to average over: it takes more."""

SMALLEST_SIDE = 16
"""Voxels along an axis below which no patch is cut: it would show nothing of what is around a structure."""

_BYTES_PER_GB = 1e9


def plan_patch(
    recipe: Recipe,
    facts: Fingerprint,
    spacing_mm: Sequence[float],
    fixed: Topology | None,
    network_of: Callable[[Topology], NetworkPlan],
    reasons: dict[str, str],
) -> tuple[Triple, int, Topology]:
    """Choose a patch, how many of them a step sees, and the levels that suit them.

    Args:
        recipe: What it gives goes before what would be chosen.
        facts: Of the data.
        spacing_mm: Of the network's grid.
        fixed: Levels that are given already, if any.
        network_of: The network for given levels.
        reasons: Gains those for ``patch_size`` and ``batch_size``.

    Returns:
        Voxels per axis, patches, levels.

    Raises:
        ConfigError: The recipe's patch size is not divisible by the strides, or ``training.memory_gb`` does
            not hold the smallest patch.
    """
    given = recipe.training.patch_size
    least = recipe.training.batch_size or SMALLEST_BATCH
    if given is None:
        patch, topology = _largest(recipe, facts, spacing_mm, fixed, network_of, least, reasons)
    else:
        patch, topology = given, fixed or plan_topology(given, spacing_mm)
        fitted = round_up(patch, topology.divisor)
        if patch != fitted:
            raise ConfigError(
                f"training.patch_size {patch} is not divisible by {topology.divisor}", fix=f"use {fitted}"
            )
        reasons["patch_size"] = "given by the recipe"
    batch = _batch(recipe, patch, reasons)
    taken = step_memory(network_of(topology), topology.divisor).bytes_of(patch, batch)
    reasons["patch_size"] += f"; a step takes about {format_bytes(taken)} in single precision"
    return patch, batch, topology


def _largest(
    recipe: Recipe,
    facts: Fingerprint,
    spacing_mm: Sequence[float],
    fixed: Topology | None,
    network_of: Callable[[Topology], NetworkPlan],
    batch: int,
    reasons: dict[str, str],
) -> tuple[Triple, Topology]:
    """The median case, cut along its longest axis in millimetres until a step fits into memory.

    Rounded up instead, the patches of small cases would be zeros to a good part, which cost as much.
    """
    limit = recipe.training.memory_gb * _BYTES_PER_GB
    spacing = np.asarray(spacing_mm)
    size = np.asarray(facts.median_shape) * np.asarray(facts.median_spacing_mm) / spacing
    wanted = np.maximum(1, size.round())
    reasons["patch_size"] = "the median case, each axis rounded to the nearest that the network divides by"
    while True:
        topology = fixed or plan_topology(wanted, spacing_mm)
        patch = round_to(wanted, topology.divisor)
        needed = step_memory(network_of(topology), topology.divisor).bytes_of(patch, batch)
        if needed <= limit:
            return patch, topology
        reasons["patch_size"] = (
            f"the median case, cut where it is longest until {batch} patches fit "
            f"training.memory_gb {recipe.training.memory_gb:g}"
        )
        # A few thick slices stay as they are, even where they are the longest axis.
        can_shrink = np.asarray(patch) - np.asarray(topology.divisor) >= SMALLEST_SIDE
        if not can_shrink.any():
            raise ConfigError(
                f"training.memory_gb {recipe.training.memory_gb:g} does not hold {batch} patches of {patch}, "
                f"which take {format_bytes(needed)}",
                fix=f"give {math.ceil(needed / _BYTES_PER_GB)}, or a smaller network.base_features",
            )
        longest = int(np.argmax(np.where(can_shrink, wanted * spacing, 0.0)))
        wanted[longest] = patch[longest] - topology.divisor[longest]


def _batch(recipe: Recipe, patch: Triple, reasons: dict[str, str]) -> int:
    if recipe.training.batch_size is not None:
        reasons["batch_size"] = "given by the recipe"
        return recipe.training.batch_size
    batch = min(max(math.ceil(FEW_VOXELS / math.prod(patch)), SMALLEST_BATCH), LARGEST_BATCH)
    reasons["batch_size"] = (
        "in a given time, more steps with small batches learn more than fewer with large ones"
    )
    if batch > SMALLEST_BATCH:
        reasons["batch_size"] = "small patches: a step shall see enough voxels for batch norm to average over"
    return batch
