"""What takes part in a segmentation: networks of a run or bundle, fits of a method, models of others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import ValidationError

from medseg.errors import BundleError, ConfigError
from medseg.inference import Compute
from medseg.networks import build_network
from medseg.postprocessing import require_classes
from medseg.runs import FoldFolder, Plan, RunFolder
from medseg.runs.bundle import BundleFolder, is_bundle
from medseg.runs.nnunet import NnunetFolder
from medseg.runs.postprocess import PostprocessChoice, RefineChoice
from medseg.runs.recipe import InferenceChoice, Recipe
from medseg.segmenters.bundles.metadata import require_true_metadata
from medseg.segmenters.bundles.opening import open_bundle
from medseg.segmenters.bundles.zoo import load_bundle_segmenter
from medseg.segmenters.methods import Running, load_method
from medseg.segmenters.network import NetworkSegmenter
from medseg.segmenters.nnunet.segmenter import load_nnunet
from medseg.segmenters.passage import MODES
from medseg.segmenters.protocol import Segmenter
from medseg.segmenters.weights import RETRAIN, load_all_weights, read_weights

__all__ = ["CHECKPOINTS", "Asked", "Member", "Resources", "members_of"]

Item = TypeVar("Item")

CHECKPOINTS = ("last", "best")
_CHOICES = {
    "mode": "use " + ", ".join(MODES),
    "overlap": "use 0 to 0.9",
    "mirror": "name axes of the network grid in order, as x, xy or xyz",
}


@dataclass(frozen=True)
class Asked:
    """What a person asks for beside the model; see ``load_segmenter``."""

    fold: int | Literal["all"] | None
    checkpoint: str
    precision: str
    given: dict[str, Any]
    postprocess: PostprocessChoice | None
    trust: bool

    @property
    def refine(self) -> RefineChoice | None:
        """What is asked for to be done to scores."""
        return None if self.postprocess is None else self.postprocess.refine

    @property
    def of_label_maps(self) -> PostprocessChoice | None:
        """What is asked for to be done to label maps alone."""
        return None if self.postprocess is None else self.postprocess.of_label_maps


@dataclass(frozen=True)
class Resources:
    """Where members run, and what memory they share.

    Attributes:
        compute: Device and precision.
        max_ram_bytes: Limit of the whole process; what is free, if ``None``.
        max_vram_bytes: Limit of what is taken of a GPU; what is free, if ``None``.
        members: How many share them.
        jobs: Processes that a method other than a network may use.
    """

    compute: Compute
    max_ram_bytes: int | None
    max_vram_bytes: int | None
    members: int
    jobs: int


class Member(Protocol):
    """One that takes part; nothing large is read before it is loaded."""

    @property
    def refine(self) -> RefineChoice | None:
        """What is done to scores, once those of all members are averaged."""
        ...

    def load(self, resources: Resources) -> Segmenter:
        """Make the segmenter."""
        ...


@dataclass(frozen=True)
class _Network:
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

    @property
    def refine(self) -> RefineChoice | None:
        """See ``Member``."""
        return self.postprocess.refine

    def load(self, resources: Resources) -> Segmenter:
        """See ``Member``."""
        plan = self.plan
        require_classes(self.postprocess, plan.labels)
        try:
            network = build_network(plan.network.name, **plan.network.options)
        except ConfigError as error:
            raise BundleError(
                f"the plan's network cannot be built: {error.what}", where=error.where, fix=RETRAIN
            ) from error
        load_all_weights(network, read_weights(self.weights), self.weights)
        return NetworkSegmenter(
            network,
            labels=plan.labels,
            channel_names=plan.channel_names,
            preprocessing=plan.preprocessing,
            patch_size=plan.patch_size,
            inference=self.inference,
            postprocess=self.postprocess.of_label_maps,
            compute=resources.compute,
            max_ram_bytes=resources.max_ram_bytes,
            max_vram_bytes=resources.max_vram_bytes,
            shared_by=resources.members,
            name=str(self.weights),
        )


@dataclass(frozen=True)
class _Fitted:
    """One fold of another method's run that takes part.

    Attributes:
        run: The run.
        fold: The fold.
        postprocess: What is done to scores and label maps.
    """

    run: RunFolder
    fold: FoldFolder
    postprocess: PostprocessChoice

    @property
    def refine(self) -> RefineChoice | None:
        """See ``Member``."""
        return self.postprocess.refine

    def load(self, resources: Resources) -> Segmenter:
        """See ``Member``."""
        shared = Running(resources.jobs, resources.max_ram_bytes, resources.members)
        return load_method(self.run, self.fold, shared, self.postprocess.of_label_maps)


@dataclass(frozen=True)
class _Foreign:
    """A bundle that was not made here, as it is configured."""

    bundle: BundleFolder
    asked: Asked

    @property
    def refine(self) -> RefineChoice | None:
        """See ``Member``."""
        return self.asked.refine

    def load(self, resources: Resources) -> Segmenter:
        """See ``Member``."""
        return load_bundle_segmenter(
            self.bundle,
            resources.compute,
            trust=self.asked.trust,
            postprocess=self.asked.of_label_maps,
            max_ram_bytes=resources.max_ram_bytes,
            shared_by=resources.members,
        )


@dataclass(frozen=True)
class _Nnunet:
    """A model of nnU-Net's: its folds are one member, for nnU-Net averages their logits."""

    model: NnunetFolder
    asked: Asked

    @property
    def refine(self) -> RefineChoice | None:
        """See ``Member``."""
        return self.asked.refine

    def load(self, resources: Resources) -> Segmenter:
        """See ``Member``."""
        files = self.model.checkpoints(self.asked.checkpoint)
        single = {fold: file for fold, file in files.items() if fold != "all"} or files
        named = {int(fold) if fold.isdigit() else -1: file for fold, file in single.items()}
        return load_nnunet(
            self.model,
            _chosen(named, self.asked.fold, self.model.path),
            resources.compute,
            postprocess=self.asked.of_label_maps,
            max_ram_bytes=resources.max_ram_bytes,
            shared_by=resources.members,
        )


