"""From a run folder to a segmenter."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from medseg.errors import BundleError, ConfigError
from medseg.inference import Compute, choose_compute
from medseg.networks import build_network
from medseg.postprocessing import require_classes
from medseg.registry import did_you_mean
from medseg.runs import Plan, RunFolder
from medseg.runs.bundle import BundleFolder, is_bundle
from medseg.runs.recipe import InferenceChoice, PostprocessChoice, Recipe
from medseg.segmenters.bundles.metadata import require_true_metadata
from medseg.segmenters.bundles.opening import open_bundle
from medseg.segmenters.ensemble import EnsembleSegmenter
from medseg.segmenters.network import NetworkSegmenter
from medseg.segmenters.passage import MODES
from medseg.segmenters.protocol import Segmenter
from medseg.segmenters.weights import RETRAIN, load_all_weights, read_weights

__all__ = ["load_segmenter"]

_CHECKPOINTS = ("last", "best")
_CHOICES = {
    "mode": "use " + ", ".join(MODES),
    "overlap": "use 0 to 0.9",
    "mirror": "name axes of the network grid in order, as x, xy or xyz",
}


def load_segmenter(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    device: str = "auto",
    fold: int | Literal["all"] | None = None,
    checkpoint: str = "last",
    *,
    precision: str = "float32",
    mode: str | None = None,
    overlap: float | None = None,
    mirror: str | None = None,
    postprocess: PostprocessChoice | None = None,
    max_ram_bytes: int | None = None,
    max_vram_bytes: int | None = None,
) -> Segmenter:
    """Load what a training left behind.

    Args:
        path: The run's folder, or those of several runs for the same task, which become an ensemble.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        fold: One fold; ``"all"`` or ``None``: the ensemble of those that are trained.
        checkpoint: Weights of the ``"last"`` step, or the ``"best"`` validated.
        precision: ``"float32"``, which gives the same labels on any machine; ``"bfloat16"``, or ``"auto"``
            (bfloat16 where the device computes in it): faster, with some voxels at borders changed.
        mode: ``"auto"``, ``"streaming"``, ``"sliding-window"`` or ``"overlap-tile"``; the recipe's if left
            out.
        overlap: Of neighbouring windows, as a part of their size; the recipe's if left out.
        mirror: Axes of mirror images that are averaged, such as ``"xy"``; the recipe's if left out.
        postprocess: What is done to label maps; the recipe's if left out. What is left to validation is taken
            from the run's ``postprocess.json``.
        max_ram_bytes: Limit of the whole process; what is free, if left out.
        max_vram_bytes: Limit of what is taken of a GPU; what is free, if left out.

    Returns:
        The network, or the ensemble of several folds' networks.

    Raises:
        InputError: There is no run in this folder, or it is a pretraining's.
        ConfigError: No such fold, checkpoint, device or precision, or a class that ``postprocess`` names; or
            runs differ in postprocessing.
        BundleError: The run is damaged, or has no weights yet.
    """
    if checkpoint not in _CHECKPOINTS:
        raise ConfigError(
            f"unknown checkpoint '{checkpoint}'",
            where="--checkpoint",
            fix=did_you_mean(checkpoint, _CHECKPOINTS),
        )
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    given = {"mode": mode, "overlap": overlap, "mirror": mirror}
    found = [entry for folder in paths for entry in _members(folder, fold, checkpoint, given, postprocess)]
    running = _Running(choose_compute(device, precision), max_ram_bytes, max_vram_bytes, len(found))
    members = [_load_network(member, running) for member in found]
    return members[0] if len(members) == 1 else EnsembleSegmenter(members)


@dataclass(frozen=True)
class _Running:
    """Where members run, and what memory they share.

    Attributes:
        compute: Device and precision.
        max_ram_bytes: Limit of the whole process; what is free, if ``None``.
        max_vram_bytes: Limit of what is taken of a GPU; what is free, if ``None``.
        members: How many share them.
    """

    compute: Compute
    max_ram_bytes: int | None
    max_vram_bytes: int | None
    members: int


@dataclass(frozen=True)
class _Member:
    """One network of a run that takes part.

    Attributes:
        weights: The file.
        plan: Of its run.
        inference: Its way through an image.
        postprocess: What is done to label maps.
    """

    weights: Path
    plan: Plan
    inference: InferenceChoice
    postprocess: PostprocessChoice


def _members(
    path: str | os.PathLike[str],
    fold: int | Literal["all"] | None,
    checkpoint: str,
    given: dict[str, Any],
    postprocess: PostprocessChoice | None,
) -> list[_Member]:
    if is_bundle(path):
        bundle = open_bundle(path)
        return _members_of_bundle(bundle, fold, checkpoint, given, postprocess)
    run = RunFolder.open(path)
    run.require_segmentation()
    recipe, plan = run.recipe(), run.plan()
    afterwards = run.chosen(recipe.postprocess if postprocess is None else postprocess)
    trained = {folder.index: folder.weights(checkpoint) for folder in run.trained_folds()}
    inference = _inference_choice(recipe, given)
    return [
        _Member(weights, plan, inference, afterwards) for weights in _chosen_folds(trained, fold, run.path)
    ]


def _members_of_bundle(
    bundle: BundleFolder,
    fold: int | Literal["all"] | None,
    checkpoint: str,
    given: dict[str, Any],
    postprocess: PostprocessChoice | None,
) -> list[_Member]:
    """Those of a bundle that was a run."""
    if checkpoint != _CHECKPOINTS[0]:
        raise ConfigError(
            "a bundle holds one checkpoint of each fold", where="--checkpoint", fix="leave it out"
        )
    recipe, plan = bundle.recipe(), bundle.plan()
    require_true_metadata(bundle, plan)
    afterwards = bundle.chosen(postprocess)
    inference = _inference_choice(recipe, given)
    chosen = _chosen_folds(bundle.fold_weights(), fold, bundle.name)
    return [_Member(weights, plan, inference, afterwards) for weights in chosen]


def _inference_choice(recipe: Recipe, given: dict[str, Any]) -> InferenceChoice:
    """The recipe's, with what is chosen now."""
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return InferenceChoice.model_validate({**recipe.inference.model_dump(), **chosen})
    except ValidationError as error:
        (name, *_), value = error.errors()[0]["loc"], error.errors()[0]["input"]
        raise ConfigError(
            f"'{value}' cannot be chosen", where=f"--{name}", fix=_CHOICES[str(name)]
        ) from error


