"""How many steps does a training make in a second, on nnU-Net's own network, patch and batch?

medseg trains nnU-Net's network for a few steps as ``medseg train`` does, loader, augmentation and optimiser
included; nnU-Net makes its own steps, with its own loader and with prepared batches. They take turns, each in
a process of its own, on the CPU pinned to one core with one thread:

    python benchmarks/training_speed.py --data DATASET --nnunet-python PYTHON --prepared FOLDER \
        --out runs/speed [--device cuda] [--arm 'compiled={"training": {"compile": true}}']

FOLDER is what ``against_nnunet.py`` prepared. An arm is a name and what its recipe changes. What is done
already in --out is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from measured import Place, last_json, once, run, shown, table
from peers.spans import covered

from medseg.files import read_json

HERE = Path(__file__).parent
NETWORK = {
    "name": "unet",
    "options": {
        "features": [32, 64, 128, 256],
        "kernel_sizes": [[3, 3, 3] for _ in range(4)],
        "strides": [[2, 2, 2] for _ in range(3)],
        "norm": "instance",
        "activation": "leaky_relu",
        "downsample": "conv",
        "deep_supervision": True,
    },
}
PATCH_SIZE, BATCH_SIZE = [40, 56, 40], 7
AHEAD = 5
"""Steps after the measured ones: so at both ends of the measurement as many prepared batches wait."""
AIMS = {"cpu": 2.0, "cuda": 1.2}
BUSY = 0.95


def main() -> None:
    """Run what has no result yet; print all results of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--nnunet-python", type=Path, help="a Python that has nnU-Net")
    parser.add_argument("--prepared", type=Path, help="nnU-Net's raw and preprocessed data")
    parser.add_argument("--precision", default="auto,float32", help="a medseg arm for each")
    parser.add_argument(
        "--arm", action="append", default=[], help="one more: NAME=JSON of what its recipe changes"
    )
    parser.add_argument("--steps", type=int, default=8, help="that are measured in each turn")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--workers", type=int, help="processes that prepare batches; on the CPU as each has it"
    )
    parser.add_argument("--cpu", default="0", help="the core")
    parser.add_argument("--out", required=True, type=Path, help="a folder, with earlier results or new")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)  # one arm's recipe, in this process
    chosen = parser.parse_args()
    if chosen.alone is not None:
        print(json.dumps(medseg_steps(chosen)))
        return
    commands = {name: medseg_command(name, changes, chosen) for name, changes in arms(chosen).items()}
    if chosen.nnunet_python is not None:
        commands["nnU-Net"] = nnunet_command(chosen)
    on_cpu = chosen.device == "cpu"
    place = Place(chosen.cpu, 1) if on_cpu else Place()
    for number in range(chosen.rounds):
        for name, command in commands.items():
            make = partial(turn, command, place, chosen.out / "log.txt")
            once(chosen.out / chosen.device / f"{name.replace(' ', '_')}_{number}.json", make)
    report(chosen.out / chosen.device, chosen.device)
    print(f"\n{os.cpu_count()} cores, {platform.platform()}.")


def turn(command: Sequence[str | Path], place: Place, log: Path) -> dict[str, Any]:
    """One process of one arm."""
    printed, usage = run(command, place, log)
    return {**last_json(printed), "outside": asdict(usage)}


def arms(chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the recipe of each of medseg's arms changes, by name."""
    found = {f"medseg {name}": {"training": {"precision": name}} for name in chosen.precision.split(",")}
    for text in chosen.arm:
        name, _, changes = text.partition("=")
        found[f"medseg {name}"] = json.loads(changes)
    return found


def medseg_command(name: str, changes: dict[str, Any], chosen: argparse.Namespace) -> list[str | Path]:
    """This script again, for one arm alone, with its recipe written."""
    steps = chosen.warm_up + chosen.steps + AHEAD
    training = {"patch_size": PATCH_SIZE, "batch_size": BATCH_SIZE, "max_steps": steps}
    training |= {"checkpoint_every": steps, "validate_every": steps}
    recipe: dict[str, Any] = {"network": NETWORK, "training": training}
    recipe["loss"] = {"name": "dice_ce", "options": {"include_background": False}}
    for key, value in changes.items():
        recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, dict) else value
    path = chosen.out / f"{name.replace(' ', '_')}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command: list[str | Path] = [sys.executable, Path(__file__), "--data", chosen.data, "--out", chosen.out]
    command += ["--steps", str(chosen.steps), "--warm-up", str(chosen.warm_up), "--device", chosen.device]
    command += [] if chosen.workers is None else ["--workers", str(chosen.workers)]
    return [*command, "--alone", path]


def nnunet_command(chosen: argparse.Namespace) -> list[str | Path]:
    """The peer's script with its own Python."""
    command: list[str | Path] = [chosen.nnunet_python, HERE / "peers" / "nnunet_steps.py"]
    command += ["--prepared", chosen.prepared, "--scratch", chosen.out / "nnunet", "--device", chosen.device]
    command += ["--steps", str(chosen.steps), "--warm-up", str(chosen.warm_up)]
    return [*command, "--workers", str(chosen.workers or 0)]


