"""From a fingerprint to a plan: spacing, normalisation, patch, batch and network, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.progress import Progress
from medseg.runs import Fingerprint, Normalization, Plan, PreprocessingSpec, Recipe
from medseg.training.architecture import Topology, Triple, plan_network, plan_topology, round_up
from medseg.training.border_weights import border_weight_choice, require_known_classes
from medseg.training.fingerprint import BODY_ABOVE_HU, fingerprint, is_ct
from medseg.training.handover import EncoderSource

__all__ = ["plan_from_dataset", "plan_from_fingerprint"]

AXCODES = "RAS"
PATCH_BUDGET_VOXELS = 128**3
"""Largest patch: with 32 features a U-Net's training step then takes some 8 GiB at a batch of two."""
LARGEST_BATCH = 4
SMALLEST_BATCH = 2


def plan_from_dataset(dataset: Dataset, recipe: Recipe, progress: Progress | None = None) -> Plan:
    """Read the training data and decide; see ``fingerprint`` for what is refused.

    For a pretraining no label is read. Where the recipe names a run to take an encoder from, the plan takes
    over what that encoder rests on.

    Raises:
        InputError: There is no such run, or a case cannot be trained on.
        ConfigError: The recipe contradicts the run, its patch size does not suit the network, or it weighs a
            class that there is not.
    """
    source = EncoderSource.of(recipe)
    if recipe.pretrain is not None:
        dataset = dataset.without_labels()
    require_known_classes(recipe, dataset.labels)
    choice = border_weight_choice(recipe)
    instances = choice is not None and choice.instances == "dataset"
    facts = fingerprint(dataset, AXCODES, progress, labelled=recipe.pretrain is None, instances=instances)
    return plan_from_fingerprint(dataset, facts, recipe, source)


def plan_from_fingerprint(
    dataset: Dataset, facts: Fingerprint, recipe: Recipe, source: EncoderSource | None = None
) -> Plan:
    """Decide from a fingerprint.

    The plan depends on data and recipe alone: not on the machine, nor on how the data set is laid out.

    Args:
        dataset: Its name, channels and labels.
        facts: What its cases are like.
        recipe: What a person chose.
        source: The run that the encoder comes from, if any: of its plan spacing, normalisation and network
            are taken over.

    Raises:
        ConfigError: The recipe's patch size does not suit the network, or the recipe contradicts ``source``.
    """
    reasons: dict[str, str] = {"axcodes": "one orientation for all cases, whatever their files'"}
    spacing = _spacing(recipe, facts, source, reasons)
    patch, topology = _patch(recipe, facts, spacing, None if source is None else source.topology, reasons)
    if source is None:
        network = plan_network(dataset, recipe, topology, spacing, reasons)
        normalization = tuple(
            _normalization(name, facts, channel, reasons)
            for channel, name in enumerate(dataset.channel_names)
        )
    else:
        network, normalization = source.network(dataset, recipe), source.plan.preprocessing.normalization
        taken_over = ("network", *(f"normalization of {name}" for name in dataset.channel_names))
        reasons |= dict.fromkeys(taken_over, source.reason)
    return Plan(
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        fingerprint=facts,
        preprocessing=PreprocessingSpec(axcodes=AXCODES, spacing_mm=spacing, normalization=normalization),
        patch_size=patch,
        batch_size=recipe.training.batch_size or _batch(patch, reasons),
        network=network,
        reasons=reasons,
    )


def _spacing(
    recipe: Recipe, facts: Fingerprint, source: EncoderSource | None, reasons: dict[str, str]
) -> tuple[float, float, float]:
    taken_over = None if source is None else source.plan.preprocessing.spacing_mm
    if source is not None and taken_over is not None:
        if recipe.spacing_mm not in (None, taken_over):
            raise ConfigError(
                f"its encoder was trained at {taken_over} mm, the recipe's spacing_mm is {recipe.spacing_mm}",
                where=source.run.path,
                fix="leave spacing_mm out, or pretrain at the same",
            )
        reasons["spacing_mm"] = source.reason
        return taken_over
    reasons["spacing_mm"] = "given by the recipe" if recipe.spacing_mm else "median of the training cases"
    return recipe.spacing_mm or facts.median_spacing_mm


def _normalization(name: str, facts: Fingerprint, channel: int, reasons: dict[str, str]) -> Normalization:
    key = f"normalization of {name}"
    if not is_ct(name):
        reasons[key] = "not CT, so intensities have no unit: each image to mean 0 and deviation 1"
        return Normalization(scheme="zscore")
    intensity = facts.foreground_intensity[channel]
    where = "the labelled structures"
    if not facts.class_voxels:
        where = f"the body (no labels: all voxels above {BODY_ABOVE_HU:g} HU)"
    if not intensity["lower"] < intensity["upper"]:
        reasons[key] = f"CT, but one intensity throughout {where}: each image standardised"
        return Normalization(scheme="zscore")
    reasons[key] = f"CT: clipped to percentiles 0.5 and 99.5 of {where}, then standardised by them"
    return Normalization(scheme="clip_zscore", **intensity)


def _patch(
    recipe: Recipe,
    facts: Fingerprint,
    spacing: Sequence[float],
    fixed: Topology | None,
    reasons: dict[str, str],
) -> tuple[Triple, Topology]:
    if recipe.training.patch_size is not None:
        patch = recipe.training.patch_size
        topology = fixed or plan_topology(patch, spacing)
        fitted = round_up(patch, topology.divisor)
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
        topology = fixed or plan_topology(wanted, spacing)
        patch = round_up(wanted, topology.divisor)
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
