"""The folder of a model that nnU-Net v2 trained: its documents, read as data.

::

    nnUNetTrainer__nnUNetPlans__3d_fullres/
      plans.json  dataset.json
      fold_0/  checkpoint_final.pth  checkpoint_best.pth
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from medseg.errors import BundleError, ConfigError, InputError, MedsegError
from medseg.labels import LabelScheme
from medseg.runs.documents import load_json, parse

__all__ = [
    "Architecture",
    "IntensityProperties",
    "NnunetConfiguration",
    "NnunetDataset",
    "NnunetFolder",
    "NnunetPlans",
    "ResamplingOptions",
]

Document = TypeVar("Document", bound=BaseModel)

_FOLD = re.compile(r"fold_(\d+|all)")
_CHECKPOINTS = {"last": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
_FIX = "copy the folder again from where nnU-Net trained it"
_MOST_PARENTS = 16
_RESAMPLING = "resample_data_or_seg_to_shape"


class _Part(BaseModel):
    """What medseg needs of a document of nnU-Net's; the rest is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Architecture(_Part):
    """Which network.

    Attributes:
        network_class_name: nnU-Net's, with its package.
        arch_kwargs: Its arguments; classes among them by name.
    """

    network_class_name: str
    arch_kwargs: dict[str, Any]


