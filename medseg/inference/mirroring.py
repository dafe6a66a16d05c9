"""Test-time mirroring: a network asked about an image and its mirror images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import monai.inferers
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError, InputError
from medseg.inference.slabs import MemoryPlan, Read, SlabInferer
from medseg.labels import LabelScheme
from medseg.registry import did_you_mean

__all__ = [
    "ACTIVATIONS",
    "Mirrored",
    "MirroredSlabs",
    "flipped_back",
    "flips_of",
    "mean_scores",
    "partner_permutation",
]

ACTIVATIONS = ("softmax", "sigmoid")
"""What makes probabilities of scores: classes that exclude each other, or that do not."""

Flip = tuple[int, ...]


def partner_permutation(labels: LabelScheme) -> tuple[int, ...]:
    """For each class index, that of the same structure on the other side of the body, else itself.

    Example:
        >>> partner_permutation(LabelScheme.from_names({1: "left lung", 2: "heart", 3: "right lung"}))
        (0, 3, 2, 1)
    """
    partners = (labels.partner_index(index) for index in range(len(labels)))
    return tuple(index if partner is None else partner for index, partner in enumerate(partners))


def flips_of(axes: Iterable[int]) -> tuple[Flip, ...]:
    """Every set of axes that can be flipped, none at all first.

    Example:
        >>> flips_of((0, 2))
        ((), (0,), (2,), (0, 2))
    """
    chosen = tuple(axes)
    sizes = range(len(chosen) + 1)
    return tuple(flip for size in sizes for flip in itertools.combinations(chosen, size))


class Mirrored(nn.Module):
    """A network that answers with the mean of what it finds in an image and in its mirror images.

    All combinations of flips along ``axes`` are asked, one after the other. What is averaged is
    probabilities, for scores of different passes have no common zero. What comes back are logarithms of
    the mean probabilities (log odds for ``"sigmoid"``): scores whose softmax (sigmoid) is that mean, so that
    whatever takes a network's scores can take these.

    It is used like the network itself, on windows, on tiles or on whole images. Streaming cannot follow a
    flip within the network: there :class:`MirroredSlabs` mirrors from outside.

    Args:
        network: From (B, C, X, Y[, Z]) to scores (B, K, X', Y'[, Z']) of one map in the image's middle.
        axes: Spatial axes, from 0; none gives the network's own answer.
        swapped: For each class, the one that it becomes when left and right are exchanged, as
            :func:`partner_permutation` gives it. If not given, classes stay themselves.
        left_right_axis: The spatial axis from left to right (0 for images in RAS or LPS order).
        activation: ``"softmax"`` or ``"sigmoid"``.

    Raises:
        ConfigError: An axis is named twice or is none, ``swapped`` does not exchange classes in pairs, or
            the activation is unknown.

    Example:
        >>> mirrored = Mirrored(nn.Conv2d(1, 2, 3, padding=1), axes=(0, 1))
        >>> mirrored(torch.zeros(1, 1, 4, 5)).shape
        torch.Size([1, 2, 4, 5])
    """

    def __init__(
        self,
        network: nn.Module,
        axes: Sequence[int] = (0, 1, 2),
        swapped: Sequence[int] | None = None,
        left_right_axis: int = 0,
        activation: str = "softmax",
    ) -> None:
        super().__init__()
        _require_valid(axes, swapped, activation)
        self.network = network
        self.axes = tuple(axes)
        self.swapped = None if swapped is None else tuple(swapped)
        self.left_right_axis = left_right_axis
        self.activation = activation

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Scores (B, K, X', Y'[, Z']) whose softmax or sigmoid is the mean of the probabilities.

        Args:
            images: Shape (B, C, X, Y[, Z]).
            *args: Passed on to the network.
            **kwargs: Passed on to the network.
        """
        _require_within(self.axes, images.ndim - 2)

        def answers() -> Iterator[Tensor]:
            for flip in flips_of(self.axes):
                dims = _dims(flip)
                scores = self.network(images.flip(dims) if dims else images, *args, **kwargs)
                yield self._back(scores, flip)

        return mean_scores(answers(), self.activation)

    def _back(self, scores: Tensor, flip: Flip) -> Tensor:
        return flipped_back(scores, flip, self.swapped, self.left_right_axis)


class MirroredSlabs(monai.inferers.Inferer):  # type: ignore[misc]
    """An inferer that goes through an image and its mirror images side by side, a slab at a time.

    What :class:`Mirrored` is to a network, this is to an inferer: the mirror images are streamed in
    lockstep, each with memory of its own, and nothing of the network needs to be known. Images are flipped
    in the plane of the slabs alone: the first slab of an image that is flipped along the axis in which it is
    read would be ready last.

    Args:
        inferer: Streams slabs, with ``reduce=None``.
        axes: As in :class:`Mirrored`; none of them may be the one that ``inferer`` goes along.
        swapped: As in :class:`Mirrored`.
        left_right_axis: As in :class:`Mirrored`.
        activation: As in :class:`Mirrored`.

    Raises:
        ConfigError: As in :class:`Mirrored`.
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
        _require_valid(axes, swapped, activation)
        self.inferer = inferer
        self.axes = tuple(axes)
        self.swapped = None if swapped is None else tuple(swapped)
        self.left_right_axis = left_right_axis
        self.activation = activation

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
        plan = self.plan(network, tuple(plain.shape))
        dim = 2 + plan.axis

        def read(start: int, stop: int) -> Tensor:
            return plain.narrow(dim, start, stop - start)

        result: Tensor | None = None
        for start, slab in self.slabs(read, network, tuple(plain.shape), plan):
            if result is None:
                size = [*slab.shape[:2], *plain.shape[2:]]
                result = slab.new_empty(size, dtype=plain.dtype if plain.is_floating_point() else slab.dtype)
            result.narrow(dim, start, slab.shape[dim]).copy_(slab)
        if result is None:
            raise InputError(f"an image of shape {tuple(plain.shape)} has no slices", fix="give another")
        if isinstance(inputs, MetaTensor):
            return cast(Tensor, MetaTensor(result).copy_meta_from(inputs))
        return result

    def plan(self, network: nn.Module, shape: tuple[int, ...]) -> MemoryPlan:
        """The inferer's plan with memory for every mirror image; see ``SlabInferer``.

        Raises:
            ConfigError: The inferer goes along an axis that is to be flipped, besides its own reasons.
        """
        _require_within(self.axes, len(shape) - 2)
        plan = self.inferer.plan(network, shape)
        if plan.axis in self.axes:
            raise ConfigError(
                f"images cannot be flipped along axis {plan.axis}, along which they are streamed",
                where="mirroring",
                fix=f"leave axis {plan.axis} out, or stream along another",
            )
        count = len(flips_of(self.axes))
        by_stage = {stage: count * size for stage, size in plan.by_stage.items()}
        details = {**plan.details, "mirrored_axes": list(self.axes)}
        return MemoryPlan(plan.mode, plan.axis, plan.slab, by_stage, details)

    def slabs(
        self, read: Read, network: nn.Module, shape: tuple[int, ...], plan: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Scores as of :class:`Mirrored`, slab by slab; see ``SlabInferer``.

        The image is read once for each mirror image.
        """
        flips = flips_of(self.axes)
        streams = [self.inferer.slabs(_flipped_read(read, flip), network, shape, plan) for flip in flips]
        for slabs in zip(*streams, strict=True):
            scores = (
                flipped_back(slab, flip, self.swapped, self.left_right_axis)
                for (_, slab), flip in zip(slabs, flips, strict=True)
            )
            yield slabs[0][0], mean_scores(scores, self.activation)


def mean_scores(scores: Iterable[Tensor], activation: str = "softmax") -> Tensor:
    """Scores whose probabilities are the mean of those of ``scores``.

    Sums of probabilities are taken by their logarithms, so that none is rounded to zero and the result is
    as finite as the scores.

    Args:
        scores: Each (B, K, ...); one is held at a time.
        activation: ``"softmax"`` over the K classes, or ``"sigmoid"`` for each alone.

    Raises:
        ConfigError: There is no more than one class, of which softmax is sure whatever its score.

    Example:
        >>> first, second = torch.tensor([[[2.0], [0.0]]]), torch.tensor([[[0.0], [2.0]]])
        >>> mean_scores([first, second]).softmax(1).flatten()
        tensor([0.5000, 0.5000])
    """
    count = 0
    total: tuple[Tensor, ...] = ()
    for entry in scores:
        count += 1
        logs = _log_probabilities(entry, activation)
        total = logs if not total else tuple(map(torch.logaddexp, total, logs))
    if count == 0:
        raise ConfigError("there are no scores to average", fix="give at least one")
    # The mean's logarithm is smaller by that of the count; between log odds it cancels out.
    return total[0] - total[1] if activation == "sigmoid" else total[0] - math.log(count)


def flipped_back(scores: Tensor, flip: Flip, swapped: Sequence[int] | None, left_right_axis: int) -> Tensor:
    """The scores of a mirror image, brought back onto the image.

    Args:
        scores: Shape (B, K, X, Y[, Z]).
        flip: Spatial axes along which the image was flipped.
        swapped: What each class becomes where left and right are exchanged.
        left_right_axis: The axis whose flip does that.
    """
    if flip:
        scores = scores.flip(_dims(flip))
    if swapped is None or left_right_axis not in flip:
        return scores
    if len(swapped) != scores.shape[1]:
        raise ConfigError(
            f"swapped names {len(swapped)} classes, the network gives {scores.shape[1]}",
            fix="derive it from the labels that the network was trained on",
        )
    return scores.index_select(1, torch.tensor(swapped, device=scores.device))


def _log_probabilities(scores: Tensor, activation: str) -> tuple[Tensor, ...]:
    """Logarithms of the probabilities of the classes; for ``"sigmoid"`` also of their being absent."""
    if activation == "sigmoid":
        return functional.logsigmoid(scores), functional.logsigmoid(-scores)
    if scores.shape[1] < 2:
        raise ConfigError(
            "of a single class, softmax is sure whatever its score", fix="use activation='sigmoid'"
        )
    return (functional.log_softmax(scores, dim=1),)


def _flipped_read(read: Read, flip: Flip) -> Read:
    dims = _dims(flip)
    return (lambda start, stop: read(start, stop).flip(dims)) if flip else read


def _dims(flip: Flip) -> list[int]:
    return [2 + axis for axis in flip]


def _require_valid(axes: Sequence[int], swapped: Sequence[int] | None, activation: str) -> None:
    if len(set(axes)) != len(axes) or any(axis not in range(3) for axis in axes):
        raise ConfigError(
            f"{tuple(axes)} are no spatial axes", where="axes", fix="name each of 0, 1 and 2 once at most"
        )
    pairs = () if swapped is None else tuple(swapped)
    if sorted(pairs) != list(range(len(pairs))) or any(pairs[pairs[i]] != i for i in range(len(pairs))):
        raise ConfigError(
            f"{pairs} does not exchange classes in pairs", where="swapped", fix="use partner_permutation"
        )
    if activation not in ACTIVATIONS:
        fix = did_you_mean(activation, ACTIVATIONS)
        raise ConfigError(f"unknown activation '{activation}'", where="activation", fix=fix)


def _require_within(axes: Sequence[int], spatial_dims: int) -> None:
    if any(axis >= spatial_dims for axis in axes):
        raise ConfigError(
            f"there is no axis {max(axes)} in an image of {spatial_dims} axes",
            where="axes",
            fix="name axes from 0",
        )
