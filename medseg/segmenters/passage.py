"""How one image goes through one network: in which way, and within which memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from medseg.errors import ConfigError, InputError, ResourceError
from medseg.inference import (
    Compute,
    MemoryPlan,
    NetworkImage,
    OverlapTileInferer,
    RestoredScores,
    SlabInferer,
    SlidingWindowInferer,
    StreamingInferer,
    planning,
)
from medseg.inference.compute import short_name
from medseg.inference.labelling import planned_label_bytes
from medseg.inference.margins import margins_up_to
from medseg.inference.mirrored_slabs import MirroredSlabs
from medseg.inference.mirroring import Mirrored
from medseg.inference.overlap_tile import fit_tiles
from medseg.inference.slabs import MemoryShortage
from medseg.inference.streaming.captured import local_graph
from medseg.io.sizes import available_memory_bytes, format_bytes, resident_bytes
from medseg.postprocessing import PostprocessMemory
from medseg.runs import PreprocessingSpec
from medseg.runs.recipe import InferenceChoice
from medseg.segmenters.segmentation_plan import STREAMED_LABELS, NetworkPassage
from medseg.volume import Slices

__all__ = ["MODES", "SMALL", "Passages"]

MODES = ("auto", *planning.MODES)
"""The ways to infer, or to choose by the network."""

_ATTEMPTS = 6
_PLANNED = 0.95
"""Of a limit: a plan may be a few per cent short of what is taken."""
_ROUND = 1.02
"""Times what would do, so that a number with few digits, tried a moment later, does as well."""
_MANY_TIMES = 4.0
"""Tiles that have voxels computed more often than this may lose against windows."""
SMALL = 2.0
"""Times the voxels of the training's patch: an image up to there is seen at once, since looking at a network
takes about as long as a pass."""
_AT_ONCE = "at once"


@dataclass(frozen=True)
class Passages:
    """Chooses how images go through one network.

    Attributes:
        network: In evaluation mode, on its device.
        patch_size: Voxels of the windows, and the least that a stream is given, along each axis.
        choice: Mode, overlap and blending of windows, mirrored axes.
        compute: Device and precision.
        classes: Number of them.
        swapped: For each class its partner on the other side of the body, for mirror images.
        left_right_axis: Of the network grid.
        windows_at_a_time: How many windows the network sees at once.
        max_ram_bytes: Limit of the whole process; what is free now, if left out.
        max_vram_bytes: Limit of what is taken of a GPU; what is free now, if left out.
        shared_by: How many networks share that memory at the same time, this one included.
    """

    network: nn.Module
    patch_size: tuple[int, int, int]
    choice: InferenceChoice
    compute: Compute
    classes: int
    swapped: tuple[int, ...]
    left_right_axis: int
    windows_at_a_time: int = 1
    max_ram_bytes: int | None = None
    max_vram_bytes: int | None = None
    shared_by: int = 1

    @property
    def mirrored_axes(self) -> tuple[int, ...]:
        """Axes of the network grid along which mirror images are averaged."""
        return tuple("xyz".index(letter) for letter in self.choice.mirror)

    def choose(
        self,
        image: Slices,
        spec: PreprocessingSpec,
        axis: int | None = None,
        postprocessing: PostprocessMemory = STREAMED_LABELS,
    ) -> NetworkPassage:
        """The way of one image.

        Args:
            image: The image.
            spec: What is done to it before the network sees it.
            axis: The network grid's axis along which slabs must come; chosen if left out.
            postprocessing: Memory of the label map, where it is held as a whole.

        Raises:
            ConfigError: The network does not fit the mode that was asked for.
            ResourceError: It does not fit into memory; the error names the least that would do.
        """
        self._require_postprocessing(postprocessing)
        shape = (1, image.channels, *spec.network_grid(image.grid).shape)
        job = image, spec, axis, postprocessing
        if self._is_small(shape):
            at_once = self._at_once(*job)
            if at_once is not None:
                return at_once
        mode, why = self._mode(shape)
        try:
            first = self._within_limits(mode, why, *job)
        except MemoryShortage as shortage:
            if self.choice.mode != "auto" or mode == "sliding-window":
                raise
            try:
                return self._within_limits("sliding-window", shortage.what, *job)
            except MemoryShortage as other:
                raise min(shortage, other, key=lambda error: error.least_bytes) from None
        if self.choice.mode == "auto" and first.times_computed > _MANY_TIMES:
            return self._rather_windows(first, *job)
        return first

    def _is_small(self, shape: tuple[int, ...]) -> bool:
        """Whether an image is no larger than what the network was trained on, and streamed if it were."""
        padded = margins_up_to(shape[2:], self.patch_size).padded_size
        if self.choice.mode != "auto" or math.prod(padded) > SMALL * math.prod(self.patch_size):
            return False
        mode, _ = self._mode((*shape[:2], *self.patch_size))
        return mode == "streaming"

    def _at_once(
        self, image: Slices, spec: PreprocessingSpec, axis: int | None, postprocessing: PostprocessMemory
    ) -> NetworkPassage | None:
        """The whole image as one window, which gives what streaming would; unless it does not fit."""
        why = "the image is small: one window holds all of it"
        try:
            plan = self._within_limits(_AT_ONCE, why, image, spec, axis, postprocessing)
        except MemoryShortage:
            return None
        return None if "unknown" in plan.inference.details else plan

    def _rather_windows(
        self,
        tiled: NetworkPassage,
        image: Slices,
        spec: PreprocessingSpec,
        axis: int | None,
        postprocessing: PostprocessMemory,
    ) -> NetworkPassage:
        """Windows in place of many small tiles, if they fit and compute less."""
        times = tiled.times_computed
        why = f"in streaming tiles would have each voxel computed {times:.0f} times"
        try:
            windows = self._within_limits("sliding-window", why, image, spec, axis, postprocessing)
        except MemoryShortage:
            return tiled
        return windows if windows.times_computed < times else tiled

    def _mode(self, shape: tuple[int, ...]) -> tuple[str, str]:
        if self.choice.mode != "auto":
            return self.choice.mode, "as asked for"
        try:
            graph = local_graph(self.network, shape)
        except ConfigError as error:
            return "sliding-window", error.what
        except InputError as error:
            if not self._is_valid(shape[1]):
                return "sliding-window", error.what
            return "overlap-tile", "the network's convolutions are valid"
        if graph.nodes[graph.outputs[0]].size != shape[2:]:
            return "overlap-tile", "the network's convolutions are valid"
        if len(self.mirrored_axes) == len(self.patch_size):
            return "sliding-window", "mirrored along every axis"
        return "streaming", "every layer of the network is local"

    def _is_valid(self, channels: int) -> bool:
        try:
            fit = fit_tiles(self.network, channels=channels, spatial_dims=len(self.patch_size))
        except (ConfigError, InputError):
            return False
        return not any(axis.trim or axis.trim_after for axis in fit.axes)

    def _require_postprocessing(self, memory: PostprocessMemory) -> None:
        """Refuse to begin what could not be ended."""
        process = resident_bytes()
        limit = self.max_ram_bytes or process + available_memory_bytes()
        needed = process + memory.labels + memory.work
        if memory != STREAMED_LABELS and needed > _PLANNED * limit:
            raise ResourceError(
                f"postprocessing may need {format_bytes(needed / _PLANNED)} (the whole label map "
                f"{format_bytes(memory.labels)}, and {format_bytes(memory.work)} to work in), "
                f"{format_bytes(limit)} may be taken",
                fix="allow more by --max-ram, or leave it out by --postprocess none",
            )

    def _within_limits(
        self,
        mode: str,
        why: str,
        image: Slices,
        spec: PreprocessingSpec,
        axis: int | None,
        postprocessing: PostprocessMemory,
    ) -> NetworkPassage:
        grid = spec.network_grid(image.grid)
        padded = mode in ("streaming", _AT_ONCE)
        margins = margins_up_to(grid.shape, self.patch_size if padded else grid.shape)
        shape = (1, image.channels, *margins.padded_size)
        process = resident_bytes()
        limit = self.max_ram_bytes or process + available_memory_bytes()
        held = {"process": process}
        if postprocessing.labels:
            held["label map"] = postprocessing.labels
        fixed = sum(held.values())
        share = (int(_PLANNED * limit) - fixed) // self.shared_by
        budget, least = share, 0
        for _ in range(_ATTEMPTS):
            try:
                inferer, plan = self._planned(mode, shape, max(1, budget), axis)
            except MemoryShortage as shortage:
                if self._on_gpu:
                    raise self._shortage_of_vram(mode, shortage) from None
                thinnest = MemoryPlan(mode, axis or 0, 1, {"network": shortage.least_bytes})
                least = sum(self._parts(thinnest, image, spec).values())
                break
            parts = self._parts(plan, image, spec)
            least = sum(parts.values())
            if least <= share:
                by_part = {**held, **parts}
                return NetworkPassage(
                    why=why,
                    by_part=by_part,
                    postprocessing=postprocessing,
                    inferer=inferer,
                    margins=margins,
                    network_grid=grid,
                    inference=plan,
                )
            budget = min(budget, plan.peak_bytes) - (least - share)
        raise self._shortage(mode, limit, fixed, least)

    def _shortage(self, mode: str, limit: int, fixed: int, least: int) -> MemoryShortage:
        """That nothing keeps to the limit.

        Args:
            mode: That was planned for.
            limit: Of the whole process.
            fixed: What it takes already, or will hold whatever the mode.
            least: What going through the image takes beside that, at least.
        """
        needed = (fixed + self.shared_by * least) / _PLANNED
        return MemoryShortage(
            f"{mode} needs {format_bytes(needed)} of memory, {format_bytes(fixed)} of it before it begins; "
            f"{format_bytes(limit)} may be taken",
            where=None if self.max_ram_bytes is None else "--max-ram",
            fix="close other programs"
            if self.max_ram_bytes is None
            else f"allow {format_bytes(_ROUND * needed)}",
            least_bytes=int(needed),
        )

    def _shortage_of_vram(self, mode: str, shortage: MemoryShortage) -> MemoryShortage:
        """That nothing keeps to what may be taken of a GPU."""
        needed = self.shared_by * shortage.least_bytes
        return MemoryShortage(
            f"{mode} needs {format_bytes(needed)} of the GPU's memory, which is more than may be taken",
            where="--max-vram",
            fix=f"allow {format_bytes(_ROUND * needed)}, or use --device cpu",
            least_bytes=needed,
        )

    def _planned(
        self, mode: str, shape: tuple[int, ...], budget: int, axis: int | None
    ) -> tuple[SlabInferer, MemoryPlan]:
        """The inferer and its plan; of several axes that are possible, the one that takes least."""
        if self._on_gpu:
            free, _ = torch.cuda.mem_get_info(self.compute.device)
            budget = (self.max_vram_bytes or int(0.9 * free)) // self.shared_by
        if mode == "overlap-tile":
            overlap_tile = OverlapTileInferer(max_ram_bytes=budget)
            return overlap_tile, overlap_tile.plan(self.seen_by(mode), shape)
        if mode in ("sliding-window", _AT_ONCE):
            windows = SlidingWindowInferer(
                shape[2:] if mode == _AT_ONCE else self.patch_size,
                self.windows_at_a_time,
                self.choice.overlap,
                self.choice.blend,
                axis="auto" if axis is None else axis,
                # What some networks take cannot be foreseen: they are refused only where a limit was set.
                max_ram_bytes=None if self._limit is None else budget,
            )
            return windows, windows.plan(self.seen_by(mode), shape)
        return self._streamed(shape, budget, axis)

    def _streamed(
        self, shape: tuple[int, ...], budget: int, axis: int | None
    ) -> tuple[SlabInferer, MemoryPlan]:
        if not self.mirrored_axes:
            stream = self._stream("auto" if axis is None else axis, budget)
            return stream, stream.plan(self.network, shape)
        axes = [other for other in range(len(self.patch_size)) if other not in self.mirrored_axes]
        if axis is not None:
            axes = [axis] if axis in axes else []
        if not axes:
            raise ConfigError(
                "cannot stream along an axis that is mirrored", where="--mirror", fix="leave one axis out"
            )
        # What streams take in turns is there but once: each may have more than its part of the budget.
        for parts in range(1, 2 ** len(self.mirrored_axes) + 1):
            sides = [self._mirrored(self._stream(along, budget // parts)) for along in axes]
            ways = [(side, side.plan(self.network, shape)) for side in sides]
            best = min(ways, key=lambda way: way[1].peak_bytes)
            if best[1].peak_bytes <= budget:
                break
        return best

    def _stream(self, axis: int | str, budget: int) -> StreamingInferer:
        return StreamingInferer(axis, precision=short_name(self.compute.dtype), max_ram_bytes=budget)

    def _mirrored(self, stream: StreamingInferer) -> MirroredSlabs:
        return MirroredSlabs(stream, self.mirrored_axes, self.swapped, self.left_right_axis)

    def seen_by(self, mode: str) -> nn.Module:
        """The network as an inferer of windows or tiles calls it."""
        network = self.network
        if mode != "streaming" and self.mirrored_axes:
            network = Mirrored(network, self.mirrored_axes, self.swapped, self.left_right_axis)
        return network

    def _parts(self, plan: MemoryPlan, image: Slices, spec: PreprocessingSpec) -> dict[str, int]:
        """What is held beside the network's own, while a slab goes from the file to its labels."""
        grid = spec.network_grid(image.grid)
        statistics = (None,) * image.channels
        seen = NetworkImage(image, spec, plan.axis, statistics)
        stages = [
            RestoredScores.coming([], grid, image.grid, plan.axis, tile=part.tile) for part in plan.parts
        ]
        found = {
            "preprocessing": seen.planned_bytes(plan.slab),
            "restoring": max(stage.planned_bytes(self.classes) for stage in stages),
            "labels": max(planned_label_bytes(stage, self.classes) for stage in stages),
        }
        return found if self._on_gpu else {**found, "network": plan.peak_bytes}

    @property
    def _limit(self) -> int | None:
        """What a person has set for the memory that the network computes in."""
        return self.max_vram_bytes if self._on_gpu else self.max_ram_bytes

    @property
    def _on_gpu(self) -> bool:
        return self.compute.device.type == "cuda"
