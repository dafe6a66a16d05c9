"""Seconds that a training step of nnU-Net's takes, on data that ``nnunet_training.py`` has prepared.

Runs under a Python that has nnU-Net; ``training_speed.py`` calls it. Measured twice: with nnU-Net's own
loader and augmentation, and with batches that were prepared before, which is the network alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from nnunet_training import DATASET, cpu_seconds
from spans import covered


def main() -> None:
    """Measure, print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", required=True, type=Path, help="as nnunet_training.py has left it")
    parser.add_argument("--steps", type=int, default=8, help="that are measured, of each kind")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before")
    parser.add_argument("--workers", type=int, default=0, help="processes that augment; 0: this one does")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scratch", required=True, type=Path, help="where nnU-Net may write")
    chosen = parser.parse_args()
    os.environ |= {
        "nnUNet_raw": str(chosen.prepared / "raw"),
        "nnUNet_preprocessed": str(chosen.prepared / "preprocessed"),
        "nnUNet_results": str(chosen.scratch),
        "nnUNet_n_proc_DA": str(chosen.workers),
    }
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    if chosen.device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    preprocessed = chosen.prepared / "preprocessed" / DATASET
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    described = json.loads((preprocessed / "dataset.json").read_text())
    torch.manual_seed(0)
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, described, torch.device(chosen.device))
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    batches = [next(trainer.dataloader_train) for _ in range(2)]

    def with_loader(_: int) -> None:
        trainer.train_step(next(trainer.dataloader_train))

    def prepared(number: int) -> None:
        trainer.train_step(batches[number % len(batches)])

    measured = {
        "with_loader": timed(with_loader, chosen, torch),
        "prepared": timed(prepared, chosen, torch),
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "patch_size": list(trainer.configuration_manager.patch_size),
        "batch_size": trainer.batch_size,
        "torch": torch.__version__,
    }
    print(json.dumps(measured), flush=True)
    os._exit(0)  # its augmenting processes know no other end than that of a whole training


def timed(step: Callable[[int], None], chosen: argparse.Namespace, torch: object) -> dict[str, float | None]:
    """Wall-clock and CPU seconds a step; on a GPU, the share of the time that it computes."""
    cuda = torch.cuda if chosen.device.startswith("cuda") else None
    for number in range(chosen.warm_up):
        step(number)
    if cuda:
        cuda.synchronize()
    clock, used = time.perf_counter(), cpu_seconds()
    for number in range(chosen.steps):
        step(number)
    if cuda:
        cuda.synchronize()
    seconds, cpu = time.perf_counter() - clock, cpu_seconds() - used
    return {
        "seconds": seconds / chosen.steps,
        "cpu_seconds": cpu / chosen.steps,
        "busy": busy_share(step, chosen.steps, torch) if cuda else None,
    }


def busy_share(step: Callable[[int], None], steps: int, torch: object) -> float:
    """The share of the time in which the GPU runs a kernel, or copies."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        clock = time.perf_counter()
        for number in range(steps):
            step(number)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - clock
    cuda = torch.autograd.DeviceType.CUDA
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == cuda
    ]
    return covered(spans) / 1e6 / seconds


if __name__ == "__main__":
    main()
