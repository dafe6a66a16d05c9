"""How images are best segmented by a planned network."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Literal

import torch

from medseg.errors import ConfigError, InputError
from medseg.inference.streaming.captured import local_graph
from medseg.networks import build_network
from medseg.runs import NetworkPlan, Recipe
from medseg.training.architecture import Triple, round_up

__all__ = ["Mode", "plan_inference_mode"]

Mode = Literal["streaming", "sliding-window", "overlap-tile"]

_SIZE = (32, 32, 32)


def plan_inference_mode(
    recipe: Recipe, network: NetworkPlan, divisor: Triple, reasons: dict[str, str]
) -> Mode | None:
    """Choose streaming where the network's layers are local, and windows elsewhere.

    Args:
        recipe: Its ``inference.mode`` goes before it.
        network: As planned.
        divisor: What the sizes of a patch must be divisible by.
        reasons: Gains one.

    Returns:
        The mode; ``None`` for a pretraining, which segments nothing.
    """
    if recipe.pretrain is not None:
        return None
    if recipe.inference.mode != "auto":
        reasons["inference_mode"] = "given by the recipe"
        return recipe.inference.mode
    if set(recipe.inference.mirror) == set("xyz"):
        reasons["inference_mode"] = "mirrored along every axis"
        return "sliding-window"
    obstacle = _obstacle(network.name, json.dumps(network.options, sort_keys=True), divisor)
    reasons["inference_mode"] = obstacle or "every layer of the network is local: each voxel is computed once"
    return "sliding-window" if obstacle else "streaming"


@lru_cache(maxsize=128)
def _obstacle(name: str, options: str, divisor: Triple) -> str:
    """Why a network cannot be streamed; empty if it can."""
    chosen = json.loads(options)
    shape = (1, chosen.get("in_channels", 1), *round_up(_SIZE, divisor))
    with torch.device("meta"):
        network = build_network(name, **chosen).eval()
        try:
            local_graph(network, shape)
        except (ConfigError, InputError) as error:
            return error.what
    return ""
