"""How much memory windows take, before the first of them is computed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from medseg.errors import ConfigError
from medseg.inference.allocator import ALLOCATOR_STAGE, kept_by_the_allocator
from medseg.inference.forward_memory import shadow_pass
from medseg.inference.slabs import WORK_STAGE, MemoryPlan, MemoryShortage
from medseg.inference.sliding_window.layout import Layout, OutputGrid
from medseg.inference.sliding_window.outputs import flatten
from medseg.inference.sliding_window.sums import slab_thickness
from medseg.io.sizes import format_bytes

__all__ = ["Pass", "plan_pass"]

Shapes = tuple[tuple[int, ...], ...]

_ITEM = 4  # bytes of a score in single precision


@dataclass(frozen=True)
class Pass:
    """A pass of windows over images.

    Attributes:
        layout: Of the windows.
        axis: Along which they come in layers.
        shape: Of the images, (B, C, X, Y[, Z]).
        reduce: As the inferer's.
        whole_images: Whether images are given, and results wanted, as a whole, instead of slab by slab.
    """

    layout: Layout
    axis: int
    shape: tuple[int, ...]
    reduce: str | None
    whole_images: bool


def plan_pass(
    network: nn.Module, passing: Pass, windows_at_a_time: int, max_ram_bytes: int | None
) -> MemoryPlan:
    """Choose how many windows the network sees at a time, and add up what that takes.

    Args:
        network: From windows to scores.
        passing: What to do.
        windows_at_a_time: As many as are wanted; fewer where memory does not suffice.
        max_ram_bytes: Memory that may be taken.

    Raises:
        MemoryShortage: Not even one window at a time fits.
        ConfigError: There is a limit, and what the network takes cannot be foreseen.
    """
    plan = None
    for count in _halved(min(windows_at_a_time, _windows_of(passing))):
        plan = _plan(network, passing, count, must_know=max_ram_bytes is not None)
        if max_ram_bytes is None or plan.peak_bytes <= max_ram_bytes:
            return plan
    if plan is None or max_ram_bytes is None:
        raise AssertionError  # one window at a time is always tried, and taken where there is no limit
    least, allowed = format_bytes(plan.peak_bytes), format_bytes(max_ram_bytes)
    raise MemoryShortage(
        f"windows of {passing.layout.window} voxels need {least}, {allowed} are allowed",
        where="max_ram_bytes",
        fix=f"allow {least}, or use smaller windows",
        least_bytes=plan.peak_bytes,
    )


def _halved(count: int) -> Iterator[int]:
    while count > 1:
        yield count
        count //= 2
    yield 1


def _windows_of(passing: Pass) -> int:
    return passing.shape[0] * math.prod(len(starts) for starts in passing.layout.starts)


def _plan(network: nn.Module, passing: Pass, count: int, *, must_know: bool) -> MemoryPlan:
    seen = (count, passing.shape[1], *passing.layout.window)
    details = {
        "window": passing.layout.window,
        "overlap": passing.layout.overlap,
        "windows_at_a_time": count,
        "windows": _windows_of(passing),
    }
    try:
        work, made = _foreseen(network, seen)
    except ConfigError as error:
        if must_know:
            raise
        details["unknown"] = f"the network's activations and all class scores: {error.what}"
        slab = passing.layout.window[passing.axis]
        return _fullest(passing, slab, 0, {"reading": _reading(passing)}, details)
    outputs = [_Output.of(passing, shape) for shape in made]
    moments = {
        "reading": _reading(passing),
        "network": {
            "slices": _kept(passing),
            WORK_STAGE: work,
            ALLOCATOR_STAGE: kept_by_the_allocator(work),
        },
        "handing on": _handing_on(passing, made, outputs, count),
    }
    lasting = {
        "sums": sum(output.sums for output in outputs),
        "weights": math.prod(passing.layout.window) * _ITEM + sum(output.coverage for output in outputs),
        "result": sum(output.result for output in outputs),
    }
    slab = max(output.slab for output in outputs)
    slab_bytes = max(output.slab_bytes for output in outputs)
    together = {name: {**lasting, **parts} for name, parts in moments.items()}
    return _fullest(passing, slab, slab_bytes, together, details)


def _foreseen(network: nn.Module, seen: tuple[int, ...]) -> tuple[int, Shapes]:
    """Bytes that a network takes for windows of a shape, and the shapes that it makes of them."""
    try:
        scores, peak_bytes = shadow_pass(network, seen)
        _, made = flatten(scores)
        return peak_bytes, tuple(tuple(tensor.shape) for tensor in made)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"what the network takes for windows {seen} cannot be foreseen: {reason}",
            where="max_ram_bytes",
            fix="give no limit",
        ) from error


def _fullest(
    passing: Pass,
    slab: int,
    slab_bytes: int,
    moments: Mapping[str, Mapping[str, int]],
    details: Mapping[str, object],
) -> MemoryPlan:
    name, parts = max(moments.items(), key=lambda moment: sum(moment[1].values()))
    by_stage = {part: size for part, size in parts.items() if size}
    return MemoryPlan(
        "sliding-window", passing.axis, slab, by_stage, {**details, "fullest": name}, slab_bytes
    )


def _layer_bytes(passing: Pass) -> int:
    """Bytes of the input's slices that one layer of windows sees."""
    size, axis = passing.layout.size, passing.axis
    voxels = math.prod(size) // size[axis] * passing.layout.window[axis]
    return passing.shape[0] * passing.shape[1] * voxels * _ITEM


