"""How large tiles are to be, and what memory they take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from medseg.errors import ConfigError
from medseg.inference.allocator import ALLOCATOR_STAGE, kept_by_the_allocator
from medseg.inference.forward_memory import forward_peak_bytes
from medseg.inference.overlap_tile.fitting import AxisFit, TileFit
from medseg.inference.overlap_tile.tiles import Layout
from medseg.inference.slabs import WORK_STAGE, MemoryPlan, MemoryShortage
from medseg.io.sizes import format_bytes

__all__ = ["Job", "choose_plan", "layout_of", "wanted_slices"]

_COMFORTABLE_BYTES = 2 << 30
"""What tiles may take where no limit is given; larger ones hardly save work."""
_GROWTH = 1.4
_SAMPLE_VOXELS = {2: 192, 3: 48}


@dataclass(frozen=True)
class Job:
    """What is to be inferred.

    Attributes:
        network: The network.
        shape: Of the image, (B, C, X, Y[, Z]).
        fit: The tiles that the network takes.
        padding_mode: One of ``PADDING_MODES``.
        tiles_at_a_time: Tiles that the network sees at once.
        result_bytes: Bytes of the result that is allocated at the beginning; ``None`` if results are handed
            on row by row.
    """

    network: nn.Module
    shape: tuple[int, ...]
    fit: TileFit
    padding_mode: str
    tiles_at_a_time: int
    result_bytes: int | None

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of the image along each axis."""
        return self.shape[2:]

    def layout(self, tile: Sequence[int]) -> Layout:
        """Tiles whose results have the size ``tile`` or the next above that fits."""
        axes = zip(self.fit.axes, tile, self.size, strict=True)
        rounded = tuple(fit.rounded(wanted, length) for fit, wanted, length in axes)
        return Layout(self.size, self.fit, rounded, self.padding_mode)


def layout_of(plan: MemoryPlan, shape: Sequence[int], fit: TileFit) -> Layout:
    """The tiles that were planned."""
    return Layout(tuple(shape[2:]), fit, tuple(plan.details["tile_size"]), plan.details["padding_mode"])


def choose_plan(job: Job, tile_size: Sequence[int] | None, limit_bytes: int | None) -> MemoryPlan:
    """The plan with the least work among those that keep to the limit.

    Args:
        job: What is to be inferred.
        tile_size: Of the results of tiles; chosen if not given.
        limit_bytes: Memory that may be taken.

    Raises:
        ConfigError: The network does not take tiles of a size that it should.
        MemoryShortage: No tiles keep to the limit; the error names the least that would do.
    """
    chooser = _Chooser(job)
    if tile_size is not None:
        layout = job.layout(tile_size)
        best = min((chooser.plan(layout, axis) for axis in _axes_of(job)), key=lambda plan: plan.peak_bytes)
        return _within(best, limit_bytes, "leave tile_size out, so that it is chosen by memory")
    found = chooser.cheapest(limit_bytes or _COMFORTABLE_BYTES)
    return _within(found, limit_bytes, "allow that much, or infer by streaming")


def _axes_of(job: Job) -> range:
    """The spatial axes along which tiles may be gone through."""
    return range(len(job.size))


def _within(plan: MemoryPlan, limit_bytes: int | None, fix: str) -> MemoryPlan:
    if limit_bytes is not None and plan.peak_bytes > limit_bytes:
        taken, allowed = format_bytes(plan.peak_bytes), format_bytes(limit_bytes)
        raise MemoryShortage(
            f"overlapping tiles take {taken}, {allowed} are allowed", fix=fix, least_bytes=plan.peak_bytes
        )
    return plan