def medseg_steps(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train as ``medseg train`` does, with a clock beside Lightning's other callbacks."""
    import lightning
    import torch

    from medseg.data import load_dataset
    from medseg.runs import load_recipe
    from medseg.training import TrainingOptions, train

    clock = step_clock(chosen.warm_up, chosen.steps, on_gpu=chosen.device != "cpu")
    trainer = lightning.Trainer

    def with_clock(*arguments: Any, callbacks: Sequence[Any] = (), **options: Any) -> Any:
        return trainer(*arguments, callbacks=[clock, *callbacks], **options)

    lightning.Trainer = with_clock
    options = TrainingOptions(device=chosen.device, workers=chosen.workers)
    with tempfile.TemporaryDirectory() as scratch:
        run_folder = Path(scratch) / "run"
        train(load_dataset(chosen.data), load_recipe(chosen.alone), run_folder, folds=[0], options=options)
        finished = read_json(run_folder / "fold_0" / "finished.json")
    return {**clock.measured(), "precision": finished["precision"], "torch": torch.__version__}


def step_clock(warm_up: int, steps: int, *, on_gpu: bool) -> Any:
    """A Lightning callback that measures so many steps after the first few."""
    import torch
    from lightning.pytorch.callbacks import Callback

    from medseg.training.clock import cpu_seconds

    class StepClock(Callback):
        """What whole steps take, loader included, and what this process takes once a batch is there."""

        def __init__(self) -> None:
            self.made = 0
            self.own = self.waited = self.seconds = self.cpu = 0.0
            self.ended = time.perf_counter()
            self.busy: float | None = None
            self.parameters = self.batch_size = 0
            self.patch_size: list[int] = []

        @property
        def counts(self) -> bool:
            """Whether the step that begins or ends now is measured."""
            return warm_up <= self.made < warm_up + steps

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            """A batch has come."""
            del trainer, batch_idx
            self.waited += (time.perf_counter() - self.ended) * self.counts
            if self.made == 0:
                network = pl_module.network
                self.parameters = sum(parameter.numel() for parameter in network.parameters())
                self.batch_size, _, *self.patch_size = batch["image"].shape
            self.step_began = time.process_time()

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            """The weights have moved."""
            del trainer, pl_module, outputs, batch, batch_idx
            self.own += (time.process_time() - self.step_began) * self.counts
            self.made += 1
            if self.made == warm_up:
                self.began = self.now()
            elif self.made == warm_up + steps:
                ended = self.now()
                self.seconds, self.cpu = ended[0] - self.began[0], ended[1] - self.began[1]
                self.profile()
            elif self.made == warm_up + steps + AHEAD - 1:
                self.read_profile()
            self.ended = time.perf_counter()

        def now(self) -> tuple[float, float]:
            """Wall clock and CPU seconds, the device's work done."""
            if on_gpu:
                torch.cuda.synchronize()
            return time.perf_counter(), cpu_seconds()

        def profile(self) -> None:
            """On a GPU, note its kernels in the last steps, which are not measured otherwise."""
            self.profiler = None
            if on_gpu:
                self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
                self.profiler.__enter__()
                self.profiled = self.now()[0]

        def read_profile(self) -> None:
            """The share of the time in which the GPU ran a kernel, or copied."""
            if self.profiler is None:
                return
            seconds = self.now()[0] - self.profiled
            self.profiler.__exit__(None, None, None)
            kind = torch.autograd.DeviceType.CUDA
            events = [event for event in self.profiler.events() if event.device_type == kind]
            spans = [(event.time_range.start, event.time_range.end) for event in events]
            self.busy = covered(spans) / 1e6 / seconds

        def measured(self) -> dict[str, Any]:
            """All of it, a step."""
            return {
                "with_loader": {
                    "seconds": self.seconds / steps,
                    "cpu_seconds": self.cpu / steps,
                    "busy": self.busy,
                },
                "prepared": {"cpu_seconds": self.own / steps},
                "waiting_share": self.waited / self.seconds,
                "parameters": self.parameters,
                "patch_size": list(self.patch_size),
                "batch_size": self.batch_size,
            }

    return StepClock()


def report(folder: Path, device: str) -> None:
    """Medians of all turns, and what they say of the aims."""
    turns: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        turns.setdefault(path.stem.rpartition("_")[0].replace("_", " "), []).append(read_json(path))

    def median(name: str, kind: str, what: str) -> float | None:
        values = [one[kind].get(what) for one in turns.get(name, [])]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    unit = "seconds" if device == "cuda" else "cpu_seconds"
    theirs = median("nnU-Net", "with_loader", unit)
    lines, aims = [], []
    for name, rounds in turns.items():
        whole, busy = median(name, "with_loader", unit), median(name, "with_loader", "busy")
        times = None if not theirs or not whole else theirs / whole
        lines.append(
            [
                name,
                rounds[0].get("precision", "-"),
                f"{rounds[0]['parameters']:,}",
                f"{rounds[0]['batch_size']} x {'x'.join(map(str, rounds[0]['patch_size']))}",
                shown(whole, 3),
                shown(median(name, "prepared", unit), 3),
                shown(median(name, "with_loader", "seconds"), 3),
                shown(times, 2),
                shown(busy, 3),
                len(rounds),
            ]
        )
        if name != "nnU-Net" and times is not None:
            aims.append((f"{name}: {AIMS[device]} times nnU-Net's steps a second", times >= AIMS[device]))
        if name != "nnU-Net" and busy is not None:
            aims.append((f"{name}: the device is busy {BUSY:.0%} of the time", busy >= BUSY))
    whole_unit = "seconds" if device == "cuda" else "CPU-seconds"
    heads = ["", "precision", "parameters", "batch", f"{whole_unit} a step, with loader", "the network alone"]
    heads += ["wall-clock seconds a step", "times nnU-Net", "device busy", "turns"]
    print("\n" + table(heads, lines) + "\n")
    for aim, holds in aims:
        print(f"- {'holds' if holds else 'DOES NOT HOLD'}: {aim}")


if __name__ == "__main__":
    main()
