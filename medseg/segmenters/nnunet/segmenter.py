"""A model that nnU-Net v2 trained, as a segmenter that gives nnU-Net's labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.errors import BundleError, ConfigError
from medseg.geometry import Grid
from medseg.inference import Compute
from medseg.labels import LabelScheme
from medseg.networks.nnunet import NnunetUNet
from medseg.runs.nnunet import NnunetConfiguration, NnunetFolder, NnunetPlans
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.nnunet.architecture import build_nnunet
from medseg.segmenters.nnunet.preprocessing import NORMALIZATIONS, READERS, prepare
from medseg.segmenters.nnunet.windows import windowed_logits
from medseg.segmenters.weights import load_all_weights, read_checkpoint
from medseg.segmenters.whole_image import WholeImageSegmenter
from medseg.volume import Volume

__all__ = ["NnunetParts", "NnunetSegmenter", "load_nnunet", "nnunet_parts"]

_BY_NNUNET = "predict by nnU-Net itself"
_DAMAGED = "copy the checkpoint again"
_RESAMPLING = "resample_data_or_seg_to_shape"
_OUTSIDE = -14.0
"""Score of a structure where the image was cropped away: about the logarithm of a millionth."""


class NnunetSegmenter(WholeImageSegmenter):
    """Goes through an image as nnU-Net does, step by step, and gives its labels.

    Scores of several folds are averaged before their softmax, as nnU-Net averages them.

    Args:
        network: nnU-Net's, of which each fold has weights.
        weights: Of each fold.
        plans: Of the model.
        configuration: The one that was trained.
        mirrored_axes: Of the window, along which mirror images are averaged.
        labels: The classes.
        channel_names: The channels of an image.
        compute: The device.
        postprocess: As ``WholeImageSegmenter``.
        max_ram_bytes: As ``WholeImageSegmenter``.
        shared_by: As ``WholeImageSegmenter``.
    """

    method = "nnU-Net's way"

    def __init__(
        self,
        network: NnunetUNet,
        weights: Sequence[Mapping[str, Tensor]],
        *,
        plans: NnunetPlans,
        configuration: NnunetConfiguration,
        mirrored_axes: tuple[int, ...],
        labels: LabelScheme,
        channel_names: Sequence[str],
        compute: Compute,
        postprocess: PostprocessChoice | None = None,
        max_ram_bytes: int | None = None,
        shared_by: int = 1,
    ) -> None:
        super().__init__(
            labels, channel_names, postprocess=postprocess, max_ram_bytes=max_ram_bytes, shared_by=shared_by
        )
        self.network = network.to(compute.device).eval()
        self.weights = tuple(weights)
        self.plans = plans
        self.configuration = configuration
        self.mirrored_axes = mirrored_axes
        self.compute = compute

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """See ``WholeImageSegmenter``."""
        prepared = prepare(image, self.plans, self.configuration)
        logits = self._logits(torch.from_numpy(np.ascontiguousarray(prepared.array))).numpy()
        how = self.configuration.resampling_fn_probabilities_kwargs
        outside = [0.0] + [_OUTSIDE] * (len(self.labels) - 1)
        scores = torch.from_numpy(prepared.restored(logits, how, outside))
        return torch.log_softmax(scores, dim=0).numpy()

    def working_bytes(self, grid: Grid) -> Mapping[str, int]:
        """See ``WholeImageSegmenter``; a window's activations are not counted."""
        native = sorted(grid.spacing_mm)[-len(self.configuration.spacing) :]
        finer = math.prod(native) / math.prod(self.configuration.spacing)
        seen = int(grid.voxel_count * finer)
        kept = 2 * seen * (len(self.labels) + 1)
        return {
            "image as the network sees it": seen * (4 * len(self.channel_names) + 8),
            "scores as the network gives them": kept * (2 if self.several else 1),
            "resampling": grid.voxel_count * (2 * len(self.labels) + 4 * len(self.labels) + 16),
        }

    @property
    def several(self) -> bool:
        """Whether several folds are averaged."""
        return len(self.weights) > 1

    @torch.inference_mode()
    def _logits(self, image: Tensor) -> Tensor:
        """(K, Z', Y', X') in half precision, the mean over the folds."""
        total: Tensor | None = None
        for weights in self.weights:
            self.network.load_state_dict(weights)
            found = windowed_logits(
                self.network,
                image,
                self.configuration.patch_size,
                self.mirrored_axes,
                self.compute.device,
                len(self.labels),
            )
            total = found if total is None else total + found
        if total is None:
            raise BundleError("has no weights")
        return total / len(self.weights) if self.several else total


@dataclass(frozen=True)
class _Checkpoint:
    """What is taken of ``checkpoint_final.pth``."""

    weights: dict[str, Tensor]
    configuration: str
    mirrored_axes: tuple[int, ...]


