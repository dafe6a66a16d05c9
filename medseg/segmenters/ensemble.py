"""Several segmenters as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from medseg.errors import BundleError, ConfigError
from medseg.inference import Stage
from medseg.labels import LabelScheme
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.cases import segment_case
from medseg.segmenters.protocol import CaseLike, Segmenter
from medseg.segmenters.segmentation_plan import SegmentationPlan
from medseg.volume import Slices, Volume

__all__ = ["EnsembleSegmenter", "MeanOfSoftmax"]

_ONCE = ("process", "label map")  # what members do not take each of their own


@dataclass(frozen=True)
class MeanOfSoftmax:
    """The mean of the members' class probabilities, a slab at a time.

    Attributes:
        members: Class scores (logits) on one grid.
    """

    members: tuple[Stage, ...]

    @property
    def axis(self) -> int:
        """The spatial axis along which slices are read, that of all members."""
        return self.members[0].axis

    @property
    def ascending(self) -> bool:
        """Whether slices are read from the first to the last, as of all members."""
        return self.members[0].ascending

    @property
    def length(self) -> int:
        """Number of slices along the axis."""
        return self.members[0].length

    @property
    def box(self) -> Sequence[tuple[int, int]]:
        """Voxels of the image that scores are given of."""
        return self.members[0].box

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Probabilities of slices [start, stop), of shape (C, X, Y, Z)."""
        first, *others = self.members
        total = torch.softmax(first.read(start, stop), dim=0)
        for member in others:
            total += torch.softmax(member.read(start, stop), dim=0).to(total.device)
        return total / len(self.members)


class EnsembleSegmenter:
    """Segments by the mean of its members' class probabilities.

    Args:
        members: Segmenters of the same classes and channels whose scores are logits, such as the folds of a
            run, or runs of different networks.

    Raises:
        ConfigError: There is no member, one is itself an ensemble, whose scores are no logits, or members
            differ in what is done to label maps.
        BundleError: Members differ in classes or channels.
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        if not members:
            raise ConfigError("an ensemble needs a member")
        if any(isinstance(member, EnsembleSegmenter) for member in members):
            raise ConfigError("an ensemble cannot be a member of another", fix="give its members instead")
        self.members = tuple(members)
        self.labels: LabelScheme = members[0].labels
        self.channel_names: tuple[str, ...] = members[0].channel_names
        self.postprocess: PostprocessChoice = members[0].postprocess
        for member in members[1:]:
            if (member.labels, member.channel_names) != (self.labels, self.channel_names):
                raise BundleError(
                    "the members of an ensemble differ in classes or channels",
                    fix="combine models that were trained for one and the same task",
                )
            if member.postprocess != self.postprocess:
                raise ConfigError(
                    "the members of an ensemble differ in postprocessing",
                    fix="choose one for all by --postprocess",
                )

    def plan(self, image: Slices, axis: int | None = None) -> SegmentationPlan:
        """The first member's plan with those of the others beside it; see ``Segmenter.plan``.

        All go along the axis that is best for the first member.
        """
        first = self.members[0].plan(image, axis)
        native = first.native_axis(image.grid)
        others = tuple(member.plan(image, native) for member in self.members[1:])
        parts = dict(first.by_part)
        for plan in others:
            for name, count in plan.by_part.items():
                parts[name] = count if name in _ONCE else parts.get(name, 0) + count
        return replace(first, by_part=parts, others=others)

    def scores(self, image: Slices, plan: SegmentationPlan | None = None) -> MeanOfSoftmax:
        """Mean class probabilities on the image's own grid, computed slab by slab; see ``Segmenter.scores``.

        Raises:
            ConfigError: Members see the image in orientations that run against each other along this axis.
        """
        chosen = self.plan(image) if plan is None else plan
        plans = (chosen, *chosen.others)
        stages = tuple(member.scores(image, own) for member, own in zip(self.members, plans, strict=True))
        if len({stage.ascending for stage in stages}) > 1:
            raise ConfigError(
                f"members of the ensemble go through axis {stages[0].axis} in opposite directions",
                fix="combine models of one orientation",
            )
        return MeanOfSoftmax(stages)

    def parts(self, image: Slices, plan: SegmentationPlan | None = None) -> Iterator[MeanOfSoftmax]:
        """The whole image in one part; see ``Segmenter.parts``."""
        yield self.scores(image, plan)

    def segment(self, case: CaseLike) -> Volume:
        """The label map of an image, on the image's own grid; see ``Segmenter.segment``."""
        return segment_case(self, case)
