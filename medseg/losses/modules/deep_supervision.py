"""A loss over several levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError
from medseg.losses.functional.levels import deep_supervision_weights, nearest_resize
from medseg.losses.modules.base import SegmentationLoss

__all__ = ["DeepSupervisionLoss"]


class DeepSupervisionLoss(nn.Module):
    """A loss over several levels: targets come down to each level's grid by the nearest voxel.

    Args:
        loss: What to compute at each level, called ``(input, target, weight_map)``.
        weights: One a level, the finest first; if not given each is half the one before, together one.

    Example:
        >>> from medseg.losses import DiceCELoss
        >>> loss = DeepSupervisionLoss(DiceCELoss(softmax=True, to_onehot_y=True))
        >>> target = torch.tensor([[0, 0, 1, 1]]).expand(1, 1, 4, 4)
        >>> fine, coarse = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
        >>> round(loss([fine, coarse], target).item(), 4)
        1.1931
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)

    def forward(
        self, inputs: Sequence[Tensor] | Tensor, target: Tensor, weight_map: Tensor | None = None
    ) -> Tensor:
        """The weighted sum over levels.

        Args:
            inputs: Scores of each level, each (B, C, X, Y[, Z]) on its own grid, the finest first; one
                tensor is one level.
            target: On the finest grid.
            weight_map: On the finest grid.

        Raises:
            ConfigError: There are not as many weights as levels.
            InputError: There is no level, or shapes do not fit.
        """
        levels = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if not levels:
            raise InputError("holds no level", where="inputs", fix="pass one score map or more")
        weights = deep_supervision_weights(len(levels)) if self.weights is None else self.weights
        if len(weights) != len(levels):
            raise ConfigError(
                f"{len(weights)} weights for {len(levels)} levels", where="weights", fix="give one a level"
            )
        terms = []
        for weight, scores in zip(weights, levels, strict=True):
            size = scores.shape[2:]
            voxel_weights = None if weight_map is None else nearest_resize(weight_map, size)
            options = self._options(target.shape[2:], size)
            terms.append(weight * self.loss(scores, nearest_resize(target, size), voxel_weights, **options))
        return torch.stack(terms).sum()

    def _options(self, finest: Sequence[int], size: Sequence[int]) -> dict[str, tuple[float, ...]]:
        """Our own losses are told how large a voxel is; others, as MONAI's, would not take it."""
        if not isinstance(self.loss, SegmentationLoss):
            return {}
        return {"voxel_scale": tuple(old / new for old, new in zip(finest, size, strict=True))}
