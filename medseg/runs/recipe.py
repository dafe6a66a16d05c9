"""A recipe: what a person chooses. Small, typed, and without Python."""

from __future__ import annotations

import importlib.resources
import math
import os
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from medseg.errors import ConfigError, did_you_mean
from medseg.registry import LOSSES, NETWORKS
from medseg.runs.augmentation import Augmentation
from medseg.runs.documents import load_yaml, yaml_keys
from medseg.runs.part import Part
from medseg.runs.postprocess import InstanceChoice, PostprocessChoice

__all__ = [
    "Augmentation",
    "BorderWeightChoice",
    "InferenceChoice",
    "InstanceChoice",
    "LossChoice",
    "NetworkChoice",
    "OptimizerChoice",
    "PostprocessChoice",
    "PretrainChoice",
    "Recipe",
    "TrainingChoice",
    "load_recipe",
    "recipe_names",
    "recipe_path",
]


def _without(options: dict[str, JsonValue], *decided: str) -> dict[str, JsonValue]:
    """Refuse options that are not the recipe's to choose."""
    for name in decided:
        if name in options:
            raise ValueError(f"'{name}' is decided by the data, leave it out")
    return options


class NetworkChoice(Part):
    """Which network; the plan decides what is left out.

    Attributes:
        name: A registered network.
        base_features: Features of the first level; each further level has twice as many, up to 320. If
            ``None``, 16 for a training on processors that ends within eight hours of them, else 32.
        options: What else the network's constructor takes; goes before what the plan would choose.
    """

    name: str = "unet"
    base_features: int | None = Field(default=None, ge=1)
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in NETWORKS:
            raise ValueError(f"unknown network '{value}', {did_you_mean(value, NETWORKS.names())}")
        return value

    @field_validator("options")
    @classmethod
    def _free(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return _without(value, "spatial_dims", "in_channels", "out_channels")


class BorderWeightChoice(Part):
    """Weights of voxels, high where two instances are near, as the U-Net paper has them.

    Attributes:
        w0: Weight of a border that is infinitely thin, on top of the class weight.
        sigma_mm: How fast it falls with the distances to both instances; five times the smallest spacing of
            the network grid if left out.
        instances: ``"components"``: the connected components of each class of the label map. ``"dataset"``:
            those of the instance maps that the data set brings along (``instancesTr``).
        class_weights: ``"none"``: each class weighs 1. ``"balanced"``: in inverse proportion to its voxels in
            the data set, so that the mean weight is 1. Or weights by name; classes not named weigh 1.
    """

    w0: float = Field(default=10.0, ge=0.0)
    sigma_mm: PositiveFloat | None = None
    instances: Literal["components", "dataset"] = "components"
    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights(cls, value: JsonValue) -> JsonValue:
        if isinstance(value, dict):
            for name, weight in value.items():
                number = isinstance(weight, int | float) and not isinstance(weight, bool)
                if not number or not 0.0 <= weight < math.inf:  # type: ignore[operator]
                    raise ValueError(f"the weight of '{name}' is no number from 0")
        elif value not in ("none", "balanced"):
            raise ValueError("neither 'none', nor 'balanced', nor weights by class name")
        return value


class LossChoice(Part):
    """Which loss, with the options that its constructor takes, and weights of voxels for it."""

    name: str = "dice_ce"
    options: dict[str, JsonValue] = Field(default_factory=dict)
    border_weights: BorderWeightChoice | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in LOSSES:
            raise ValueError(f"unknown loss '{value}', {did_you_mean(value, LOSSES.names())}")
        return value

    @field_validator("options")
    @classmethod
    def _free(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return _without(value, "softmax", "sigmoid", "to_onehot_y")


class OptimizerChoice(Part):
    """How weights move.

    Attributes:
        name: ``"adamw"`` or ``"sgd"`` (Nesterov momentum 0.99).
        learning_rate: At its highest; it warms up linearly, then falls as (1 - progress) ** 0.9.
        weight_decay: Decoupled for AdamW, L2 for SGD.
        warmup: Part of the training in which the learning rate rises.
        gradient_clip: Largest norm of the gradient.
        averaging: How much of a moving average of the weights stays at each step, such as 0.999; the average
            is what is validated and kept. 0: the weights themselves.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0.0)
    weight_decay: float = Field(default=1e-2, ge=0.0)
    warmup: float = Field(default=0.02, ge=0.0, lt=1.0)
    gradient_clip: float = Field(default=12.0, gt=0.0)
    averaging: float = Field(default=0.0, ge=0.0, lt=1.0)


class TrainingChoice(Part):
    """How long and on what a network trains.

    Attributes:
        max_steps: Optimiser steps, where neither ``--max-steps`` nor ``--max-minutes`` says otherwise.
        patch_size: Voxels per axis; the plan decides if left out.
        batch_size: Patches per step; the plan decides if left out.
        memory_gb: What a step may take, in single precision, as the plan estimates it (10^9 bytes); the plan
            cuts patches to it. It does not follow the machine, so that a plan is the same on each.
        foreground_fraction: Part of the patches that are centred on a voxel of a random foreground class.
        validate_every: Steps between validations, a multiple of ``checkpoint_every``.
        checkpoint_every: Steps between checkpoints, and the unit that ``--resume`` goes back to.
        precision: ``"auto"`` takes bfloat16 where the device computes in it, else single precision.
        accumulate: Batches whose gradients make up one step: large batches in the memory of small ones.
        checkpoint_activations: Keep few of the network's intermediate results for the gradient, and compute
            the others again: less memory, a third more time.
        compile: Let ``torch.compile`` fuse the network; it takes a C++ compiler, and minutes at the start.
        recalibration_batches: Batches on which batch norms measure their statistics anew in the end; 0 keeps
            what they gathered on the way.
    """

    max_steps: int = Field(default=25_000, ge=1)
    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    batch_size: int | None = Field(default=None, ge=1)
    memory_gb: float = Field(default=11.0, gt=0.0)
    foreground_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    validate_every: int = Field(default=250, ge=1)
    checkpoint_every: int = Field(default=50, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    accumulate: int = Field(default=1, ge=1)
    checkpoint_activations: bool = False
    compile: bool = False
    recalibration_batches: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _in_step(self) -> TrainingChoice:
        if self.validate_every % self.checkpoint_every:
            raise ValueError(
                f"validate_every {self.validate_every} is not a multiple of "
                f"checkpoint_every {self.checkpoint_every}"
            )
        return self


class PretrainChoice(Part):
    """Learn an encoder from images alone, as an autoencoder's.

    Attributes:
        method: ``"denoising"``: mend spoilt images. ``"sparse"``: let few units of the code be active.
            ``"variational"``: keep the code near a normal distribution. ``"stacked"``: level by level, each
            as a small denoising autoencoder, then all levels together.
        noise_std: Standard deviation of the noise that spoils the input, in units of the normalised
            intensities.
        masked_fraction: Part of the input's voxels that are set to zero.
        sparsity_target: Wanted mean activation of each unit of the code; of method sparse.
        sparsity_weight: Of the divergence from it, beside the squared error of a voxel; of method sparse.
        kl_weight: Of the code's divergence from N(0, 1) per voxel of the image, beside the squared error of
            a voxel; of method variational. It is twice the variance that a normal distribution around the
            reconstruction would have.
        joint_fraction: Part of the training in which all levels learn together, after their stages; of
            method stacked.
    """

    method: Literal["denoising", "sparse", "stacked", "variational"] = "denoising"
    noise_std: float = Field(default=0.0, ge=0.0)
    masked_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    sparsity_target: float = Field(default=0.05, gt=0.0, lt=1.0)
    sparsity_weight: float = Field(default=1e-3, ge=0.0)
    kl_weight: float = Field(default=0.02, ge=0.0)
    joint_fraction: float = Field(default=0.5, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _spoils(self) -> PretrainChoice:
        if self.method in {"denoising", "stacked"} and not (self.noise_std or self.masked_fraction):
            raise ValueError(
                f"method {self.method} mends spoilt images: noise_std or masked_fraction must be above 0"
            )
        return self


class InferenceChoice(Part):
    """How a network goes through a whole image.

    Attributes:
        mode: ``"streaming"``: slab by slab, exactly as one pass over all of it. ``"sliding-window"``:
            overlapping windows, blended. ``"overlap-tile"``: for valid convolutions. ``"auto"``: streaming
            where the network's layers are local, else what else fits.
        overlap: Of neighbouring windows, as a part of their size.
        blend: Weight of a window's voxels: ``"gaussian"`` favours its centre.
        mirror: Axes of the network grid, such as ``"xy"``, along which mirror images are segmented too, and
            averaged; left and right labels change places. None if left out.
    """

    mode: Literal["auto", "streaming", "sliding-window", "overlap-tile"] = "auto"
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    blend: Literal["gaussian", "constant"] = "gaussian"
    mirror: str = Field(default="", pattern="^x?y?z?$")


class Recipe(Part):
    """All that a person chooses about a training.

    With ``pretrain`` it needs no labels, and learns an encoder instead of a segmentation: ``loss`` and
    ``training.foreground_fraction`` then have no say. ``init_encoder`` names the folder of a run, as seen
    from the current directory, whose encoder the network starts from; what that network's shape rests on
    (spacing, normalisation, levels, features) is taken over from there. ``init_from`` names a run, a MONAI
    bundle or a file whose weights the network starts from where they match by name and shape; of a run, the
    same is taken over. ``folds``, if left out, is what the data set itself declares, or 5, or with fewer
    cases as many as there are.

    Example:
        >>> load_recipe("unet").network.name
        'unet'
    """

    description: str = ""
    folds: int | None = Field(default=None, ge=2)
    split_seed: int = 0
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    network: NetworkChoice = NetworkChoice()
    loss: LossChoice = LossChoice()
    optimizer: OptimizerChoice = OptimizerChoice()
    augmentation: Augmentation | None = Augmentation()
    training: TrainingChoice = TrainingChoice()
    inference: InferenceChoice = InferenceChoice()
    postprocess: PostprocessChoice = PostprocessChoice()
    pretrain: PretrainChoice | None = None
    init_encoder: str | None = Field(default=None, min_length=1)
    init_from: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_start(self) -> Recipe:
        if self.init_encoder is not None and self.init_from is not None:
            raise ValueError("init_encoder and init_from exclude each other")
        return self


def _recipe_folder() -> Path:
    package = Path(str(importlib.resources.files("medseg")))
    installed = package / "pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with medseg."""
    return tuple(sorted(path.stem for path in _recipe_folder().glob("*.yaml")))


def recipe_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a recipe that comes with medseg, by name, or of another one.

    Raises:
        ConfigError: No such recipe; the nearest name is suggested.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path
    if str(name_or_path) not in recipe_names():
        raise ConfigError(
            f"unknown recipe '{name_or_path}'",
            fix=f"{did_you_mean(str(name_or_path), recipe_names())} (or give a .yaml file)",
        )
    return _recipe_folder() / f"{name_or_path}.yaml"


def load_recipe(name_or_path: str | os.PathLike[str]) -> Recipe:
    """A network's recipe by name, or from a YAML file.

    Raises:
        ConfigError: No such recipe (the nearest name is suggested), a key that does not exist or fit, or the
            recipe of a method that is not a network.
        InputError: The file cannot be read.
    """
    path = recipe_path(name_or_path)
    if "method" in yaml_keys(path):
        raise ConfigError("is a recipe without a network", where=path, fix="give that of a network")
    return load_yaml(Recipe, path)
