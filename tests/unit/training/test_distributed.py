from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from medseg.errors import ConfigError, ResourceError
from medseg.inference import Compute
from medseg.losses import SegmentationLoss
from medseg.runs import Plan, Recipe
from medseg.runs.recipe import PretrainChoice
from medseg.training import Budget, is_first_process
from medseg.training.distributed import (
    InStep,
    Processes,
    SharedClock,
    join_processes,
    require_divisible,
    spread,
)
from medseg.training.module import SegmentationModule
from medseg.training.parts import build_loss
from medseg.training.patches import EpochSampler
from tests.data.processes import Started
from tests.unit.training import two_processes as script


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What each of two processes found, that were started as torchrun starts them."""
    folder = tmp_path_factory.mktemp("two")
    ports = {"MASTER_PORT": str(_free_port()), "NEXT_PORT": str(_free_port())}
    started = []
    for number in (0, 1):
        told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "test"}
        environment = os.environ | {name: str(value) for name, value in told.items()} | ports
        environment |= {
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        started.append(Started(script.work, folder, environment=environment))
    shown = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], shown
    return folder, [torch.load(folder / f"{number}.pt", weights_only=True) for number in (0, 1)]


Both = tuple[Path, list[dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", script.LOSSES)
def test_the_mean_of_the_processes_losses_is_that_of_the_whole_batch(name: str, both: Both) -> None:
    scores, labels, weights = script.whole_batch()
    scores.requires_grad_()
    whole = script.loss_of(name)(scores, labels, weights)
    whole.backward()
    found = [process["losses"][name] for process in both[1]]
    precision = 1e-6 if "boundary" in name else 1e-12  # distances are in single precision
    torch.testing.assert_close(
        sum(value for value, _ in found) / 2.0, whole.detach(), rtol=precision, atol=precision
    )
    # DDP averages the gradients of what each process's scores were made with.
    gradients = torch.cat([gradient for _, gradient in found]) / 2.0
    torch.testing.assert_close(gradients, scores.grad, rtol=precision, atol=precision)


@pytest.mark.slow
@pytest.mark.network
def test_batch_norms_see_the_whole_batch(both: Both) -> None:
    whole = script.normalised(script.normalising_network(), *script.images())
    parts = [process["normalised"] for process in both[1]]
    assert [len(part["result"]) for part in parts] == [3, 1]
    assert parts[0].keys() == whole.keys()
    for name, tensor in whole.items():
        if name in {"result", "of images"}:
            made = torch.cat([part[name] for part in parts])
        elif name.startswith("of "):
            made = parts[0][name] + parts[1][name]
        else:
            made = parts[0][name]
            assert torch.equal(made, parts[1][name])
        torch.testing.assert_close(
            made, tensor, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: name + text
        )


@pytest.mark.slow
@pytest.mark.network
def test_processes_agree(both: Both) -> None:
    for number, found in enumerate(both[1]):
        assert (found["count"], found["local"], found["per_machine"]) == (2, number, 2)
        assert found["first"] == (number == 0, number == 0)
        assert found["by_first"] == "from 0"
        assert found["told"] == "here: is not there; put it there"
        assert found["minutes"] == both[1][0]["minutes"]
        assert found["rows"].tolist() == [[case, case**2] for case in range(5)]
        assert found["few"].tolist() == [[0.0]]


@pytest.mark.slow
@pytest.mark.network
def test_a_lost_process_is_told_of(both: Both) -> None:
    assert "another process of this training has ended; see what it said" in (both[0] / "lost.txt").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(("batch", "steps", "done"), [(1, 3, 0), (2, 2, 5)])
def test_processes_draw_what_one_would(batch: int, steps: int, done: int) -> None:
    whole = np.array(list(EpochSampler(3 * batch, steps, lambda: done))).reshape(steps, 3, batch)
    for process in range(3):
        sampler = EpochSampler(batch, steps, lambda: done, process=process, processes=3)
        assert list(sampler) == whole[:, process].flatten().tolist()
        assert len(sampler) == batch * steps


@pytest.mark.parametrize(("count", "cases"), [(1, 3), (2, 5), (3, 9), (4, 2)])
def test_each_case_is_validated(count: int, cases: int) -> None:
    shares = [list(Processes(count, number).share_of(cases)) for number in range(count)]
    assert all(shares)
    assert sorted({case for share in shares for case in share}) == list(range(cases))
    if cases >= count:
        assert sum(map(len, shares)) == cases


def test_one_process_is_alone(plan: Plan) -> None:
    assert is_first_process()
    with join_processes("cpu") as processes:
        assert processes == Processes()
        assert processes.first
    rows: npt.NDArray[np.float64] = np.ones((2, 3))
    assert processes.all_rows(rows, 2) is rows
    assert processes.by_first(lambda: 3) == 3
    module = _module(plan)
    assert spread(module, processes, _CPU, validation_cases=2) == []
    assert not any(part.over_processes for part in module.modules() if isinstance(part, SegmentationLoss))
    assert processes.trainer_options(_CPU) == {"devices": 1}
    assert processes.trainer_options(_CUDA) == {"devices": [0]}


_CPU = Compute(torch.device("cpu"), torch.float32)
_CUDA = Compute(torch.device("cuda"), torch.float32)


def _module(plan: Plan) -> SegmentationModule:
    recipe = Recipe(loss={"name": "dice_ce"})
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 5, 1), torch.nn.BatchNorm3d(5))
    return SegmentationModule(network, build_loss(recipe, plan), plan, recipe, Budget(max_steps=10), seed=3)


def test_one_of_several_shares_loss_clock_and_draws(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda seconds, **_: seconds.fill_(60.0))
    module = _module(plan)
    (callback,) = spread(module, Processes(count=2, number=1), _CPU, validation_cases=2)
    assert isinstance(callback, InStep)
    losses = [part for part in module.modules() if isinstance(part, SegmentationLoss)]
    assert losses
    assert all(loss.over_processes for loss in losses)
    assert (module.process, module.processes, module.clock.minutes) == (1, 2, 1.0)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda seconds, **_: seconds.fill_(180.0))
    outputs = {"loss": torch.tensor(3.0)}
    callback.on_train_batch_end(SimpleNamespace(world_size=2), module, outputs, None, 0)
    assert (module.clock.minutes, module.clock.cpu_minutes) == (3.0, 3.0)
    assert outputs["loss"] == 1.5  # alone in this test, there is nothing to add


def test_processes_draw_different_noise(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for process in (0, 1):
        module = _module(plan)
        module.process = process
        monkeypatch.setattr(module, "optimizers", lambda: SimpleNamespace(param_groups=[{}]))
        monkeypatch.setattr(type(module), "global_step", 4)
        module.on_train_batch_start({"image": torch.zeros(1)}, 0)
        drawn.append(float(torch.rand(())))
    assert drawn[0] != drawn[1]


def test_a_clock_stands_still_between_ticks() -> None:
    clock = SharedClock(Processes())
    clock.minutes_before = 2.0
    first = clock.minutes
    time.sleep(0.02)
    assert clock.minutes == first >= 2.0
    clock.tick()
    assert clock.minutes >= first + 0.02 / 60


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Processes(count=4, number=3, local=1, per_machine=2)
    assert several.require_device(_CPU) == _CPU
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert several.require_device(_CUDA).device == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="one device for 4 processes; use cuda"):
        several.require_device(Compute(torch.device("cuda:1"), torch.float32))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ResourceError, match=r"2 processes of this machine see 1 GPUs; .*--gpus-per-node"):
        several.require_device(_CUDA)
    options = several.trainer_options(_CUDA)
    assert (options["devices"], options["num_nodes"], options["sync_batchnorm"]) == (2, 2, True)


def test_a_pretraining_that_looks_at_the_whole_batch_is_refused() -> None:
    for method in ("sparse", "stacked"):
        recipe = Recipe(pretrain=PretrainChoice(method=method, noise_std=0.1))
        require_divisible(recipe, Processes())
        with pytest.raises(ConfigError, match=f"method {method} trains in one process, 2 were started"):
            require_divisible(recipe, Processes(count=2))
    require_divisible(Recipe(pretrain=PretrainChoice(noise_std=0.1)), Processes(count=2))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this process believe that a launcher started it."""

    def launch(**variables: str) -> None:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


