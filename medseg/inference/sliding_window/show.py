"""Showing windows to a network, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medseg.errors import ConfigError
from medseg.inference.sliding_window.layout import Visit
from medseg.inference.sliding_window.outputs import flatten, pack

__all__ = ["Show"]


@dataclass
class Show:
    """Cuts windows, and has the network work on them.

    Attributes:
        network: Takes windows (N, C, *window), and their places where ``with_coord`` is set.
        cut: Gives the window of a visit, (1, C, *window).
        window: Its voxels along each axis.
        weights: Of a window's voxels, (*window) or (1, 1, *window).
        device: Where the network works.
        with_coord: Tell the network where windows lie.
        cut_condition: Gives the window of a second image, which the network takes as ``condition``.
        process_fn: Changes what the network made, and the weights.
        args: Passed on to the network.
        kwargs: Passed on to the network.
    """

    network: Callable[..., Any]
    cut: Callable[[Visit], Tensor]
    window: tuple[int, ...]
    weights: Tensor
    device: torch.device
    with_coord: bool = False
    cut_condition: Callable[[Visit], Tensor] | None = None
    process_fn: Callable[..., Any] | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, visits: Sequence[Visit]) -> tuple[Any, Tensor]:
        """What the network makes of windows, and their weights, (1, 1, *window).

        Raises:
            ConfigError: The weights are of another shape.
        """
        windows = self._together(self.cut, visits)
        kwargs = dict(self.kwargs)
        if self.cut_condition is not None:
            kwargs["condition"] = self._together(self.cut_condition, visits)
        places = [[self._place(visit) for visit in visits]] if self.with_coord else []
        made = self.network(windows, *places, *self.args, **kwargs)
        weights = self.weights
        if self.process_fn is not None:
            keys, tensors = flatten(made)
            tensors, weights = self.process_fn(tensors, windows, weights)
            made = pack(keys, tensors)
        if weights.ndim == len(self.window):
            weights = weights[None, None]
        if weights.shape != (1, 1, *self.window):
            raise ConfigError(
                f"weights of shape {tuple(weights.shape)} are given for windows of {self.window} voxels",
                where="roi_weight_map" if self.process_fn is None else "process_fn",
                fix="give one weight for each voxel of a window",
            )
        return made, weights

    def _together(self, cut: Callable[[Visit], Tensor], visits: Sequence[Visit]) -> Tensor:
        windows = [cut(visit) for visit in visits]
        return (windows[0] if len(windows) == 1 else torch.cat(windows)).to(self.device)

    def _place(self, visit: Visit) -> list[slice]:
        spans = (slice(at, at + size) for at, size in zip(visit.corner, self.window, strict=True))
        return [slice(visit.image, visit.image + 1), slice(None), *spans]