def members_of(path: str | os.PathLike[str], asked: Asked) -> Sequence[Member]:
    """The members that a run, bundle or model of nnU-Net's has; errors as ``load_segmenter``'s."""
    if is_bundle(path):
        return _of_bundle(open_bundle(path), asked)
    if NnunetFolder.is_one(path):
        _refuse_choices(asked.given | _precision(asked), path, "is gone through as nnU-Net does")
        return [_Nnunet(NnunetFolder.open(path), asked)]
    run = RunFolder.open(path)
    run.require_segmentation()
    if run.is_method:
        _refuse_choices(asked.given, run.path, "holds none")
        folders = {folder.index: folder for folder in run.trained_folds()}
        chosen = run.method_recipe().postprocess if asked.postprocess is None else asked.postprocess
        return [_Fitted(run, folder, chosen) for folder in _chosen(folders, asked.fold, run.path)]
    recipe, plan = run.recipe(), run.plan()
    inference = _inference_choice(recipe, asked.given)
    afterwards = run.chosen(recipe.postprocess if asked.postprocess is None else asked.postprocess)
    trained = {folder.index: folder.weights(asked.checkpoint) for folder in run.trained_folds()}
    weights_of_folds = _chosen(trained, asked.fold, run.path)
    return [_Network(weights, plan, inference, afterwards) for weights in weights_of_folds]


def _of_bundle(bundle: BundleFolder, asked: Asked) -> Sequence[Member]:
    if asked.checkpoint != CHECKPOINTS[0]:
        raise ConfigError(
            "a bundle holds one checkpoint of each fold", where="--checkpoint", fix="leave it out"
        )
    if not bundle.is_run:
        _refuse_choices(asked.given | _precision(asked), bundle.name, "is gone through as it is configured")
        _chosen({0: bundle}, asked.fold, bundle.name)
        return [_Foreign(bundle, asked)]
    recipe, plan = bundle.recipe(), bundle.plan()
    require_true_metadata(bundle, plan)
    inference, afterwards = _inference_choice(recipe, asked.given), bundle.chosen(asked.postprocess)
    chosen = _chosen(bundle.fold_weights(), asked.fold, bundle.name)
    return [_Network(weights, plan, inference, afterwards) for weights in chosen]


def _precision(asked: Asked) -> dict[str, Any]:
    """The precision, where it is one that others' models are not computed in."""
    return {"precision": None if asked.precision in ("float32", "auto") else asked.precision}


def _refuse_choices(given: Mapping[str, Any], where: str | os.PathLike[str], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"'{value}' is a way through a network, and {os.fspath(where)} {why}",
                where=f"--{name}",
                fix="leave it out",
            )


def _inference_choice(recipe: Recipe, given: Mapping[str, Any]) -> InferenceChoice:
    """The recipe's, with what is chosen now."""
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return InferenceChoice.model_validate({**recipe.inference.model_dump(), **chosen})
    except ValidationError as error:
        (name, *_), value = error.errors()[0]["loc"], error.errors()[0]["input"]
        raise ConfigError(
            f"'{value}' cannot be chosen", where=f"--{name}", fix=_CHOICES[str(name)]
        ) from error


def _chosen(
    trained: Mapping[int, Item], fold: int | Literal["all"] | None, where: str | os.PathLike[str]
) -> tuple[Item, ...]:
    """What is there of one fold, or of all."""
    if fold is None or fold == "all":
        return tuple(trained.values())
    if fold not in trained:
        there = ", ".join(map(str, trained))
        raise ConfigError(f"fold {fold} is not trained", where=where, fix=f"choose of {there}, or all")
    return (trained[fold],)
