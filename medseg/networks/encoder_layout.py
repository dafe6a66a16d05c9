"""Where in an encoder its maps come from, and by which strides. Imports torch alone."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["EncoderLayout", "Tap", "examine_encoder"]

_PROBE_VOXELS = 512


@dataclass(frozen=True)
class Tap:
    """Where a feature map can be reached on its way through an encoder.

    Attributes:
        module: The outermost module that gives the map; or, if none does, the first that takes it.
        at_input: Whether it takes it.
    """

    module: str
    at_input: bool


@dataclass(frozen=True)
class EncoderLayout:
    """Where an encoder's maps come from.

    Attributes:
        strides: From the image to the first map, and from each map to the next, by axis.
        taps: For each map, where it can be reached; ``None`` if between modules alone.
        level_of: For each module by name, the number of the map that it works for.
    """

    strides: tuple[tuple[int, ...], ...]
    taps: tuple[Tap | None, ...]
    level_of: dict[str, int]


def examine_encoder(encoder: nn.Module, spatial_dims: int, in_channels: int) -> EncoderLayout:
    """Run a copy of an encoder on a large image that takes no memory, and watch.

    Args:
        encoder: From images to a list of maps, the finest first.
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
    """
    twin = copy.deepcopy(encoder).to("meta").eval()
    events: list[tuple[str, bool, Any]] = []  # module, whether it is entered, what goes in or comes out
    for name, module in twin.named_modules():
        module.register_forward_pre_hook(
            lambda _module, given, name=name: events.append((name, True, given[0]))
        )
        module.register_forward_hook(
            lambda _module, _given, made, name=name: events.append((name, False, made))
        )
    with torch.no_grad():
        maps = twin(torch.empty(1, in_channels, *(_PROBE_VOXELS,) * spatial_dims, device="meta"))
    sizes = [(_PROBE_VOXELS,) * spatial_dims, *(tuple(features.shape[2:]) for features in maps)]
    strides = tuple(
        tuple(round(before / after) for before, after in zip(finer, coarser, strict=True))
        for finer, coarser in itertools.pairwise(sizes)
    )
    moments = [_moment(events, features) for features in maps]
    taps = tuple(None if at is None else Tap(events[at][0], events[at][1]) for at in moments)
    level_of: dict[str, int] = {}
    for at, (name, entered, _) in enumerate(events):
        if entered:
            begun = sum(moment is not None and moment <= at for moment in moments[:-1])
            level_of.setdefault(name, begun)
    return EncoderLayout(strides, taps, level_of)


def _moment(events: list[tuple[str, bool, Any]], features: Tensor) -> int | None:
    """The event at which a map is there: the last module that gives it has ended, or the first takes it."""
    given = [at for at, (_, entered, seen) in enumerate(events) if seen is features and not entered]
    taken = [at for at, (_, entered, seen) in enumerate(events) if seen is features and entered]
    if given:
        return given[-1]
    return taken[0] if taken else None
