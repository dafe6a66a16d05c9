"""A network that is asked about an image and its mirror images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Mirrored"]


class Mirrored(nn.Module):
    """Mean of the class probabilities of all combinations of flips, as logarithms: scores like a network's.

    Args:
        network: From (B, C, X, Y, Z) to class scores (B, K, X, Y, Z).
        axes: Spatial axes along which images are flipped, from 0.
        swapped: For each class, the one that it becomes when left and right are exchanged.
        left_right_axis: The spatial axis from left to right.
    """

    def __init__(
        self, network: nn.Module, axes: Sequence[int], swapped: Sequence[int], left_right_axis: int
    ) -> None:
        super().__init__()
        self.network = network
        sizes = range(len(axes) + 1)
        self.flips = [flip for size in sizes for flip in itertools.combinations(axes, size)]
        self.swapped = list(swapped)
        self.left_right_axis = left_right_axis

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (B, K, X, Y, Z) whose softmax is the mean of the probabilities."""
        total: torch.Tensor | None = None
        for flip in self.flips:
            dims = [2 + axis for axis in flip]
            scores = self.network(images.flip(dims) if dims else images)
            scores = scores.flip(dims) if dims else scores
            if self.left_right_axis in flip:
                scores = scores[:, self.swapped]
            logs = functional.log_softmax(scores, dim=1)
            total = logs if total is None else torch.logaddexp(total, logs)
        if total is None:
            raise ValueError("there is nothing to average")
        return total - math.log(len(self.flips))
