"""How long a training lasts, and the learning rate on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medseg.errors import ConfigError

__all__ = ["Budget", "learning_rate_factor"]

_POWER = 0.9


@dataclass(frozen=True)
class Budget:
    """Optimiser steps, minutes of training, or minutes of processors; the first to run out ends it.

    Minutes include validation. With minutes, the learning rate follows the clock, and two runs differ; with
    steps alone, a training is a function of its seed.

    Attributes:
        max_steps: Optimiser steps.
        max_minutes: Wall-clock minutes, summed over resumed parts.
        max_cpu_minutes: CPU minutes of the process and its workers, summed over resumed parts: what two
            trainings can be compared by on a machine that does other work.

    Raises:
        ConfigError: None is given, or one is not positive and finite.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    max_cpu_minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.max_steps, self.max_minutes, self.max_cpu_minutes) == (None, None, None):
            raise ConfigError(
                "a training needs an end", fix="give --max-steps, --max-minutes or --max-cpu-minutes"
            )
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(
                f"{self.max_steps} steps are no training", where="--max-steps", fix="use 1 or more"
            )
        for option, minutes in (
            ("--max-minutes", self.max_minutes),
            ("--max-cpu-minutes", self.max_cpu_minutes),
        ):
            if minutes is not None and not 0.0 < minutes < math.inf:
                raise ConfigError(
                    f"{minutes} minutes are no training", where=option, fix="use a positive number"
                )

    @property
    def follows_the_clock(self) -> bool:
        """Whether minutes of any kind have a say."""
        return self.max_minutes is not None or self.max_cpu_minutes is not None

    def progress(self, steps: float, minutes: float, cpu_minutes: float = 0.0) -> float:
        """How much of the budget is used, from 0 to 1.

        Example:
            >>> Budget(max_steps=200, max_minutes=10).progress(50, 5)
            0.5
        """
        parts = [0.0]
        for used, most in (
            (steps, self.max_steps),
            (minutes, self.max_minutes),
            (cpu_minutes, self.max_cpu_minutes),
        ):
            if most is not None:
                parts.append(used / most)
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
