"""One training in several processes, as torchrun or SLURM's srun start them: who they are, how they agree.

The launcher's environment is read by Lightning, and Lightning's DDP averages the gradients. What is here lets
the result be that of one process with the whole batch: preparations are made once, each process draws its
own part of every batch and validates its own part of the cases, one clock ends the training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import lightning
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from medseg.errors import ConfigError, MedsegError, ResourceError
from medseg.inference import Compute
from medseg.losses import SegmentationLoss
from medseg.processes import sum_over_processes
from medseg.runs import Recipe
from medseg.training.batch_norm import synchronise_batch_norms
from medseg.training.clock import Clock
from medseg.training.module import TrainingModule

__all__ = [
    "InStep",
    "Processes",
    "SharedClock",
    "is_first_process",
    "join_processes",
    "require_divisible",
    "spread",
]

T = TypeVar("T")

_MEETING = timedelta(minutes=10)
"""How long to wait for processes that have not started yet."""
_STEP = timedelta(minutes=30)
"""How long a process may be behind the others in a step or a validation."""
_PREPARATION = timedelta(days=7)
"""How long the first process may plan and preprocess while the others wait."""
_WHOLE_BATCH_METHODS = ("sparse", "stacked")


@dataclass(frozen=True)
class Processes:
    """The processes of one training, seen from one of them. Alone, everything here does nothing.

    Attributes:
        count: How many there are.
        number: Which one this is, from 0.
        local: Which one on its machine, from 0.
        per_machine: How many run on each machine.
        environment: What Lightning knows of the launcher.
        messages: The group of processes that CPU tensors and objects are exchanged in.
    """

    count: int = 1
    number: int = 0
    local: int = 0
    per_machine: int = 1
    environment: ClusterEnvironment | None = None
    messages: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.number == 0

    def by_first(self, work: Callable[[], T]) -> T:
        """Let the first process alone do something; all of them get its result, or its error.

        The others wait for it, however long it takes. Results cross process borders, so they are plain data.

        Raises:
            MedsegError: What ``work`` raises, in every process.
        """
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except MedsegError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self.messages)
        result, refusal = outcome
        if refusal is not None:
            raise refusal
        return result  # type: ignore[no-any-return]

    def share_of(self, cases: int) -> range | list[int]:
        """The numbers of the cases that this process validates: one at least, if another does it as well.

        Example:
            >>> list(Processes(count=2, number=1).share_of(5))
            [1, 3]
            >>> Processes(count=4, number=3).share_of(2)
            [1]
        """
        return range(self.number, cases, self.count) if self.number < cases else [self.number % cases]

    def all_rows(self, own: npt.NDArray[np.float64], cases: int) -> npt.NDArray[np.float64]:
        """The rows of all cases in their order, of what each process found for its share of them.

        Args:
            own: A row for each of ``share_of(cases)``.
            cases: How many there are.
        """
        if self.count == 1:
            return own
        padded = np.zeros((-(-cases // self.count), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty(padded.shape, dtype=torch.float64) for _ in range(self.count)]
        dist.all_gather(parts, torch.from_numpy(padded), group=self.messages)
        # Row k of process p is of case p + k * count.
        return torch.stack(parts, dim=1).flatten(0, 1)[:cases].numpy()

    def require_device(self, compute: Compute) -> Compute:
        """The device that this process trains on: each has a GPU of its own.

        Raises:
            ConfigError: One GPU is named, and there are several processes.
            ResourceError: There are fewer GPUs than processes.
        """
        if self.count == 1 or compute.device.type != "cuda":
            return compute
        if compute.device.index is not None:
            raise ConfigError(
                f"one device for {self.count} processes", where="--device", fix="use cuda: each takes its own"
            )
        seen = torch.cuda.device_count()
        if seen < self.per_machine:
            raise ResourceError(
                f"{self.per_machine} processes of this machine see {seen} GPUs",
                where="--device",
                fix="start one process a GPU, and let each see all of them (SLURM: --gpus-per-node)",
            )
        return replace(compute, device=torch.device("cuda", self.local))

    def trainer_options(self, compute: Compute) -> dict[str, Any]:
        """What Lightning's trainer must know to run one process among these."""
        if self.count == 1:
            index = compute.device.index or 0
            return {"devices": [index] if compute.device.type == "cuda" else 1}
        return {
            # Buffers need no broadcast: synchronised batch norms are the same everywhere.
            "strategy": DDPStrategy(broadcast_buffers=False, timeout=_STEP),
            "devices": self.per_machine,
            "num_nodes": self.count // self.per_machine,
            "plugins": [self.environment],
            "sync_batchnorm": compute.device.type == "cuda",
            "use_distributed_sampler": False,
        }


def is_first_process() -> bool:
    """Whether this process is alone, or the first of those that a launcher started."""
    environment = _environment()
    return environment is None or environment.global_rank() == 0


