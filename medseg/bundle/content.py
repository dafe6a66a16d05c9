"""What goes into a bundle, of a run or an earlier bundle: read, checked and freed of this machine's paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medseg.errors import BundleError, ConfigError, InputError, MedsegError, did_you_mean
from medseg.files import read_json
from medseg.networks import build_network
from medseg.postprocessing import require_classes
from medseg.runs import FoldFolder, Plan, Recipe, RunFolder
from medseg.runs.bundle import BundleFolder, is_bundle
from medseg.runs.nnunet import NnunetFolder
from medseg.runs.recipe import PostprocessChoice
from medseg.segmenters import read_weights
from medseg.segmenters.bundles.metadata import network_format, require_true_metadata
from medseg.segmenters.bundles.opening import open_bundle

__all__ = ["BundleContent", "channels_of", "read_content"]

_CHECKPOINTS = ("last", "best")
_CARRIED = (
    *("smallest_volume_ml", "largest_component", "fill_holes", "connectivity"),
    *("instances", "chosen_by"),  # objects are left out, as the model card says
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Item = TypeVar("Item")


@dataclass(frozen=True)
class BundleContent:
    """A run as its bundle holds it.

    Attributes:
        name: Of the bundle, a folder's name.
        source: The run, or the bundle that another is made of.
        earlier: That bundle; ``None`` of a run.
        folds: Those that take part, one or several.
        stored: Where the weights of each lie.
        checkpoint: ``"last"`` or ``"best"``.
        recipe: As chosen, without the paths of what the training started from.
        plan: As decided.
        postprocess: What is done to label maps; none of it is left to be chosen.
        finished: What the training wrote when each fold ended; empty where it did not, and of a bundle.
        steps: Of each fold's training, where it ended.
        seed: Of the training, where it is known.
    """

    name: str
    source: Path
    earlier: BundleFolder | None
    folds: tuple[int, ...]
    stored: tuple[Path, ...]
    checkpoint: str
    recipe: Recipe
    plan: Plan
    postprocess: PostprocessChoice
    finished: tuple[dict[str, Any], ...]
    steps: tuple[int, ...]
    seed: int | None

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.plan.labels)

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return len(self.plan.channel_names)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Where each fold's weights lie in the bundle, the first one's where MONAI looks for them."""
        others = (f"models/fold_{fold}.pt" for fold in self.folds[1:])
        return ("models/model.pt", *others)

    @property
    def cleans(self) -> bool:
        """Whether label maps are changed before they are written; objects told apart change none."""
        return not self.postprocess.model_copy(update={"instances": None}).does_nothing

    def weights(self) -> tuple[dict[str, Tensor], ...]:
        """Each fold's weights.

        Raises:
            BundleError: They are damaged.
        """
        return tuple(read_weights(path) for path in self.stored)

    def network(self, fold: int = 0) -> nn.Module:
        """The network with the weights of the ``fold``-th of the folds, in evaluation mode, on the CPU.

        Raises:
            BundleError: The weights do not fit.
        """
        network = build_network(self.plan.network.name, **self.plan.network.options)
        path = self.stored[fold]
        try:
            network.load_state_dict(read_weights(path))
        except RuntimeError as error:
            raise BundleError("the weights do not fit the plan", where=path, fix="train it anew") from error
        return network.eval()


