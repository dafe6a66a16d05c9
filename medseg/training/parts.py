"""What is trained, proven to fit before work starts: a plan's network, and a recipe's loss or autoencoder."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.labels import LabelScheme
from medseg.losses import DeepSupervisionLoss
from medseg.networks import build_network
from medseg.postprocessing import require_classes
from medseg.registry import LOSSES
from medseg.runs import Plan, Recipe
from medseg.runs.recipe import PretrainChoice
from medseg.training.border_weights import border_weights_of
from medseg.training.pretraining import build_autoencoder
from medseg.transforms import mirror_axes

__all__ = ["build_loss", "loss_options", "require_fitting_parts"]


def build_loss(recipe: Recipe, plan: Plan) -> nn.Module:
    """The recipe's loss, of class scores that exclude each other and class indices.

    Raises:
        ConfigError: It has no such option, a value does not suit it, or it cannot leave voxels out and the
            data set has unlabelled ones.
    """
    return DeepSupervisionLoss(LOSSES.build(recipe.loss.name, **loss_options(recipe, plan)))


def loss_options(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """What the constructor of the recipe's loss is given.

    Where it measures distances, it does so in the plan's millimetres, unless the recipe gives others. Voxels
    that nobody has labelled do not count.

    Raises:
        ConfigError: It cannot leave voxels out, and the data set has unlabelled ones.
    """
    options: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
    if plan.preprocessing.spacing_mm is not None and "spacing_mm" in LOSSES.options(recipe.loss.name):
        options["spacing_mm"] = plan.preprocessing.spacing_mm
    options |= recipe.loss.options
    if plan.labels.ignore_index is not None:
        _require_ignoring(recipe, plan.labels)
        options["ignore_index"] = plan.labels.ignore_index
    return options


def require_fitting_parts(plan: Plan, recipe: Recipe) -> None:
    """Prove that the network gives a score for each class and voxel of a patch, and the loss one number.

    Where the recipe asks for border weights, the loss must take them. In a pretraining, the autoencoder
    around the network's encoder must give patches back instead. Mirrored patches must be able to keep each
    label on its side. Networks are run on torch's ``meta`` device:
    shapes alone, so it takes no memory and hardly any time.

    Raises:
        ConfigError: They do not; the recipe's options are to blame, since the plan's own fit.
    """
    if recipe.pretrain is None:
        require_classes(recipe.postprocess, plan.labels)
    if recipe.augmentation is not None:
        mirror_axes(recipe.augmentation, plan.preprocessing.axcodes, plan.labels)
    classes, where = len(plan.labels), f"network '{plan.network.name}'"
    fix = "correct network.options in the recipe"
    patch = (plan.batch_size, len(plan.channel_names), *plan.patch_size)
    with torch.device("meta"):
        try:
            scores = build_network(plan.network.name, **plan.network.options)(torch.empty(patch))
        except (RuntimeError, TypeError, ValueError) as error:
            what, _, cure = str(error).partition("; ")
            raise ConfigError(what, where=where, fix=cure or fix) from error
    needed = (plan.batch_size, classes, *plan.patch_size)
    if tuple(scores.shape) != needed:
        raise ConfigError(f"gives scores of shape {tuple(scores.shape)}, not {needed}", where=where, fix=fix)
    if recipe.pretrain is not None:
        _require_fitting_autoencoder(plan, recipe.pretrain)
        return
    where, fix = f"loss '{recipe.loss.name}'", "correct loss.options in the recipe"
    weights = {}
    if border_weights_of(recipe, plan) is not None:
        _require_weight_map(recipe)
        weights = {"weight_map": torch.ones(1, 1, 2, 2, 2)}
    try:
        scores, target = torch.zeros(1, classes, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2).long()
        loss = build_loss(recipe, plan)(scores, target, **weights)
    except (RuntimeError, TypeError, ValueError) as error:
        what, _, cure = str(error).partition("; ")
        raise ConfigError(what, where=where, fix=cure or fix) from error
    if loss.ndim != 0:
        raise ConfigError(f"gives {loss.numel()} numbers, not one", where=where, fix=fix)


def _require_ignoring(recipe: Recipe, labels: LabelScheme) -> None:
    where, left_out = f"loss '{recipe.loss.name}'", f"the data set's unlabelled voxels ({labels.ignore})"
    if "ignore_index" not in LOSSES.options(recipe.loss.name):
        cure = "choose another, such as 'dice_ce'"
        raise ConfigError(f"cannot leave out {left_out}", where=where, fix=cure)
    if "ignore_index" in recipe.loss.options:
        cure = "take ignore_index out of loss.options"
        raise ConfigError(f"is told to ignore something else than {left_out}", where=where, fix=cure)


def _require_weight_map(recipe: Recipe) -> None:
    kind = LOSSES.resolve(recipe.loss.name)
    if "weight_map" not in inspect.signature(getattr(kind, "forward", kind)).parameters:
        raise ConfigError(
            "takes no weight for each voxel, and loss.border_weights gives some",
            where=f"loss '{recipe.loss.name}'",
            fix="choose another, such as 'weighted_cross_entropy', or leave border_weights out",
        )


def _require_fitting_autoencoder(plan: Plan, choice: PretrainChoice) -> None:
    where, fix = f"autoencoder of '{plan.network.name}'", "choose another network or pretrain.method"
    patch = (plan.batch_size, len(plan.channel_names), *plan.patch_size)
    with torch.device("meta"):
        try:
            network = build_network(plan.network.name, **plan.network.options)
            made = build_autoencoder(network, choice)(torch.empty(patch))
        except (RuntimeError, TypeError, ValueError) as error:
            what, _, cure = str(error).partition("; ")
            raise ConfigError(what, where=where, fix=cure or fix) from error
    if tuple(made.images.shape) != patch:
        what = f"gives images of shape {tuple(made.images.shape)}, not {patch}"
        raise ConfigError(what, where=where, fix=fix)
