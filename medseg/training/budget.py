"""How long a training lasts, and the learning rate on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medseg.errors import ConfigError

__all__ = ["Budget", "learning_rate_factor"]

_POWER = 0.9


@dataclass(frozen=True)
class Budget:
    """Optimiser steps, minutes of training (validation included), or both; the first to run out ends it.

    With minutes, the learning rate follows the clock, and two runs differ; with steps alone, a training is a
    function of its seed.

    Attributes:
        max_steps: Optimiser steps.
        max_minutes: Wall-clock minutes, summed over resumed parts.

    Raises:
        ConfigError: Neither is given, or one is not positive and finite.
    """

    max_steps: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise ConfigError("a training needs an end", fix="give --max-steps or --max-minutes")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(
                f"{self.max_steps} steps are no training", where="--max-steps", fix="use 1 or more"
            )
        if self.max_minutes is not None and not 0.0 < self.max_minutes < math.inf:
            raise ConfigError(
                f"{self.max_minutes} minutes are no training",
                where="--max-minutes",
                fix="use a positive number",
            )

    def progress(self, steps: float, minutes: float) -> float:
        """How much of the budget is used, from 0 to 1.

        Example:
            >>> Budget(max_steps=200, max_minutes=10).progress(50, 5)
            0.5
        """
        parts = [0.0]
        if self.max_steps is not None:
            parts.append(steps / self.max_steps)
        if self.max_minutes is not None:
            parts.append(minutes / self.max_minutes)
        return min(1.0, max(parts))


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Part of the highest learning rate: a linear rise during ``warmup``, then (1 - progress) ** 0.9.

    Example:
        >>> learning_rate_factor(0.01, warmup=0.02), learning_rate_factor(1.0, warmup=0.02)
        (0.5, 0.0)
    """
    if progress < warmup:
        return progress / warmup
    return float((1.0 - (progress - warmup) / (1.0 - warmup)) ** _POWER)