def read_content(
    path: str | os.PathLike[str],
    name: str,
    *,
    folds: Sequence[int] | None = None,
    checkpoint: str = "last",
) -> BundleContent:
    """Read a run, or a bundle that was made of one, and refuse what no bundle can be made of.

    Args:
        path: The folder of a run or bundle, or a bundle's ``.zip``.
        name: Of the bundle to be made.
        folds: Which folds; all that are trained if left out.
        checkpoint: Weights of the ``"last"`` step, or the ``"best"`` validated; a bundle holds one of them.

    Raises:
        InputError: There is no run, it is a pretraining's, or the bundle was not made of a run.
        ConfigError: A name or choice does not fit, or the network cannot be run in sliding windows.
        BundleError: The run or bundle is damaged, or has no weights yet.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' is no name for a bundle", where="--out", fix="use letters, digits, '_', '-' and '.'"
        )
    if checkpoint not in _CHECKPOINTS:
        raise ConfigError(
            f"unknown checkpoint '{checkpoint}'",
            where="--checkpoint",
            fix=did_you_mean(checkpoint, _CHECKPOINTS),
        )
    if is_bundle(path):
        content = _of_bundle(_made_here(path), name, folds, checkpoint)
    else:
        content = _of_run(_trained(path), name, folds, checkpoint)
    require_classes(content.postprocess, content.plan.labels)
    _require_carried(content.postprocess)
    content.weights()  # that they can be read, before anything is written
    _require_windows(content)
    return content


def channels_of(path: str | os.PathLike[str]) -> int:
    """Number of channels of the images of a run, or of a bundle, of whoever made it; errors as there."""
    if not is_bundle(path):
        return _trained(path).plan().preprocessing.channels
    bundle = open_bundle(path)
    return network_format(bundle.metadata() or {}, bundle.name).channels


def _trained(path: str | os.PathLike[str]) -> RunFolder:
    if NnunetFolder.is_one(path):
        raise InputError(
            "is a model of nnU-Net's, whose preprocessing is not MONAI's", where=path, fix="export a run"
        )
    run = RunFolder.open(path)
    if run.is_method:
        raise InputError(
            "was not learnt by a network, which a bundle is made of", where=path, fix="use it through medseg"
        )
    run.require_segmentation()
    return run


def _made_here(path: str | os.PathLike[str]) -> BundleFolder:
    bundle = open_bundle(path)
    if not bundle.is_run:
        raise InputError(
            "was not exported by medseg, so that there is no run in it", where=path, fix="give a run"
        )
    return bundle


def _of_run(run: RunFolder, name: str, folds: Sequence[int] | None, checkpoint: str) -> BundleContent:
    recipe = run.recipe()
    chosen: dict[int, FoldFolder] = _chosen(
        {fold.index: fold for fold in run.trained_folds()}, folds, run.path
    )
    finished = tuple(_read(fold.finished_mark) for fold in chosen.values())
    seed = _read(run.manifest_path).get("seed")
    return BundleContent(
        name=name,
        source=run.path,
        earlier=None,
        folds=tuple(chosen),
        stored=tuple(fold.weights(checkpoint) for fold in chosen.values()),
        checkpoint=checkpoint,
        recipe=recipe.model_copy(update={"init_from": None, "init_encoder": None}),
        plan=run.plan(),
        postprocess=run.chosen(recipe.postprocess),
        finished=finished,
        steps=tuple(found["steps"] for found in finished if isinstance(found.get("steps"), int)),
        seed=seed if isinstance(seed, int) else None,
    )


def _of_bundle(
    bundle: BundleFolder, name: str, folds: Sequence[int] | None, checkpoint: str
) -> BundleContent:
    if checkpoint != _CHECKPOINTS[0]:
        raise ConfigError(
            "a bundle holds one checkpoint of each fold", where="--checkpoint", fix="leave it out"
        )
    run = bundle.run()
    require_true_metadata(bundle, run.plan)
    chosen = _chosen(bundle.fold_weights(), folds, bundle.name)
    return BundleContent(
        name=name,
        source=bundle.path,
        earlier=bundle,
        folds=tuple(chosen),
        stored=tuple(chosen.values()),
        checkpoint=run.checkpoint,
        recipe=run.recipe,
        plan=run.plan,
        postprocess=bundle.chosen(None),
        finished=(),
        steps=run.steps if folds is None else (),
        seed=run.seed,
    )


def _require_carried(choice: PostprocessChoice) -> None:
    """Refuse what is done to scores or label maps, and what no script of a bundle does."""
    nothing = PostprocessChoice()
    for key in type(choice).model_fields:
        if key not in _CARRIED and getattr(choice, key) != getattr(nothing, key):
            raise ConfigError(
                f"'{key}' has no counterpart in a bundle",
                where="postprocess",
                fix="export a run whose recipe leaves it out",
            )


def _chosen(trained: Mapping[int, Item], wanted: Sequence[int] | None, where: str | Path) -> dict[int, Item]:
    if wanted is None:
        return dict(trained)
    for index in wanted:
        if index not in trained:
            known = ", ".join(map(str, trained))
            raise ConfigError(f"fold {index} is not trained", where=where, fix=f"choose of {known}, or all")
    return {index: trained[index] for index in sorted(set(wanted))}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path) if path.is_file() else {}
    except MedsegError:
        found = {}
    return found if isinstance(found, dict) else {}


def _require_windows(content: BundleContent) -> None:
    """MONAI's sliding window gives a patch's scores for a patch: shapes alone are computed here."""
    plan = content.plan
    with torch.device("meta"):
        network = build_network(plan.network.name, **plan.network.options).eval()
        try:
            scores = network(torch.empty(1, content.channels, *plan.patch_size))
        except ValueError as error:
            raise ConfigError(str(error), where=f"network '{plan.network.name}'") from error
    if tuple(scores.shape[2:]) != plan.patch_size:
        raise ConfigError(
            f"gives scores of {tuple(scores.shape[2:])} voxels for a patch of {plan.patch_size}: MONAI's "
            "sliding window cannot put these together",
            where=f"network '{plan.network.name}'",
            fix="export a network with padding: same",
        )
