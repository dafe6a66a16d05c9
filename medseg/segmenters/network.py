"""A trained network as a segmenter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.memory_format import convert_conv3d_weight_memory_format

from medseg.errors import ConfigError, ResourceError
from medseg.geometry import slab_maps
from medseg.inference import Compute, NetworkImage, Read, RestoredScores, choose_compute, image_statistics
from medseg.inference.mirroring import partner_permutation
from medseg.inference.slabs import MemoryPlan
from medseg.labels import LabelScheme
from medseg.postprocessing import postprocess_memory, require_classes
from medseg.runs import PreprocessingSpec
from medseg.runs.recipe import InferenceChoice, PostprocessChoice
from medseg.segmenters.cases import segment_case
from medseg.segmenters.passage import Passages
from medseg.segmenters.protocol import CaseLike
from medseg.segmenters.segmentation_plan import NetworkPassage, SegmentationPlan
from medseg.volume import Slices, Volume

__all__ = ["NetworkSegmenter"]


class NetworkSegmenter:
    """Segments with a network, slab by slab: neither the image nor its scores are ever held as a whole.

    Args:
        network: From (B, C, X, Y, Z) to class scores (B, K, X, Y, Z); moved to the device, set to evaluation.
        labels: Its K classes.
        channel_names: The C channels of an image.
        preprocessing: What is done to an image before the network sees it.
        patch_size: Voxels that the network was trained on, along each axis of the network grid.
        inference: Streaming or windows, how these overlap and blend, and mirror images.
        postprocess: What is done to a label map; nothing, if left out.
        windows_at_a_time: How many windows the network sees at once.
        compute: Device and precision; chosen by what there is if left out.
        max_ram_bytes: Limit of the whole process; what is free, if left out.
        max_vram_bytes: Limit of what is taken of a GPU; what is free, if left out.
        shared_by: How many segmenters share that memory at the same time, this one included.
        name: What it is called in errors, such as the file of its weights.

    Raises:
        ConfigError: ``postprocess`` names a class that is not there, is yet to be chosen, or refines scores.

    Example:
        >>> from medseg.runs import Normalization
        >>> segmenter = NetworkSegmenter(
        ...     nn.Conv3d(1, 2, 1),
        ...     labels=LabelScheme.from_names({4: "liver"}),
        ...     channel_names=("CT",),
        ...     preprocessing=PreprocessingSpec(normalization=[Normalization(scheme="zscore")]),
        ...     patch_size=(16, 16, 16),
        ... )
        >>> segmenter.labels.values
        (0, 4)
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        labels: LabelScheme,
        channel_names: tuple[str, ...],
        preprocessing: PreprocessingSpec,
        patch_size: tuple[int, int, int],
        inference: InferenceChoice | None = None,
        postprocess: PostprocessChoice | None = None,
        windows_at_a_time: int = 1,
        compute: Compute | None = None,
        max_ram_bytes: int | None = None,
        max_vram_bytes: int | None = None,
        shared_by: int = 1,
        name: str = "the network",
    ) -> None:
        self.labels = labels
        self.channel_names = channel_names
        self.preprocessing = preprocessing
        self.postprocess = postprocess or PostprocessChoice()
        if self.postprocess.is_open:
            raise ConfigError("postprocessing is left to validation cases", fix="give what they chose")
        if self.postprocess.refine is not None:
            raise ConfigError("a network does not refine its scores", fix="put a RefinedSegmenter around it")
        require_classes(self.postprocess, labels)
        self.compute = compute or choose_compute()
        self.name = name
        placed = network.to(self.compute.device).eval()
        self.network = convert_conv3d_weight_memory_format(placed, torch.channels_last_3d)
        self._passages = Passages(
            self.network,
            patch_size=patch_size,
            choice=inference or InferenceChoice(),
            compute=self.compute,
            classes=len(labels),
            swapped=partner_permutation(labels),
            left_right_axis=next(axis for axis, code in enumerate(preprocessing.axcodes) if code in "LR"),
            windows_at_a_time=windows_at_a_time,
            max_ram_bytes=max_ram_bytes,
            max_vram_bytes=max_vram_bytes,
            shared_by=shared_by,
        )

    def plan(self, image: Slices, axis: int | None = None) -> NetworkPassage:
        """How an image would be gone through, and what memory that takes; see ``Segmenter.plan``."""
        along = None if axis is None else self._network_axis(image, axis)
        memory = postprocess_memory(image.grid.shape, self.labels.dtype, self.postprocess)
        return self._passages.choose(image, self.preprocessing, along, memory)

    def scores(self, image: Slices, plan: SegmentationPlan | None = None) -> RestoredScores:
        """Class scores (logits) on the image's own grid, computed slab by slab; see ``Segmenter.scores``.

        Raises:
            BundleError: While reading: the network gives another number of classes, or scores that are not
                finite.
        """
        chosen = self._own(image, plan)
        if chosen.inference.tiles:
            raise ResourceError(
                f"whole slabs of scores do not fit into memory, only {len(chosen.inference.tiles)} tiles one "
                "after the other",
                where=self.name,
                fix="allow more memory, or write labels alone",
            )
        return next(self.parts(image, chosen))

    def parts(self, image: Slices, plan: SegmentationPlan | None = None) -> Iterator[RestoredScores]:
        """Class scores of one tile of the image after the other; see ``Segmenter.parts``."""
        chosen = self._own(image, plan)
        statistics = image_statistics(image, self.preprocessing, image.name)
        for part in chosen.inference.parts:
            seen = NetworkImage(image, self.preprocessing, part.axis, statistics)
            yield RestoredScores.coming(
                ((start, scores[0]) for start, scores in self._slabs(seen, chosen, part)),
                seen.grid,
                image.grid,
                part.axis,
                tile=None if part.tile is None else chosen.margins.without(part.tile),
                where=self.name,
                classes=len(self.labels),
            )

    def segment(self, case: CaseLike) -> Volume:
        """The label map of an image, on the image's own grid; see ``Segmenter.segment``."""
        return segment_case(self, case)

    def _own(self, image: Slices, plan: SegmentationPlan | None) -> NetworkPassage:
        """The plan that is given, or one that is made."""
        if plan is None:
            return self.plan(image)
        if not isinstance(plan, NetworkPassage):
            raise TypeError(f"the plan of another method: {type(plan).__name__}")
        return plan

    def _network_axis(self, image: Slices, axis: int) -> int:
        """The network grid's axis that runs along one of the image's."""
        return slab_maps(self.preprocessing.network_grid(image.grid), image.grid)[axis].source_axis

    def _slabs(
        self, seen: NetworkImage, plan: NetworkPassage, part: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Scores of the network grid, (1, K, …) slab by slab."""
        shape = (*seen.shape[:2], *plan.margins.padded_size)
        once = _each_once(self._placed(seen)) if self._passages.mirrored_axes else self._placed(seen)
        read = plan.margins.around(once, part.axis)
        network = self._passages.seen_by(part.mode)
        slabs = plan.inferer.slabs(read, network, shape, part)
        return plan.margins.off(self._in_precision(slabs, part.mode), part.axis, part.tile)

    def _placed(self, seen: NetworkImage) -> Read:
        layout = torch.channels_last_3d
        return lambda start, stop: seen.read(start, stop).to(self.compute.device, memory_format=layout)

    def _in_precision(self, slabs: Iterator[tuple[int, Tensor]], mode: str) -> Iterator[tuple[int, Tensor]]:
        """Let the network compute in its precision while a slab is asked for; streams do so by themselves."""
        while True:
            with (
                torch.inference_mode(),
                torch.autocast(
                    self.compute.device.type,
                    dtype=self.compute.dtype,
                    enabled=mode != "streaming" and self.compute.dtype != torch.float32,
                ),
            ):
                slab = next(slabs, None)
            if slab is None:
                return
            yield slab


def _each_once(read: Read) -> Read:
    """Give the slices that were read last again without reading them: mirror images ask for the same ones."""
    last: dict[tuple[int, int], Tensor] = {}

    def reading(start: int, stop: int) -> Tensor:
        if (start, stop) not in last:
            last.clear()
            last[start, stop] = read(start, stop)
        return last[start, stop]

    return reading
