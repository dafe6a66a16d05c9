"""From a fingerprint to a plan: each decision with its reason."""

from __future__ import annotations

import numpy as np

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.progress import Progress
from medseg.runs import Fingerprint, NetworkPlan, Normalization, Plan, PreprocessingSpec, Recipe
from medseg.training.architecture import Topology, plan_network
from medseg.training.border_weights import border_weight_choice, require_known_classes
from medseg.training.case_facts import BODY_ABOVE_HU, is_ct
from medseg.training.class_sampling import plan_class_sampling
from medseg.training.fingerprint import fingerprint
from medseg.training.handover import EncoderSource
from medseg.training.inference_mode import plan_inference_mode
from medseg.training.patch_plan import plan_patch
from medseg.training.summed_facts import CONSTANT_BACKGROUND

__all__ = ["plan_from_dataset", "plan_from_fingerprint"]

AXCODES = "RAS"
LONG_VOXELS = 3.0
"""An axis whose voxels are this many times as long as the finest axis', with as few voxels, is a stack's."""


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
        ConfigError: The recipe's patch size does not suit the network, its memory holds no patch, or the
            recipe contradicts ``source``.
    """
    reasons: dict[str, str] = {"axcodes": "one orientation for all cases, whatever their files'"}
    spacing = _spacing(recipe, facts, source, reasons)

    def network_of(topology: Topology) -> NetworkPlan:
        if source is not None:
            return source.network(dataset, recipe)
        return plan_network(dataset, recipe, topology, spacing, reasons)

    fixed = None if source is None else source.topology
    patch, batch, topology = plan_patch(recipe, facts, spacing, fixed, network_of, reasons)
    network = network_of(topology)
    if source is None:
        normalization = tuple(
            _normalization(name, facts, channel, reasons)
            for channel, name in enumerate(dataset.channel_names)
        )
    else:
        normalization = source.plan.preprocessing.normalization
        taken_over = ("network", *(f"normalization of {name}" for name in dataset.channel_names))
        reasons |= dict.fromkeys(taken_over, source.reason)
    return Plan(
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        fingerprint=facts,
        preprocessing=PreprocessingSpec(axcodes=AXCODES, spacing_mm=spacing, normalization=normalization),
        patch_size=patch,
        batch_size=batch,
        network=network,
        class_sampling=plan_class_sampling(facts, dataset.labels, reasons),
        inference_mode=plan_inference_mode(recipe, network, topology.divisor, reasons),
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
                where=source.run.name,
                fix="leave spacing_mm out, or pretrain at the same",
            )
        reasons["spacing_mm"] = source.reason
        return taken_over
    if recipe.spacing_mm is not None:
        reasons["spacing_mm"] = "given by the recipe"
        return recipe.spacing_mm
    return _median_spacing(facts, reasons)


def _median_spacing(facts: Fingerprint, reasons: dict[str, str]) -> tuple[float, float, float]:
    """The median; of a stack of thick slices, along the stack, finer: as Isensee et al. 2021 have it.

    A median that half of the thinner stacks would be coarsened to costs their detail where there is least of
    it. It is no finer than the other axes' spacing.

    References:
        Isensee, Jaeger, Kohl, Petersen, Maier-Hein, nnU-Net: a self-configuring method for deep
        learning-based biomedical image segmentation, Nature Methods 2021.
    """
    median, shape = facts.median_spacing_mm, facts.median_shape
    reasons["spacing_mm"] = "median of the training cases"
    stack = int(np.argmax(median))
    others = [axis for axis in range(3) if axis != stack]
    is_long = median[stack] >= LONG_VOXELS * min(median)
    is_short = shape[stack] * LONG_VOXELS <= min(shape[axis] for axis in others)
    if facts.spacing_mm is None or not (is_long and is_short):
        return median
    finer = max(facts.spacing_mm.tenth_percentile[stack], *(median[axis] for axis in others))
    if finer >= median[stack]:
        return median
    reasons["spacing_mm"] = (
        f"median of the training cases, but along {'XYZ'[stack]}, whose voxels are {LONG_VOXELS:g} times as "
        "long as the finest or longer: there the 10th percentile, so that thin slices keep their detail"
    )
    spacing = list(median)
    spacing[stack] = finer
    first, second, third = spacing
    return first, second, third


def _normalization(name: str, facts: Fingerprint, channel: int, reasons: dict[str, str]) -> Normalization:
    key = f"normalization of {name}"
    if not is_ct(name):
        return _standardized(facts, channel, key, reasons)
    intensity = facts.foreground_intensity[channel]
    where = "the labelled structures"
    if not facts.class_voxels:
        where = f"the body (no labels: all voxels above {BODY_ABOVE_HU:g} HU)"
    if not intensity["lower"] < intensity["upper"]:
        reasons[key] = f"CT, but one intensity throughout {where}: each image standardised"
        return Normalization(scheme="zscore")
    reasons[key] = f"CT: clipped to percentiles 0.5 and 99.5 of {where}, then standardised by them"
    return Normalization(scheme="clip_zscore", **intensity)


def _standardized(facts: Fingerprint, channel: int, key: str, reasons: dict[str, str]) -> Normalization:
    reasons[key] = "not CT, so intensities have no unit: each image to mean 0 and deviation 1"
    found = facts.channels[channel] if facts.channels else None
    if found is None or found.background_fraction < CONSTANT_BACKGROUND:
        return Normalization(scheme="zscore")
    reasons[key] += (
        f" over its body: {found.background_fraction:.0%} of the voxels are exactly {found.background:g}, "
        "which was set and not measured"
    )
    return Normalization(scheme="zscore", background=found.background)
