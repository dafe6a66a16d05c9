"""What may differ between two trainings of one recipe."""

from __future__ import annotations

from dataclasses import dataclass

from medseg.errors import ConfigError
from medseg.training.budget import Budget

__all__ = ["TrainingOptions"]


@dataclass(frozen=True)
class TrainingOptions:
    """What may differ between two trainings of one recipe on one data set.

    Attributes:
        budget: When it ends; the recipe's ``max_steps`` if left out.
        seed: Of initialisation, patches and augmentation.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        workers: Processes that prepare patches; ``None`` chooses. Their number changes nothing, but 0, which
            prepares patches in this process: with its several threads some sums round otherwise.
        resume: Go on from the last checkpoint; a fold that is finished is left as it is.
        deterministic: Let PyTorch use algorithms alone that give the same bits each time, on a GPU too, and
            refuse what has none. Needs a budget of steps: the clock never runs twice alike.

    Raises:
        ConfigError: A seed below 0 or above 32 bits, a negative number of processes, or ``deterministic``
            with a budget of minutes.
    """

    budget: Budget | None = None
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    resume: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.deterministic and self.budget is not None and self.budget.follows_the_clock:
            raise ConfigError(
                "minutes are never the same twice, and the learning rate follows them",
                where="--deterministic",
                fix="end the training by --max-steps alone",
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"{self.seed} is no seed", where="--seed", fix="use 0 to 4294967295")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(
                f"{self.workers} processes are none", where="--workers", fix="use 0 (none beside) or more"
            )