class _Chooser:
    """Weighs layouts against each other."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._passes: dict[tuple[int, ...], int] = {}

    def plan(self, layout: Layout, axis: int) -> MemoryPlan:
        """The plan for going through a layout along ``axis``."""
        job, fit = self._job, self._job.fit
        rows = layout.spans(axis)
        at_work = self._pass_bytes(layout)
        by_stage = {
            WORK_STAGE: at_work,
            **self._held_bytes(layout, axis, at_work),
            ALLOCATOR_STAGE: kept_by_the_allocator(at_work),
        }
        return MemoryPlan(
            mode="overlap-tile",
            axis=axis,
            slab=max(span.used for span in rows),
            by_stage=by_stage,
            slab_bytes=self._row_bytes(layout, axis),
            details={
                "tile_size": list(layout.size),
                "input_size": list(fit.input_size(layout.size)),
                "tiles": math.prod(len(layout.spans(other)) for other in _axes_of(job)),
                "tiles_at_a_time": job.tiles_at_a_time,
                "margin": [[along.before, along.after] for along in fit.axes],
                "stride": [along.stride for along in fit.axes],
                "padding_mode": job.padding_mode,
                "computed_voxels": layout.computed_voxels,
            },
        )

    def cheapest(self, limit_bytes: int) -> MemoryPlan:
        """The plan with the least work that keeps to the limit; the smallest one if none does."""
        sample = self._job.layout((_SAMPLE_VOXELS[len(self._job.size)],) * len(self._job.size))
        bytes_per_voxel = self._pass_bytes(sample) / self._largest_input(sample)
        candidates = []
        for layout, axis in self._layouts():
            guess = bytes_per_voxel * self._largest_input(layout)
            guess += sum(self._held_bytes(layout, axis, int(guess)).values())
            candidates.append((layout.computed_voxels, guess, layout, axis))
        candidates.sort(key=lambda candidate: candidate[:2])
        # A guess is a little off, in the same way for all.
        correction = 1.0
        for _, guess, layout, axis in candidates:
            if guess * correction <= limit_bytes:
                plan = self.plan(layout, axis)
                if plan.peak_bytes <= limit_bytes:
                    return plan
                correction = max(correction, plan.peak_bytes / guess)
        _, _, layout, axis = min(candidates, key=lambda candidate: candidate[1])
        return self.plan(layout, axis)

    def _layouts(self) -> Iterator[tuple[Layout, int]]:
        """Tiles of every thickness along one axis and every width across it."""
        job = self._job
        axes = _axes_of(job) if job.result_bytes is None else range(1)
        longest = [_steps(fit, length) for fit, length in zip(job.fit.axes, job.size, strict=True)]
        widths = sorted({step for steps in longest for step in steps})
        seen = set()
        for axis in axes:
            for thickness, width in itertools.product(longest[axis], widths):
                tile = [width] * len(job.size)
                tile[axis] = thickness
                layout = job.layout(tile)
                if (layout.size, axis) not in seen:
                    seen.add((layout.size, axis))
                    yield layout, axis

    def _largest_input(self, layout: Layout) -> int:
        return math.prod(self._job.fit.input_size(layout.size)) * self._tiles_in_a_batch(layout)

    def _tiles_in_a_batch(self, layout: Layout) -> int:
        """The most that the network is really given: tiles of one row and one size."""
        like = math.prod(
            sum(span.size == layout.size[axis] for span in layout.spans(axis)) for axis in _axes_of(self._job)
        )
        return self._job.shape[0] * max(1, min(self._job.tiles_at_a_time, like))

    def _pass_bytes(self, layout: Layout) -> int:
        """What the network takes for one batch of tiles."""
        job = self._job
        size = job.fit.input_size(layout.size)
        shape = (self._tiles_in_a_batch(layout), job.shape[1], *size)
        if shape not in self._passes:
            try:
                self._passes[shape] = forward_peak_bytes(job.network, shape)
            except (RuntimeError, ValueError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ConfigError(
                    f"the network does not take a tile of size {size}: {reason}",
                    fix="give a larger tile_size",
                ) from error
        return self._passes[shape]

    def _held_bytes(self, layout: Layout, axis: int, at_work: int) -> dict[str, int]:
        """What is held beside the batch of tiles."""
        if self._job.result_bytes is not None:
            return {"result": self._job.result_bytes}
        # Whoever takes the rows still holds the last one while the next is made.
        return {
            "image": self._image_bytes(layout, axis, at_work),
            "scores": self._row_bytes(layout, axis) * min(2, len(layout.spans(axis))),
        }

    def _row_bytes(self, layout: Layout, axis: int) -> int:
        """Scores of one row of tiles."""
        fit, plane = self._job.fit, math.prod(layout.shape) // layout.shape[axis]
        thickness = max(span.used for span in layout.spans(axis))
        return thickness * plane * self._job.shape[0] * fit.classes * fit.score_bytes

    def _image_bytes(self, layout: Layout, axis: int, at_work: int) -> int:
        """Slices of the image for one row of tiles, or more if to read them takes more than the network."""
        plane = math.prod(layout.shape) // layout.shape[axis]
        slice_bytes = self._job.shape[0] * self._job.shape[1] * plane * self._job.fit.score_bytes
        held, peak = (0, 0), 0
        for first, last in wanted_slices(layout, axis):
            together, new = last - first, last - max(first, held[1])
            peak = max(peak, together * slice_bytes)
            loading = (held[1] - held[0] + together + max(0, new)) * slice_bytes
            peak = max(peak, loading - at_work)
            held = first, last
        return peak


def wanted_slices(layout: Layout, axis: int) -> list[tuple[int, int]]:
    """For each row of tiles, the slices of the image to hold: its own, and what later rows go back to."""
    own = [layout.needed(axis, span) for span in layout.spans(axis)]
    held = []
    first, last = own[-1][0], 0
    for start, _ in reversed(own):
        first = min(first, start)
        held.append(first)
    wanted = []
    for (_, stop), keep in zip(own, reversed(held), strict=True):
        last = max(last, stop)
        wanted.append((keep, last))
    return wanted


def _steps(fit: AxisFit, length: int) -> list[int]:
    """Sizes of tiles along one axis, from the smallest to the image's."""
    steps: list[int] = []
    size = 1.0
    while not steps or steps[-1] < length:
        steps.append(fit.rounded(math.ceil(size), length))
        size = max(size * _GROWTH, steps[-1] + 1)
    return sorted(set(steps))
