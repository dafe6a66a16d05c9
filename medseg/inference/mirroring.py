"""Test-time mirroring: a network asked about an image and its mirror images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError, did_you_mean
from medseg.labels import LabelScheme

__all__ = ["ACTIVATIONS", "Flip", "Mirrored", "Mirroring", "flips_of", "mean_scores", "partner_permutation"]

ACTIVATIONS = ("softmax", "sigmoid")
"""What makes probabilities of scores: classes that exclude each other, or that do not."""

Flip = tuple[int, ...]
"""Spatial axes along which an image is flipped."""


def partner_permutation(labels: LabelScheme) -> tuple[int, ...]:
    """For each class index, that of the same structure on the other side of the body, else itself.

    Example:
        >>> partner_permutation(LabelScheme.from_names({1: "left lung", 2: "heart", 3: "right lung"}))
        (0, 3, 2, 1)
    """
    return labels.partners


def flips_of(axes: Iterable[int]) -> tuple[Flip, ...]:
    """Every set of axes that can be flipped, none at all first.

    Example:
        >>> flips_of((0, 2))
        ((), (0,), (2,), (0, 2))
    """
    chosen = tuple(axes)
    sizes = range(len(chosen) + 1)
    return tuple(flip for size in sizes for flip in itertools.combinations(chosen, size))


@dataclass(frozen=True)
class Mirroring:
    """Which mirror images are asked about, and how what they say is brought back onto the image.

    Attributes:
        axes: Spatial axes, from 0, all combinations of which are flipped.
        swapped: What each class becomes where left and right are exchanged; ``None`` if that is itself.
        left_right_axis: The axis whose flip does that.
        activation: One of :data:`ACTIVATIONS`.

    Raises:
        ConfigError: An axis is named twice or is none, ``swapped`` does not exchange classes in pairs, or
            the activation is unknown.
    """

    axes: Flip
    swapped: tuple[int, ...] | None
    left_right_axis: int
    activation: str

    def __post_init__(self) -> None:
        if len(set(self.axes)) != len(self.axes) or any(axis not in range(3) for axis in self.axes):
            raise ConfigError(
                f"{self.axes} are no spatial axes", where="axes", fix="name each of 0, 1 and 2 once at most"
            )
        pairs = self.swapped or ()
        if sorted(pairs) != list(range(len(pairs))) or any(pairs[pairs[i]] != i for i in range(len(pairs))):
            raise ConfigError(
                f"{pairs} does not exchange classes in pairs", where="swapped", fix="use partner_permutation"
            )
        if self.activation not in ACTIVATIONS:
            fix = did_you_mean(self.activation, ACTIVATIONS)
            raise ConfigError(f"unknown activation '{self.activation}'", where="activation", fix=fix)

    @classmethod
    def of(
        cls, axes: Sequence[int], swapped: Sequence[int] | None, left_right_axis: int, activation: str
    ) -> Mirroring:
        """From any sequences."""
        return cls(tuple(axes), None if swapped is None else tuple(swapped), left_right_axis, activation)

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The image itself first, then all mirror images."""
        return flips_of(self.axes)

    def require_within(self, spatial_dims: int) -> None:
        """Refuse images that lack an axis.

        Raises:
            ConfigError: There is an axis to flip that images of so many axes have not.
        """
        if any(axis >= spatial_dims for axis in self.axes):
            raise ConfigError(
                f"there is no axis {max(self.axes)} in an image of {spatial_dims} axes",
                where="axes",
                fix="name axes from 0",
            )

    def back(self, scores: Tensor, flip: Flip) -> Tensor:
        """The scores of a mirror image, (B, K, X, Y[, Z]), brought back onto the image.

        Raises:
            ConfigError: There are other classes than ``swapped`` has.
        """
        if flip:
            scores = scores.flip(_dims(flip))
        if self.swapped is None or self.left_right_axis not in flip:
            return scores
        if len(self.swapped) != scores.shape[1]:
            raise ConfigError(
                f"swapped names {len(self.swapped)} classes, the network gives {scores.shape[1]}",
                fix="derive it from the labels that the network was trained on",
            )
        return scores.index_select(1, torch.tensor(self.swapped, device=scores.device))


class Mirrored(nn.Module):
    """A network that answers with the mean of what it finds in an image and in its mirror images.

    All combinations of flips along ``axes`` are asked, one after the other. What is averaged is
    probabilities, for scores of different passes have no common zero. What comes back are logarithms of
    the mean probabilities (log odds for ``"sigmoid"``): scores whose softmax (sigmoid) is that mean, so that
    whatever takes a network's scores can take these.

    It is used like the network itself, on windows, on tiles or on whole images. Streaming cannot follow a
    flip within the network: there ``MirroredSlabs`` mirrors from outside.

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
        self.network = network
        self.mirroring = Mirroring.of(axes, swapped, left_right_axis, activation)

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Scores (B, K, X', Y'[, Z']) whose softmax or sigmoid is the mean of the probabilities.

        Args:
            images: Shape (B, C, X, Y[, Z]).
            *args: Passed on to the network.
            **kwargs: Passed on to the network.
        """
        self.mirroring.require_within(images.ndim - 2)

        def answers() -> Iterator[Tensor]:
            for flip in self.mirroring.flips:
                dims = _dims(flip)
                scores = self.network(images.flip(dims) if dims else images, *args, **kwargs)
                yield self.mirroring.back(scores, flip)

        return mean_scores(answers(), self.mirroring.activation)


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
        del entry, logs  # they need not wait for the next
    if count == 0:
        raise ConfigError("there are no scores to average", fix="give at least one")
    # The mean's logarithm is smaller by that of the count; between log odds it cancels out.
    return total[0] - total[1] if activation == "sigmoid" else total[0] - math.log(count)


def _log_probabilities(scores: Tensor, activation: str) -> tuple[Tensor, ...]:
    """Logarithms of the probabilities of the classes; for ``"sigmoid"`` also of their being absent."""
    if activation == "sigmoid":
        return functional.logsigmoid(scores), functional.logsigmoid(-scores)
    if scores.shape[1] < 2:
        raise ConfigError(
            "of a single class, softmax is sure whatever its score", fix="use activation='sigmoid'"
        )
    return (functional.log_softmax(scores, dim=1),)


def _dims(flip: Flip) -> list[int]:
    return [2 + axis for axis in flip]