def _kept(passing: Pass) -> int:
    """Bytes of the input that are kept beside the image that is given."""
    if not passing.whole_images:
        return _layer_bytes(passing)
    padded = passing.layout.size != passing.layout.image
    return math.prod((*passing.shape[:2], *passing.layout.size)) * _ITEM if padded else 0


def _reading(passing: Pass) -> dict[str, int]:
    """The moment at which slices of the next layer come to those of the present one."""
    if passing.whole_images:
        return {"slices": _kept(passing)}
    # The present layer, the next one, and what is read for it.
    starts, window = passing.layout.starts[passing.axis], passing.layout.window[passing.axis]
    step = max((b - a for a, b in itertools.pairwise(starts)), default=0)
    layer = _layer_bytes(passing)
    return {"slices": (2 * layer + layer * min(step, window) // window) if step else layer}


def _handing_on(passing: Pass, made: Shapes, outputs: list[_Output], count: int) -> dict[str, int]:
    """The moment at which finished slices are divided by their weights, with the last windows' scores."""
    scores = sum(math.prod(shape) for shape in made) * _ITEM
    seen = math.prod((count, passing.shape[1], *passing.layout.window)) * _ITEM if count > 1 else 0
    slabs = max(output.handed_on for output in outputs)
    return {"slices": _kept(passing), WORK_STAGE: scores + seen, "slab": slabs}


@dataclass(frozen=True)
class _Output:
    """Slices that one output of the network is handed on by, and bytes that it takes."""

    grid: OutputGrid
    slab: int
    slab_bytes: int
    sums: int
    coverage: int
    handed_on: int
    result: int

    @classmethod
    def of(cls, passing: Pass, shape: tuple[int, ...]) -> _Output:
        grid, axis, channels = OutputGrid(passing.layout, shape[2:]), passing.axis, shape[1]
        plane = math.prod(grid.size) // grid.size[axis]
        layer = plane * grid.window[axis]
        slab = min(slab_thickness(channels, grid.size, axis, _ITEM), grid.window[axis])
        everything = passing.whole_images and passing.reduce is None
        images = 1 if passing.whole_images else passing.shape[0]
        scores = math.prod((passing.shape[0], channels, *grid.size)) * _ITEM
        labels = passing.shape[0] * math.prod(grid.image) * (1 if channels <= 256 else 4)
        kept_all = everything or grid.window[axis] == grid.size[axis]
        copies = 0 if kept_all else 2
        return cls(
            grid=grid,
            slab=slab,
            slab_bytes=passing.shape[0] * channels * slab * plane * _ITEM,
            sums=0 if everything else images * channels * layer * _ITEM,
            coverage=layer * _ITEM,
            # Means if they do not stay where the sums are (with those before, which whoever takes the slabs
            # still holds), weights, and to find the best class two maps.
            handed_on=slab * plane * _ITEM * (copies * channels + 3),
            result=(scores if everything else labels) if passing.whole_images else 0,
        )
