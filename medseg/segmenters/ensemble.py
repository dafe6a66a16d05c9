"""Several segmenters as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medseg.errors import BundleError, ConfigError
from medseg.inference import Stage
from medseg.labels import LabelScheme
from medseg.segmenters.cases import segment_case
from medseg.segmenters.protocol import CaseLike, Segmenter
from medseg.volume import Volume

__all__ = ["EnsembleSegmenter", "MeanOfSoftmax"]


@dataclass(frozen=True)
class MeanOfSoftmax:
    """The mean of the members' class probabilities, a slab at a time.

    Attributes:
        members: Class scores (logits) on one grid.
    """

    members: tuple[Stage, ...]

    @property
    def length(self) -> int:
        """Number of slices along the last axis."""
        return self.members[0].length

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Probabilities (C, X, Y, stop - start)."""
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
        ConfigError: There is no member, or one is itself an ensemble, whose scores are no logits.
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
        for member in members[1:]:
            if (member.labels, member.channel_names) != (self.labels, self.channel_names):
                raise BundleError(
                    "the members of an ensemble differ in classes or channels",
                    fix="combine models that were trained for one and the same task",
                )

    def scores(self, image: Volume) -> MeanOfSoftmax:
        """Mean class probabilities on the image's own grid, computed slab by slab."""
        return MeanOfSoftmax(tuple(member.scores(image) for member in self.members))

    def segment(self, case: CaseLike) -> Volume:
        """The label map of an image, on the image's own grid; see ``Segmenter.segment``."""
        return segment_case(self, case)