def load_nnunet(
    model: NnunetFolder,
    checkpoints: Sequence[Path],
    compute: Compute,
    *,
    postprocess: PostprocessChoice | None = None,
    max_ram_bytes: int | None = None,
    shared_by: int = 1,
) -> NnunetSegmenter:
    """Make a segmenter of a trained model of nnU-Net v2.

    Args:
        model: Its folder.
        checkpoints: Of the folds that take part.
        compute: The device.
        postprocess: What medseg does to label maps after it; nothing if left out.
        max_ram_bytes: Limit of the whole process; what is free, if left out.
        shared_by: How many segmenters share that memory.

    Raises:
        BundleError: The model is damaged, its checkpoint holds more than data, or it does what medseg does
            not reproduce: regions, cascades, other networks, preprocessors or resamplings than the default.
        ConfigError: ``postprocess`` names a class that is not there, or is yet to be chosen.
    """
    if postprocess is not None and postprocess.is_open:
        raise ConfigError(
            "nothing was chosen on validation cases for a model that was not trained here",
            where="--postprocess",
            fix="say what shall be done",
        )
    parts = nnunet_parts(model, checkpoints[0])
    weights = [parts.weights, *(_checkpoint(path).weights for path in checkpoints[1:])]
    for found, path in zip(weights, checkpoints, strict=True):
        load_all_weights(parts.network, found, path, of="model's plans", fix=_DAMAGED)
    return NnunetSegmenter(
        parts.network,
        weights,
        plans=parts.plans,
        configuration=parts.configuration,
        mirrored_axes=parts.mirrored_axes,
        labels=parts.labels,
        channel_names=parts.channel_names,
        compute=compute,
        postprocess=postprocess,
        max_ram_bytes=max_ram_bytes,
        shared_by=shared_by,
    )


@dataclass(frozen=True)
class NnunetParts:
    """What a model's documents and one checkpoint say, proven to be what medseg reproduces.

    Attributes:
        network: Without weights.
        weights: Of the checkpoint.
        plans: Of the model.
        configuration: The one that was trained.
        mirrored_axes: Of the window.
        labels: The classes.
        channel_names: The channels of an image.
    """

    network: NnunetUNet
    weights: dict[str, Tensor]
    plans: NnunetPlans
    configuration: NnunetConfiguration
    mirrored_axes: tuple[int, ...]
    labels: LabelScheme
    channel_names: tuple[str, ...]


def nnunet_parts(model: NnunetFolder, checkpoint: Path) -> NnunetParts:
    """Read a model's documents and one of its checkpoints; errors as ``load_nnunet``'s."""
    read = _checkpoint(checkpoint)
    plans, dataset = model.plans(), model.dataset()
    try:
        configuration = plans.configuration(read.configuration)
        labels = dataset.scheme()
        _require_reproducible(plans, configuration, len(dataset.channels))
        network = build_nnunet(configuration.architecture, len(dataset.channels), len(labels))
    except ConfigError as error:
        raise BundleError(error.what, where=model.path, fix=error.fix) from error
    axes = _axes_within(read.mirrored_axes, configuration, checkpoint)
    return NnunetParts(network, read.weights, plans, configuration, axes, labels, dataset.channels)


def _require_reproducible(plans: NnunetPlans, configuration: NnunetConfiguration, channels: int) -> None:
    """Refuse what would give other labels than nnU-Net."""
    problem = None
    schemes = configuration.normalization_schemes
    if configuration.previous_stage is not None:
        problem = f"is a cascade, which begins with the labels of '{configuration.previous_stage}'"
    elif configuration.preprocessor_name != "DefaultPreprocessor":
        problem = f"prepares images by '{configuration.preprocessor_name}', which medseg has not"
    elif plans.image_reader_writer not in READERS:
        problem = f"reads images by '{plans.image_reader_writer}', which medseg has not"
    elif other := [name for name in schemes if name not in NORMALIZATIONS]:
        problem = f"normalises by '{other[0]}', which medseg has not"
    elif {configuration.resampling_fn_data, configuration.resampling_fn_probabilities} != {_RESAMPLING}:
        problem = f"resamples by '{configuration.resampling_fn_data}', which medseg has not"
    elif len(configuration.patch_size) != len(configuration.spacing):
        problem = "has a patch and a spacing of different numbers of axes"
    elif {len(schemes), len(configuration.use_mask_for_norm)} != {channels}:
        problem = f"normalises {len(schemes)} channels of {channels}"
    elif sorted(plans.transpose_forward) != [0, 1, 2]:
        problem = f"has no order of axes in transpose_forward {plans.transpose_forward}"
    if problem is not None:
        raise ConfigError(problem, fix=_BY_NNUNET)


def _axes_within(axes: tuple[int, ...], configuration: NnunetConfiguration, path: Path) -> tuple[int, ...]:
    if any(axis not in range(len(configuration.patch_size)) for axis in axes):
        raise BundleError(f"mirrors along axes {axes}, which the patch has not", where=path, fix=_DAMAGED)
    return axes


def _checkpoint(path: Path) -> _Checkpoint:
    content: Any = read_checkpoint(path, _numbers())
    try:
        weights = NnunetUNet.own_names(content["network_weights"])
        configuration = content["init_args"]["configuration"]
        axes = content.get("inference_allowed_mirroring_axes") or ()
        return _Checkpoint(weights, str(configuration), tuple(int(axis) for axis in axes))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError("is no checkpoint of nnU-Net v2", where=path, fix=_DAMAGED) from error


def _numbers() -> list[Any]:
    """NumPy's numbers, which nnU-Net keeps its losses as: how they are made again holds no code."""
    kinds = [np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32", "bool")]
    scalar = import_module("numpy._core.multiarray").scalar
    # It has two names: that of NumPy 1 and that of NumPy 2.
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*named, np.dtype, *(type(kind) for kind in kinds)]
