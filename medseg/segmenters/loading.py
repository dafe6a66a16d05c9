"""From what a training left behind, or others made, to a segmenter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from medseg.errors import ConfigError, did_you_mean
from medseg.inference import choose_compute
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.ensemble import EnsembleSegmenter
from medseg.segmenters.members import CHECKPOINTS, Asked, Resources, members_of
from medseg.segmenters.protocol import Segmenter
from medseg.segmenters.refined import RefinedSegmenter

__all__ = ["load_segmenter"]


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
    trust: bool = False,
) -> Segmenter:
    """Load what a training left behind, the fit of another method, a MONAI bundle, or a model of nnU-Net's.

    Args:
        path: The run's folder, a bundle's folder or ``.zip``, or nnU-Net's folder with ``plans.json``; or
            several of them for the same task, which become an ensemble.
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
        trust: Whether a bundle that was not made here may execute code of its own. If not, and it would, it
            is refused, with all that it would execute.

    Returns:
        The network or other method, or the ensemble of several folds'; where ``postprocess`` refines scores,
        with that around it.

    Raises:
        InputError: There is none of these in this folder, or it is a pretraining's run.
        ConfigError: No such fold, checkpoint, device or precision, or a class that ``postprocess`` names; or
            runs differ in postprocessing; or an option has no meaning for what is loaded.
        BundleError: The run, bundle or model is damaged, unsafe, cannot be reproduced, or has no weights yet.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(
            f"unknown checkpoint '{checkpoint}'",
            where="--checkpoint",
            fix=did_you_mean(checkpoint, CHECKPOINTS),
        )
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    given = {"mode": mode, "overlap": overlap, "mirror": mirror}
    asked = Asked(fold, checkpoint, precision, given, postprocess, trust)
    found = [member for place in paths for member in members_of(place, asked)]
    compute = choose_compute(device, precision)
    refine, *others = [member.refine for member in found]
    if any(other != refine for other in others):
        raise ConfigError(
            "runs differ in how scores are refined", where="--postprocess", fix="choose one way for all"
        )
    resources = Resources(compute, max_ram_bytes, max_vram_bytes, len(found), jobs)
    members = [member.load(resources) for member in found]
    segmenter = members[0] if len(members) == 1 else EnsembleSegmenter(members)
    if refine is None:
        return segmenter
    return RefinedSegmenter(segmenter, refine, max_ram_bytes=max_ram_bytes)