def _chosen_folds(
    trained: Mapping[int, Path], fold: int | Literal["all"] | None, where: str | Path
) -> tuple[Path, ...]:
    """The weights of one fold, or of all."""
    if fold is None or fold == "all":
        return tuple(trained.values())
    if fold not in trained:
        there = ", ".join(map(str, trained))
        raise ConfigError(f"fold {fold} is not trained", where=where, fix=f"choose of {there}, or all")
    return (trained[fold],)


def _load_network(member: _Member, running: _Running) -> NetworkSegmenter:
    plan = member.plan
    require_classes(member.postprocess, plan.labels)
    try:
        network = build_network(plan.network.name, **plan.network.options)
    except ConfigError as error:
        raise BundleError(
            f"the plan's network cannot be built: {error.what}", where=error.where, fix=RETRAIN
        ) from error
    load_all_weights(network, read_weights(member.weights), member.weights)
    return NetworkSegmenter(
        network,
        labels=plan.labels,
        channel_names=plan.channel_names,
        preprocessing=plan.preprocessing,
        patch_size=plan.patch_size,
        inference=member.inference,
        postprocess=member.postprocess,
        compute=running.compute,
        max_ram_bytes=running.max_ram_bytes,
        max_vram_bytes=running.max_vram_bytes,
        shared_by=running.members,
        name=str(member.weights),
    )