def test_lightning_says_who_is_first(launched: Callable[..., None]) -> None:
    launched(TORCHELASTIC_RUN_ID="a", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert is_first_process()
    launched(TORCHELASTIC_RUN_ID="a", RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    assert not is_first_process()
    launched(SLURM_NTASKS="2", SLURM_PROCID="1", SLURM_JOB_NAME="train")
    with pytest.raises(ConfigError, match="use --ntasks-per-node"):
        is_first_process()
    launched(SLURM_NTASKS="2", SLURM_PROCID="1", SLURM_JOB_NAME="train", SLURM_NTASKS_PER_NODE="2")
    assert not is_first_process()
    launched(SLURM_NTASKS="2", SLURM_PROCID="1", SLURM_JOB_NAME="interactive")
    assert is_first_process()


def test_processes_that_do_not_come_are_waited_for_in_vain(
    launched: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    launched(
        TORCHELASTIC_RUN_ID="a",
        RANK="0",
        WORLD_SIZE="2",
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(_free_port()),
    )
    monkeypatch.setattr("medseg.training.distributed._MEETING", timedelta(seconds=1))
    with (
        pytest.raises(
            ResourceError, match=r"2 processes did not meet at tcp://127.0.0.1:\d+; start all of them"
        ),
        join_processes("cpu"),
    ):
        pass
