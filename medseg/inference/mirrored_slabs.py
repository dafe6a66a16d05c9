"""Test-time mirroring from outside: mirror images streamed side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import monai.inferers
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.inference.allocator import ALLOCATOR_STAGE
from medseg.inference.mirroring import Flip, Mirroring, mean_scores
from medseg.inference.slabs import WORK_STAGE, Box, MemoryPlan, MemoryShortage, Read, SlabInferer

__all__ = ["MirroredSlabs"]

_TAKING_TURNS = (WORK_STAGE, ALLOCATOR_STAGE)
"""Stages that one stream after the other takes; the others are held by each of them."""

_SLABS_TO_AVERAGE = {"softmax": 4, "sigmoid": 7}
"""Slabs of scores that there are at once while a mean is made of those that the streams hold: the mean so far
and the one that replaces it, the next mirror image brought back, and its logarithms."""


class MirroredSlabs(monai.inferers.Inferer):  # type: ignore[misc]
    """An inferer that goes through an image and its mirror images side by side, a slab at a time.

    What :class:`~medseg.inference.Mirrored` is to a network, this is to an inferer: the mirror images are
    streamed in lockstep, each with memory of its own, and nothing of the network needs to be known. Images
    are flipped in the plane of the slabs alone: the first slab of an image that is flipped along the axis in
    which it is read would be ready last.

    Args:
        inferer: Streams slabs, with ``reduce=None``.
        axes: As in ``Mirrored``; none of them may be the one that ``inferer`` goes along.
        swapped: As in ``Mirrored``.
        left_right_axis: As in ``Mirrored``.
        activation: As in ``Mirrored``.

    Raises:
        ConfigError: As in ``Mirrored``.
    """

    def __init__(
        self,
        inferer: SlabInferer,
        axes: Sequence[int],
        swapped: Sequence[int] | None = None,
        left_right_axis: int = 0,
        activation: str = "softmax",
    ) -> None:
        super().__init__()
        self.inferer = inferer
        self.mirroring = Mirroring.of(axes, swapped, left_right_axis, activation)

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Scores of a whole image, (B, K, X, Y[, Z]).

        Args:
            inputs: Shape (B, C, X, Y[, Z]); a MetaTensor comes back as one.
            network: As the inferer takes it.
            *args: None are taken.
            **kwargs: None are taken.
        """
        if args or kwargs:
            raise ConfigError("the network is given the image alone", fix="leave further arguments out")
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        plan = self.plan(network, tuple(plain.shape), result=True)
        result: Tensor | None = None
        for part in plan.parts:
            for box, scores in self._pieces(plain, network, part):
                if result is None:
                    dtype = plain.dtype if plain.is_floating_point() else scores.dtype
                    result = scores.new_empty((*scores.shape[:2], *plain.shape[2:]), dtype=dtype)
                place = (slice(None), slice(None), *(slice(start, stop) for start, stop in box))
                result[place] = scores
        if result is None:
            raise InputError(f"an image of shape {tuple(plain.shape)} has no slices", fix="give another")
        if isinstance(inputs, MetaTensor):
            return cast(Tensor, MetaTensor(result).copy_meta_from(inputs))
        return result

    def plan(self, network: nn.Module, shape: tuple[int, ...], *, result: bool = False) -> MemoryPlan:
        """The inferer's plan with memory for every mirror image; see ``SlabInferer``.

        The inferer's own memory limit is that of one mirror image alone.

        Raises:
            ConfigError: The inferer goes along an axis that is to be flipped, or cuts into tiles what gives
                other scores than one for each voxel; besides its own reasons.
        """
        self.mirroring.require_within(len(shape) - 2)
        axes, count = self.mirroring.axes, len(self.mirroring.flips)
        try:
            plan = self.inferer.plan(network, shape)
        except MemoryShortage as error:
            error.least_bytes *= count
            raise
        if plan.axis in axes:
            raise ConfigError(
                f"images cannot be flipped along axis {plan.axis}, along which they are streamed",
                where="mirroring",
                fix=f"leave axis {plan.axis} out, or stream along another",
            )
        if plan.tiles and any(plan.tiles[-1].own[axis][1] != shape[2 + axis] for axis in axes):
            raise ConfigError(
                "tiles of mirror images need a score for each voxel",
                where="mirroring",
                fix="allow more memory",
            )
        by_stage = {
            stage: size if stage in _TAKING_TURNS else count * size for stage, size in plan.by_stage.items()
        }
        # The mean that was given last is still held; where it is made, no layer is at work.
        averaging = _SLABS_TO_AVERAGE[self.mirroring.activation] * plan.slab_bytes
        by_stage["mean"] = plan.slab_bytes + max(0, averaging - plan.by_stage.get(WORK_STAGE, 0))
        if result:
            by_stage["whole result"] = _scores_bytes(plan, shape)
        return replace(plan, by_stage=by_stage, details={**plan.details, "mirrored_axes": list(axes)})

    def slabs(
        self, read: Read, network: nn.Module, shape: tuple[int, ...], plan: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Scores as of ``Mirrored``, slab by slab; see ``SlabInferer``.

        The image is read once for each mirror image.
        """
        flips = self.mirroring.flips
        first, *others = [
            self.inferer.slabs(_flipped_read(read, flip), network, shape, _flipped_part(plan, flip, shape))
            for flip in flips
        ]
        for start, slab in first:
            slabs = [slab, *(next(stream)[1] for stream in others)]
            scores = map(self.mirroring.back, slabs, flips)
            yield start, mean_scores(scores, self.mirroring.activation)
            del slab, slabs, scores  # they need not wait for the next

    def _pieces(self, image: Tensor, network: nn.Module, part: MemoryPlan) -> Iterator[tuple[Box, Tensor]]:
        """Voxels [start, stop) along each axis, and their scores."""
        dim, shape = 2 + part.axis, tuple(image.shape)

        def read(start: int, stop: int) -> Tensor:
            return image.narrow(dim, start, stop - start)

        box = [(0, length) for length in shape[2:]] if part.tile is None else list(part.tile.scores)
        for start, slab in self.slabs(read, network, shape, part):
            box[part.axis] = (start, start + slab.shape[dim])
            yield tuple(box), slab


def _flipped_read(read: Read, flip: Flip) -> Read:
    dims = [2 + axis for axis in flip]
    return (lambda start, stop: read(start, stop).flip(dims)) if flip else read


def _flipped_part(plan: MemoryPlan, flip: Flip, shape: tuple[int, ...]) -> MemoryPlan:
    """The plan for the part of the mirror image in which the part of the image is seen."""
    if plan.tile is None:
        return plan

    def flipped(box: Box) -> Box:
        return tuple(
            (length - stop, length - start) if axis in flip else (start, stop)
            for axis, ((start, stop), length) in enumerate(zip(box, shape[2:], strict=True))
        )

    tile = replace(
        plan.tile,
        reads=flipped(plan.tile.reads),
        scores=flipped(plan.tile.scores),
        own=flipped(plan.tile.own),
    )
    return replace(plan, tile=tile)


def _scores_bytes(plan: MemoryPlan, shape: tuple[int, ...]) -> int:
    """Scores of a whole image, one of each class for each voxel, in single precision."""
    boxes = [tile.scores for tile in plan.tiles] or [tuple((0, length) for length in shape[2:])]
    slab: list[int] = [max(stop - start for start, stop in spans) for spans in zip(*boxes, strict=True)]
    slab[plan.axis] = min(plan.slab, shape[2 + plan.axis])
    voxels: int = math.prod(shape[2:])
    return plan.slab_bytes * voxels // math.prod(slab)
