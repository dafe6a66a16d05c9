"""From a run folder to a segmenter."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import ValidationError
from torch import nn

from medseg.errors import BundleError, ConfigError, explain_os_errors
from medseg.inference import Compute, choose_compute
from medseg.networks import build_network
from medseg.postprocessing import require_classes
from medseg.registry import did_you_mean
from medseg.runs import FoldFolder, Plan, RunFolder
from medseg.runs.postprocess import PostprocessChoice, RefineChoice
from medseg.runs.recipe import InferenceChoice
from medseg.segmenters.ensemble import EnsembleSegmenter
from medseg.segmenters.methods import Running, load_method
from medseg.segmenters.network import NetworkSegmenter
from medseg.segmenters.passage import MODES
from medseg.segmenters.protocol import Segmenter
from medseg.segmenters.refined import RefinedSegmenter

__all__ = ["load_segmenter", "read_checkpoint", "read_weights"]

_CHECKPOINTS = ("last", "best")
_CHOICES = {
    "mode": "use " + ", ".join(MODES),
    "overlap": "use 0 to 0.9",
    "mirror": "name axes of the network grid in order, as x, xy or xyz",
}

_RETRAIN = "copy the run again, or train it anew"
# Whatever bytes a damaged file holds, PyTorch's reader fails in one of these ways.
_UNREADABLE = (
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    OSError,
    AttributeError,
    TypeError,
    pickle.UnpicklingError,
)


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
    jobs: int = 1,
) -> Segmenter:
    """Load what a training left behind, or the fit of another method.

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
        jobs: Processes that a method other than a network may use for one image.

    Returns:
        The network or other method, or the ensemble of several folds'; where ``postprocess`` refines scores,
        with that around it.

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
    compute = choose_compute(device, precision)
    refine, *others = [member.refine for member in found]
    if any(other != refine for other in others):
        raise ConfigError(
            "runs differ in how scores are refined", where="--postprocess", fix="choose one way for all"
        )
    running = _Running(compute, max_ram_bytes, max_vram_bytes, len(found), jobs)
    members = [member.load(running) for member in found]
    segmenter = members[0] if len(members) == 1 else EnsembleSegmenter(members)
    if refine is None:
        return segmenter
    return RefinedSegmenter(segmenter, refine, max_ram_bytes=max_ram_bytes)


@dataclass(frozen=True)
class _Running:
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
        return self.postprocess.refine

    def load(self, running: _Running) -> Segmenter:
        return _load_network(self, running)


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
        return self.postprocess.refine

    def load(self, running: _Running) -> Segmenter:
        shared = Running(running.jobs, running.max_ram_bytes, running.members)
        return load_method(self.run, self.fold, shared, self.postprocess.of_label_maps)


def _members(
    path: str | os.PathLike[str],
    fold: int | Literal["all"] | None,
    checkpoint: str,
    given: dict[str, Any],
    postprocess: PostprocessChoice | None,
) -> Sequence[_Network | _Fitted]:
    run = RunFolder.open(path)
    run.require_segmentation()
    if run.is_method:
        _refuse_network_choices(run, given)
        chosen = run.method_recipe().postprocess if postprocess is None else postprocess
        return [_Fitted(run, folder, chosen) for folder in _chosen_folds(run, fold)]
    plan, inference = run.plan(), _inference_choice(run, given)
    asked_for = run.recipe().postprocess if postprocess is None else postprocess
    afterwards = run.chosen(asked_for)
    return [
        _Network(folder.weights(checkpoint), plan, inference, afterwards)
        for folder in _chosen_folds(run, fold)
    ]


def _refuse_network_choices(run: RunFolder, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"'{value}' is a way through a network, and {run.path} holds none",
                where=f"--{name}",
                fix="leave it out",
            )


def _inference_choice(run: RunFolder, given: dict[str, Any]) -> InferenceChoice:
    """The recipe's, with what is chosen now."""
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return InferenceChoice.model_validate({**run.recipe().inference.model_dump(), **chosen})
    except ValidationError as error:
        (name, *_), value = error.errors()[0]["loc"], error.errors()[0]["input"]
        raise ConfigError(
            f"'{value}' cannot be chosen", where=f"--{name}", fix=_CHOICES[str(name)]
        ) from error


def _chosen_folds(run: RunFolder, fold: int | Literal["all"] | None) -> tuple[FoldFolder, ...]:
    trained = run.trained_folds()
    if fold is None or fold == "all":
        return trained
    chosen = tuple(folder for folder in trained if folder.index == fold)
    if not chosen:
        there = ", ".join(str(folder.index) for folder in trained)
        raise ConfigError(f"fold {fold} is not trained", where=run.path, fix=f"choose of {there}, or all")
    return chosen


def _load_network(member: _Network, running: _Running) -> NetworkSegmenter:
    plan = member.plan
    require_classes(member.postprocess, plan.labels)
    try:
        network = build_network(plan.network.name, **plan.network.options)
    except ConfigError as error:
        raise BundleError(
            f"the plan's network cannot be built: {error.what}", where=error.where, fix=_RETRAIN
        ) from error
    _load_weights(network, member.weights)
    return NetworkSegmenter(
        network,
        labels=plan.labels,
        channel_names=plan.channel_names,
        preprocessing=plan.preprocessing,
        patch_size=plan.patch_size,
        inference=member.inference,
        postprocess=member.postprocess.of_label_maps,
        compute=running.compute,
        max_ram_bytes=running.max_ram_bytes,
        max_vram_bytes=running.max_vram_bytes,
        shared_by=running.members,
        name=str(member.weights),
    )


def _load_weights(network: nn.Module, path: Path) -> None:
    stored = read_weights(path)
    expected = network.state_dict()
    problem = None
    if missing := sorted(expected.keys() - stored.keys()):
        problem = f"'{missing[0]}' is missing"
    elif extra := sorted(stored.keys() - expected.keys()):
        problem = f"'{extra[0]}' belongs to another network"
    elif other := [name for name, tensor in expected.items() if stored[name].shape != tensor.shape]:
        have, need = tuple(stored[other[0]].shape), tuple(expected[other[0]].shape)
        problem = f"'{other[0]}' has shape {have} instead of {need}"
    elif broken := [name for name, tensor in stored.items() if not tensor.isfinite().all()]:
        problem = f"'{broken[0]}' is NaN or infinite"
    if problem is not None:
        raise BundleError(f"the weights do not fit the plan: {problem}", where=path, fix=_RETRAIN)
    network.load_state_dict(stored)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read what a training wrote into ``last.pt`` or ``best.pt``.

    Raises:
        BundleError: There is no such file, it is damaged, or it holds something other than weights.
    """
    stored = read_checkpoint(path)
    plain = isinstance(stored, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in stored.items()
    )
    if not plain:
        raise BundleError("holds something other than weights", where=path, fix=_RETRAIN)
    return cast(dict[str, torch.Tensor], stored)


def read_checkpoint(path: Path) -> Any:
    """Read tensors, numbers and names, however arranged; nothing in the file is executed.

    Raises:
        BundleError: There is no such file, or it is damaged or holds something else.
    """
    if not path.is_file():
        raise BundleError(
            "has no such weights", where=path, fix="choose --checkpoint last or best, or another fold"
        )
    with explain_os_errors(path):
        content = io.BytesIO(path.read_bytes())
    try:
        with warnings.catch_warnings(action="ignore"):
            stored: Any = torch.load(content, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise BundleError("the weights are damaged", where=path, fix=_RETRAIN) from error
    return stored