class IntensityProperties(_Part):
    """Intensities of the training's foreground, in stored units."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class ResamplingOptions(_Part):
    """How values between voxels are found.

    Attributes:
        order: Of the splines.
        order_z: Across slices, where these are thick; 0 takes the nearest.
        force_separate_z: Whether slices are taken to be thick; ``None`` looks at the spacings.
    """

    order: Literal[0, 1, 2, 3, 4, 5] = 3
    order_z: Literal[0, 1, 2, 3, 4, 5] = 0
    force_separate_z: bool | None = None


class NnunetConfiguration(_Part):
    """One configuration of a plan, such as ``3d_fullres``.

    Axes are nnU-Net's: of the stored array, slowest first, after ``transpose_forward``.

    Attributes:
        preprocessor_name: What prepares images.
        patch_size: Of the windows, along two or three axes.
        spacing: In millimetres.
        normalization_schemes: One a channel.
        use_mask_for_norm: One a channel.
        resampling_fn_data: What resamples images.
        resampling_fn_data_kwargs: Its options.
        resampling_fn_probabilities: What resamples scores.
        resampling_fn_probabilities_kwargs: Its options.
        architecture: The network.
        previous_stage: Of a cascade, the configuration before this one.
    """

    preprocessor_name: str = "DefaultPreprocessor"
    patch_size: tuple[PositiveInt, ...] = Field(min_length=2, max_length=3)
    spacing: tuple[PositiveFloat, ...] = Field(min_length=2, max_length=3)
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str = _RESAMPLING
    resampling_fn_data_kwargs: ResamplingOptions = ResamplingOptions()
    resampling_fn_probabilities: str = _RESAMPLING
    resampling_fn_probabilities_kwargs: ResamplingOptions = ResamplingOptions(order=1)
    architecture: Architecture
    previous_stage: str | None = None


class NnunetPlans(_Part):
    """``plans.json``.

    Attributes:
        image_reader_writer: What reads images, which decides on the order of their axes.
        transpose_forward: Order of the axes that the network sees.
        foreground_intensity_properties_per_channel: By channel's number.
        configurations: By name; one may inherit from another.
    """

    image_reader_writer: str = "SimpleITKIO"
    transpose_forward: tuple[int, int, int] = (0, 1, 2)
    foreground_intensity_properties_per_channel: dict[str, IntensityProperties]
    configurations: dict[str, dict[str, Any]]

    def configuration(self, name: str) -> NnunetConfiguration:
        """One configuration, with what it inherits.

        Raises:
            ConfigError: There is none of this name, or a key is missing or wrong.
        """
        merged: dict[str, Any] = {}
        parent: str | None = name
        for _ in range(_MOST_PARENTS):
            if parent is None:
                break
            if parent not in self.configurations:
                there = ", ".join(self.configurations)
                raise ConfigError(f"has no configuration '{parent}'", fix=f"there is {there}")
            merged = {**self.configurations[parent], **merged}
            parent = merged.pop("inherits_from", None)
        else:
            raise ConfigError(f"configuration '{name}' inherits from itself", fix=_FIX)
        if "architecture" not in merged:
            merged["architecture"] = _older_architecture(merged)
        return parse(NnunetConfiguration, merged, f"configuration {name}")


class NnunetDataset(_Part):
    """``dataset.json``.

    Attributes:
        channel_names: By number.
        labels: Value by name, or several values of a region.
    """

    channel_names: dict[str, str]
    labels: dict[str, Any]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return tuple(self.channel_names[key] for key in sorted(self.channel_names, key=int))

    def scheme(self) -> LabelScheme:
        """The classes.

        Raises:
            ConfigError: They are regions, or not numbered without gaps, as nnU-Net needs them.
        """
        regions = [name for name, value in self.labels.items() if isinstance(value, list) and len(value) > 1]
        if regions:
            raise ConfigError(
                f"'{regions[0]}' is a region of several labels, which medseg does not reproduce",
                fix="predict by nnU-Net itself",
            )
        flat = {
            name: value[0] if isinstance(value, list) and value else value
            for name, value in self.labels.items()
        }
        scheme = LabelScheme.from_dataset_json(flat)
        if scheme.values != tuple(range(len(scheme))):
            raise ConfigError(f"label values {list(scheme.values)} have gaps", fix=_FIX)
        return scheme


@dataclass(frozen=True)
class NnunetFolder:
    """A trained model on disk. Nothing is read before it is asked for."""

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> NnunetFolder:
        """An existing model.

        Raises:
            InputError: There is none in this folder.
        """
        folder = Path(path)
        if not cls.is_one(folder):
            raise InputError(
                "holds no model of nnU-Net (plans.json, dataset.json)",
                where=folder,
                fix="give the folder with plans.json, such as nnUNetTrainer__nnUNetPlans__3d_fullres",
            )
        return cls(folder)

    @staticmethod
    def is_one(path: str | os.PathLike[str]) -> bool:
        """Whether a folder looks like one."""
        return all((Path(path) / name).is_file() for name in ("plans.json", "dataset.json"))

    def plans(self) -> NnunetPlans:
        """What was planned.

        Raises:
            BundleError: It is damaged.
        """
        return self._read(NnunetPlans, "plans.json")

    def dataset(self) -> NnunetDataset:
        """What it was trained on.

        Raises:
            BundleError: It is damaged.
        """
        return self._read(NnunetDataset, "dataset.json")

    def checkpoints(self, which: str = "last") -> dict[str, Path]:
        """The checkpoint of each fold that is trained, in order; ``"all"`` is the one that saw all cases.

        Args:
            which: ``"last"`` or ``"best"``.

        Raises:
            BundleError: There is none.
        """
        found = (match for entry in self.path.iterdir() if (match := _FOLD.fullmatch(entry.name)))
        order = sorted((match[1] for match in found), key=lambda fold: (fold == "all", fold.zfill(4)))
        files = {fold: self.path / f"fold_{fold}" / _CHECKPOINTS[which] for fold in order}
        trained = {fold: file for fold, file in files.items() if file.is_file()}
        if not trained:
            raise BundleError(f"has no fold with a {_CHECKPOINTS[which]}", where=self.path, fix=_FIX)
        return trained

    def _read(self, kind: type[Document], name: str) -> Document:
        try:
            return load_json(kind, self.path / name)
        except MedsegError as error:
            raise BundleError(
                f"{name} is damaged: {error.what}", where=self.path / name, fix=error.fix or _FIX
            ) from error


def _older_architecture(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The network of plans that were made before 2.4, which told of it in other words."""
    try:
        counts = configuration["n_conv_per_stage_encoder"]
        base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
        kind = configuration["UNet_class_name"]
        dims = len(configuration["patch_size"])
        return {
            "network_class_name": kind,
            "arch_kwargs": {
                "n_stages": len(counts),
                "features_per_stage": [min(base * 2**stage, most) for stage in range(len(counts))],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": configuration["conv_kernel_sizes"],
                "strides": configuration["pool_op_kernel_sizes"],
                "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage": counts,
                "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
        }
    except (KeyError, TypeError) as error:
        raise ConfigError(f"says nothing of the network ({error})", fix=_FIX) from error
