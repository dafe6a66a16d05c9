"""What of a run goes into its bundle: read, checked and freed of paths of this machine before work starts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import BundleError, ConfigError, InputError, MedsegError, did_you_mean
from medseg.files import read_json
from medseg.networks import build_network
from medseg.postprocessing import require_classes
from medseg.runs import FoldFolder, Plan, Recipe, RunFolder
from medseg.runs.recipe import PostprocessChoice
from medseg.segmenters import read_weights

__all__ = ["BundleContent", "read_content"]

_CHECKPOINTS = ("last", "best")
_CARRIED = (
    *("smallest_volume_ml", "largest_component", "fill_holes", "connectivity"),
    *("instances", "chosen_by"),  # objects are left out, as the model card says
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class BundleContent:
    """A run as its bundle holds it.

    Attributes:
        name: Of the bundle, a folder's name.
        run: Where the training left it.
        folds: Those that take part, one or several.
        checkpoint: ``"last"`` or ``"best"``.
        recipe: As chosen, without the paths of what the training started from.
        plan: As decided.
        postprocess: What is done to label maps; none of it is left to be chosen.
        finished: What the training wrote when each fold ended; empty where it did not.
        manifest: Seed, budget and versions of the training.
    """

    name: str
    run: RunFolder
    folds: tuple[FoldFolder, ...]
    checkpoint: str
    recipe: Recipe
    plan: Plan
    postprocess: PostprocessChoice
    finished: tuple[dict[str, Any], ...]
    manifest: dict[str, Any]

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
        others = (f"models/fold_{fold.index}.pt" for fold in self.folds[1:])
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
        return tuple(read_weights(fold.weights(self.checkpoint)) for fold in self.folds)

    def network(self, fold: int = 0) -> nn.Module:
        """The network with the weights of the ``fold``-th of the folds, in evaluation mode, on the CPU.

        Raises:
            BundleError: The weights do not fit.
        """
        network = build_network(self.plan.network.name, **self.plan.network.options)
        path = self.folds[fold].weights(self.checkpoint)
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
    """Read a run, and refuse what no bundle can be made of.

    Args:
        path: The run's folder.
        name: Of the bundle.
        folds: Which folds; all that are trained if left out.
        checkpoint: Weights of the ``"last"`` step, or the ``"best"`` validated.

    Raises:
        InputError: There is no run in this folder, or it is a pretraining's.
        ConfigError: A name or choice does not fit, or the network cannot be run in sliding windows.
        BundleError: The run is damaged, or has no weights yet.
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
    run = RunFolder.open(path)
    if run.is_method:
        raise InputError(
            "was not learnt by a network, which a bundle is made of", where=path, fix="use it through medseg"
        )
    run.require_segmentation()
    recipe, plan = run.recipe(), run.plan()
    postprocess = run.chosen(recipe.postprocess)
    require_classes(postprocess, plan.labels)
    _require_carried(postprocess)
    chosen = _chosen(run, folds)
    content = BundleContent(
        name=name,
        run=run,
        folds=chosen,
        checkpoint=checkpoint,
        recipe=recipe.model_copy(update={"init_from": None, "init_encoder": None}),
        plan=plan,
        postprocess=postprocess,
        finished=tuple(_read(fold.finished_mark) for fold in chosen),
        manifest=_read(run.manifest_path),
    )
    for fold in chosen:
        read_weights(fold.weights(checkpoint))  # that they can be read, before anything is written
    _require_windows(content)
    return content


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


def _chosen(run: RunFolder, wanted: Sequence[int] | None) -> tuple[FoldFolder, ...]:
    trained = run.trained_folds()
    if wanted is None:
        return trained
    there = {fold.index: fold for fold in trained}
    for index in wanted:
        if index not in there:
            known = ", ".join(map(str, there))
            raise ConfigError(
                f"fold {index} is not trained", where=run.path, fix=f"choose of {known}, or all"
            )
    return tuple(there[index] for index in sorted(set(wanted)))


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
