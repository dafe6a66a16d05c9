"""Starting from another run or a bundle of one: what is taken over of its plan, and its encoder's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medseg.data import Dataset
from medseg.errors import BundleError, ConfigError
from medseg.networks import build_network
from medseg.runs import NetworkPlan, Plan, Recipe, RunFolder
from medseg.runs.bundle import BundleFolder, is_bundle
from medseg.segmenters import read_weights
from medseg.segmenters.bundles.opening import open_bundle
from medseg.training.architecture import DEFAULT_FEATURES, Topology

__all__ = ["EncoderSource", "load_encoder", "require_fitting_encoder"]

_PREFIX = "encoder."
_ADVICE = {"encoder": "pretrain", "network": "start from a run that trained"}


@dataclass(frozen=True)
class EncoderSource:
    """The run that a recipe's ``init_encoder`` or ``init_from`` names: a pretraining, or a segmentation.

    Attributes:
        run: Its folder, or a bundle that was made from it.
        recipe: Its recipe.
        plan: Its plan.
        part: What is taken of it: its encoder, or all of its network that fits.
    """

    run: RunFolder | BundleFolder
    recipe: Recipe
    plan: Plan
    part: Literal["encoder", "network"] = "encoder"

    @classmethod
    def of(cls, recipe: Recipe) -> EncoderSource | None:
        """The run that a recipe starts from; ``None`` if it is none: a foreign bundle, a file, or nothing.

        Raises:
            InputError: There is no run in the folder.
            BundleError: The run is damaged, or the archive of a bundle unsafe.
            ConfigError: It trains another network, or one of other base features; or there are two of them.
        """
        if recipe.init_encoder is not None and recipe.init_from is not None:
            raise ConfigError(
                "init_encoder and init_from exclude each other", where="recipe", fix="choose one of them"
            )
        name = recipe.init_from if recipe.init_encoder is None else recipe.init_encoder
        if name is None:
            return None
        run: RunFolder | BundleFolder
        if is_bundle(name):
            run = open_bundle(name)
            if not run.is_run and recipe.init_encoder is None:
                return None
        elif recipe.init_encoder is None and not (Path(name) / "plan.json").is_file():
            return None
        else:
            run = RunFolder.open(name)
        source = cls(run, run.recipe(), run.plan(), "encoder" if recipe.init_encoder else "network")
        source._require_the_same_network(recipe)
        return source

    @property
    def reason(self) -> str:
        """Why a plan says what this run's plan says."""
        whose = "whose encoder" if self.part == "encoder" else "which"
        return f"as in {self.run.name}, {whose} it starts from"

    @property
    def topology(self) -> Topology | None:
        """The levels of its network, where it has any that a plan decides."""
        options = self.plan.network.options
        if not {"kernel_sizes", "strides"} <= options.keys():
            return None
        kernels, strides = (tuple(tuple(e) for e in options[name]) for name in ("kernel_sizes", "strides"))
        return Topology(kernels, strides)

    def network(self, dataset: Dataset, recipe: Recipe) -> NetworkPlan:
        """The same network for another data set; the recipe's options go before what is taken over.

        Raises:
            ConfigError: The data set has another number of channels.
        """
        channels = len(dataset.channel_names)
        if channels != len(self.plan.channel_names):
            raise ConfigError(
                f"its {self.part} sees {len(self.plan.channel_names)} channels, the data set has {channels}",
                where=self.run.name,
                fix=f"{_ADVICE[self.part]} on images of the same channels",
            )
        own = {"in_channels": channels, "out_channels": len(dataset.labels)}
        options = self.plan.network.options | own | recipe.network.options
        return NetworkPlan(name=recipe.network.name, options=options)

    def weights(self, fold: int) -> Path:
        """The last weights of the fold of the same number, or of the only fold that is trained.

        Raises:
            BundleError: No fold is trained.
            ConfigError: Several are, but not this one.
        """
        trained = self.run.fold_weights()
        if fold not in trained and len(trained) > 1:
            raise ConfigError(
                f"has no fold {fold} to take {self._article} from",
                where=self.run.name,
                fix=f"train that fold there, or one of {', '.join(map(str, trained))} here",
            )
        return trained[fold if fold in trained else min(trained)]

    @property
    def _article(self) -> str:
        return "an encoder" if self.part == "encoder" else "the weights"

    def _require_the_same_network(self, recipe: Recipe) -> None:
        theirs, ours = self.recipe.network, recipe.network
        if theirs.name != ours.name:
            raise ConfigError(
                f"holds {self._article} of network '{theirs.name}', the recipe trains '{ours.name}'",
                where=self.run.name,
                fix=f"choose network.name: {theirs.name}, or {_ADVICE[self.part]} '{ours.name}'",
            )
        width, wanted = theirs.base_features or DEFAULT_FEATURES, ours.base_features
        if wanted not in {None, width}:
            raise ConfigError(
                f"holds {self._article} of {width} base features, the recipe asks for {wanted}",
                where=self.run.name,
                fix=f"set network.base_features to {width}, or {_ADVICE[self.part]} with {wanted}",
            )


def require_fitting_encoder(plan: Plan, weights: Path) -> None:
    """Prove that a file holds the weights of the planned network's encoder, all of them and no other.

    Raises:
        ConfigError: It does not; the error names the first weight that differs.
        BundleError: The file is damaged, or a weight is NaN or infinite.
    """
    with torch.device("meta"):
        network = build_network(plan.network.name, **plan.network.options)
    _fitting_weights(network, weights)


def load_encoder(network: nn.Module, weights: Path) -> None:
    """Give a network the encoder of another run; errors as ``require_fitting_encoder``'s."""
    _encoder_of(network).load_state_dict(_fitting_weights(network, weights))


def _encoder_of(network: nn.Module) -> nn.Module:
    encoder: Any = network.get_submodule(_PREFIX.removesuffix("."))
    return encoder  # type: ignore[no-any-return]


def _fitting_weights(network: nn.Module, path: Path) -> dict[str, Tensor]:
    stored = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in read_weights(path).items()
        if name.startswith(_PREFIX)
    }
    wanted = _encoder_of(network).state_dict()
    problem = None
    for name in dict.fromkeys((*wanted, *stored)):
        if name not in stored:
            problem = f"its encoder lacks '{name}'"
        elif name not in wanted:
            problem = f"its encoder has '{name}', which the network's has not"
        elif stored[name].shape != wanted[name].shape:
            here, there = tuple(wanted[name].shape), tuple(stored[name].shape)
            problem = f"its encoder's '{name}' has shape {there}, the network's {here}"
        if problem is not None:
            raise ConfigError(
                problem,
                where=path,
                fix="leave out of network.options what shapes the encoder, or pretrain with the same options",
            )
    broken = [name for name, tensor in stored.items() if not tensor.isfinite().all()]
    if broken:
        raise BundleError(f"'{broken[0]}' is NaN or infinite", where=path, fix="pretrain anew")
    return stored