@contextmanager
def join_processes(device_type: str) -> Iterator[Processes]:
    """Meet the processes that torchrun or srun started beside this one; alone if there are none.

    Args:
        device_type: ``"cpu"`` (gloo) or ``"cuda"`` (NCCL).

    Raises:
        ResourceError: They do not come, or one of them ends while others need it.
        ConfigError: Machines run different numbers of processes.
    """
    environment = _environment()
    if environment is None or environment.world_size() == 1:
        yield Processes()
        return
    if device_type == "cuda":
        torch.cuda.set_device(environment.local_rank() % max(1, torch.cuda.device_count()))
    count, number = environment.world_size(), environment.global_rank()
    address = f"tcp://{environment.main_address}:{environment.main_port}"
    try:
        dist.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            # torchrun keeps a meeting place, which "env://" finds; srun leaves it to the first process.
            init_method="env://" if isinstance(environment, TorchElasticEnvironment) else address,
            rank=number,
            world_size=count,
            timeout=_MEETING,
        )
        messages = dist.new_group(backend="gloo", timeout=_PREPARATION)
    except (dist.DistError, RuntimeError) as error:
        raise ResourceError(
            f"{count} processes did not meet at {address}",
            where="torch.distributed",
            fix="start all of them, by torchrun or srun, within ten minutes; each must reach that address",
        ) from error
    with _told_of_lost_processes():
        yield _arranged(environment, count, number, messages)
        dist.barrier(group=messages)
    dist.destroy_process_group()


def _arranged(environment: ClusterEnvironment, count: int, number: int, messages: Any) -> Processes:
    machines: list[Any] = [None] * count
    dist.all_gather_object(machines, environment.node_rank(), group=messages)
    sizes = {machines.count(machine) for machine in machines}
    if len(sizes) != 1:
        raise ConfigError(
            "machines run different numbers of processes",
            where="torch.distributed",
            fix="start as many on each (torchrun: --nproc-per-node, SLURM: --ntasks-per-node)",
        )
    return Processes(count, number, environment.local_rank(), sizes.pop(), environment, messages)


def _environment() -> ClusterEnvironment | None:
    """Lightning's view of the launcher, in Lightning's order; ``None`` without one."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if not SLURMEnvironment.detect():
        return None
    try:
        # Training is resumed by --resume; Lightning's own requeueing would write a checkpoint of its own.
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise ConfigError(str(error).partition(".")[0], where="SLURM", fix="use --ntasks-per-node") from error


@contextmanager
def _told_of_lost_processes() -> Iterator[None]:
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ResourceError(
                "another process of this training has ended",
                where="torch.distributed",
                fix="see what it said, then go on with --resume",
            ) from error
        raise


class SharedClock(Clock):
    """The first process's clock, as it was when all processes last looked at it together.

    Of CPU time it shows what all of them have taken.

    Args:
        processes: Those that share it.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._shown = (0.0, 0.0)
        super().__init__()

    def start(self) -> None:
        """Count from now on, all processes at once."""
        super().start()
        self.tick()

    def tick(self) -> None:
        """Look at it, all processes at once."""
        seconds = super()._seconds() if self._processes.first else 0.0
        both = torch.tensor([seconds, super()._cpu_seconds()], dtype=torch.float64)
        if self._processes.count > 1:
            dist.all_reduce(both, group=self._processes.messages)
        self._shown = (float(both[0]), float(both[1]))

    def _seconds(self) -> float:
        return self._shown[0]

    def _cpu_seconds(self) -> float:
        return self._shown[1]


class InStep(Callback):  # type: ignore[misc]
    """Lets all processes see the same time and the whole batch's loss. Keep it first of the list.

    Args:
        clock: The module's.
    """

    def __init__(self, clock: SharedClock) -> None:
        self._clock = clock

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the clock, and put the mean loss in the place of this process's."""
        del pl_module, batch, batch_idx
        self._clock.tick()
        outputs["loss"] = sum_over_processes(outputs["loss"].detach()) / trainer.world_size

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Look at the clock."""
        del trainer, pl_module
        self._clock.tick()


def spread(
    module: TrainingModule, processes: Processes, compute: Compute, validation_cases: int
) -> list[Callback]:
    """Make a module one of several that train the same network; alone it stays as it is.

    Args:
        module: Before it trains.
        processes: Among which it trains.
        compute: On GPUs Lightning brings PyTorch's synchronised batch norm.
        validation_cases: How many cases they validate together.

    Returns:
        Callbacks that go before all others.
    """
    if processes.count == 1:
        return []
    module.process = processes.number
    module.processes = processes.count
    module.all_rows = functools.partial(processes.all_rows, cases=validation_cases)
    clock = SharedClock(processes)
    module.clock = clock
    if compute.device.type != "cuda":
        synchronise_batch_norms(module.network)
    for part in module.modules():
        if isinstance(part, SegmentationLoss):
            part.over_processes = True
    return [InStep(clock)]


def require_divisible(recipe: Recipe, processes: Processes) -> None:
    """Refuse what several processes cannot share.

    Raises:
        ConfigError: A pretraining whose loss looks at the whole batch at once, or trains level by level.
    """
    choice = recipe.pretrain
    if processes.count > 1 and choice is not None and choice.method in _WHOLE_BATCH_METHODS:
        raise ConfigError(
            f"method {choice.method} trains in one process, {processes.count} were started",
            where="pretrain.method",
            fix="start one, or choose method denoising or variational",
        )
