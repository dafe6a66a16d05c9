"""What may differ between two fits of one recipe."""

from __future__ import annotations

from dataclasses import dataclass

from medseg.errors import ConfigError
from medseg.training import TrainingOptions

__all__ = ["FitOptions"]


@dataclass(frozen=True)
class FitOptions(TrainingOptions):
    """What may differ between two fits of one recipe on one data set.

    Of the options of a training, methods other than networks know ``seed`` and ``resume``.

    Attributes:
        jobs: Processes that a method other than a network may use.

    Raises:
        ConfigError: As ``TrainingOptions``, or fewer than one process.
    """

    jobs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jobs < 1:
            raise ConfigError(f"{self.jobs} processes are none", where="--jobs", fix="use 1 or more")
