"""A trained network as a segmenter."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.memory_format import convert_conv3d_weight_memory_format

from medseg.errors import BundleError
from medseg.inference import Compute, RestoredScores, SlidingWindowInferer, choose_compute
from medseg.labels import LabelScheme
from medseg.runs import PreprocessingSpec
from medseg.runs.recipe import InferenceChoice
from medseg.segmenters.cases import segment_case
from medseg.segmenters.protocol import CaseLike
from medseg.transforms import preprocess
from medseg.volume import Volume

__all__ = ["NetworkSegmenter"]


class NetworkSegmenter:
    """Segments with a network on a sliding window.

    Args:
        network: From (B, C, X, Y, Z) to class scores (B, K, X, Y, Z); moved to the device, set to evaluation.
        labels: Its K classes.
        channel_names: The C channels of an image.
        preprocessing: What is done to an image before the network sees it.
        patch_size: Voxels of the window along each axis of the network grid.
        inference: How windows overlap and blend.
        windows_at_a_time: How many windows the network sees at once.
        compute: Device and precision; chosen by what there is if left out.
        name: What it is called in errors, such as the file of its weights.

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
        windows_at_a_time: int = 1,
        compute: Compute | None = None,
        name: str = "the network",
    ) -> None:
        inference = inference or InferenceChoice()
        self.labels = labels
        self.channel_names = channel_names
        self.preprocessing = preprocessing
        self.compute = compute or choose_compute()
        self.name = name
        self.inferer = SlidingWindowInferer(patch_size, windows_at_a_time, inference.overlap, inference.blend)
        placed = network.to(self.compute.device).eval()
        self._network = convert_conv3d_weight_memory_format(placed, torch.channels_last_3d)

    def scores(self, image: Volume) -> RestoredScores:
        """Class scores (logits) on the image's own grid, interpolated slab by slab.

        Raises:
            BundleError: The network gives another number of classes, or scores that are not finite.
        """
        seen = preprocess(image, self.preprocessing)
        batch = torch.from_numpy(seen.array).unsqueeze(0)
        with torch.inference_mode(), self.compute.autocast():
            batch = batch.to(self.compute.device, memory_format=torch.channels_last_3d)
            scores = self.inferer(batch, self._network)[0]
            self._check(scores)
        return RestoredScores(scores, seen.grid, image.grid)

    def segment(self, case: CaseLike) -> Volume:
        """The label map of an image, on the image's own grid; see ``Segmenter.segment``."""
        return segment_case(self, case)

    def _check(self, scores: torch.Tensor) -> None:
        if len(scores) != len(self.labels):
            raise BundleError(
                f"gives {len(scores)} classes, {len(self.labels)} are declared",
                where=self.name,
                fix="use the weights and the plan of one and the same training",
            )
        if not all(channel.isfinite().all() for channel in scores):
            raise BundleError(
                "gives scores that are NaN or infinite",
                where=self.name,
                fix="try --precision float32, or another checkpoint",
            )
