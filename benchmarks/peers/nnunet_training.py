"""nnU-Net trained for a budget of CPU time, on one fold of a data set in the Decathlon's layout.

Runs under a Python that has nnU-Net, which medseg's has not; ``against_nnunet.py`` calls it. nnU-Net plans,
preprocesses, trains, and segments the validation cases by itself. Alone its schedule is shortened: the
learning rate falls by the same power of the budget's rest, step by step, and the training ends with the
budget. Its online validation, which costs and changes nothing, is cut to two batches in fifty.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

DATASET = "Dataset004_Peer"
POWER = 0.9


def main() -> None:
    """Prepare, train, segment; a line of JSON tells what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--split", required=True, type=Path, help="medseg's split.json")
    parser.add_argument("--fold", default=0, type=int)
    parser.add_argument("--cpu-minutes", default=0.0, type=float, help="0 only plans and preprocesses")
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--prepared", required=True, type=Path, help="nnU-Net's raw and preprocessed folders")
    parser.add_argument("--out", required=True, type=Path, help="results of this training")
    chosen = parser.parse_args()
    os.environ |= {
        "nnUNet_raw": str(chosen.prepared / "raw"),
        "nnUNet_preprocessed": str(chosen.prepared / "preprocessed"),
        "nnUNet_results": str(chosen.out),
        "nnUNet_n_proc_DA": "0" if chosen.threads == 1 else "1",
    }
    prepare(chosen.data, chosen.split, chosen.prepared)
    if chosen.cpu_minutes:
        print(json.dumps(train(chosen.prepared, chosen.fold, chosen.cpu_minutes, chosen.threads)))


def prepare(data: Path, split: Path, prepared: Path) -> None:
    """The data set in nnU-Net's layout (by links), planned and preprocessed by nnU-Net; done once."""
    finished = prepared / "seconds.json"
    if finished.exists():
        return
    described = json.loads((data / "dataset.json").read_text())
    raw = prepared / "raw" / DATASET
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    ids = [Path(entry["image"]).name.removesuffix(".nii.gz") for entry in described["training"]]
    for case in ids:
        links = {f"imagesTr/{case}.nii.gz": f"imagesTr/{case}_0000.nii.gz"}
        links[f"labelsTr/{case}.nii.gz"] = f"labelsTr/{case}.nii.gz"
        for source, target in links.items():
            (raw / target).unlink(missing_ok=True)
            (raw / target).symlink_to((data / source).resolve())
    labels = {name: int(value) for value, name in described["labels"].items()}
    theirs = {
        "channel_names": described["modality"],
        "labels": labels,
        "numTraining": len(ids),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(theirs))
    started = time.perf_counter()
    tool = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
    subprocess.run(
        [tool, "-d", "4", "-c", "3d_fullres", "-np", "1", "-npfp", "1"],
        check=True,
        stdout=sys.stderr,
        env={**os.environ, "nnUNet_n_proc_DA": "1"},
    )
    folds = json.loads(split.read_text())["folds"]
    splits = [{"train": sorted(set(ids) - set(fold)), "val": sorted(fold)} for fold in folds]
    (prepared / "preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(splits))
    finished.write_text(json.dumps(time.perf_counter() - started))


def train(prepared: Path, fold: int, cpu_minutes: float, threads: int) -> dict[str, object]:
    """Train to the end of the budget, then segment the fold's validation cases."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(threads)
    budget = cpu_minutes * 60

    class Budgeted(nnUNetTrainer):
        """nnU-Net's trainer with a clock of CPU time."""

        # nnU-Net looks its own arguments up by these names.
        def __init__(
            self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: object
        ) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 10**6, 50, 2
            self.steps, self.started, self.waited = 0, 0.0, 0.0

        def run_training(self) -> None:
            self.on_train_start()
            self.started = cpu_seconds()
            while self.progress < 1:
                self.on_epoch_start()
                self.on_train_epoch_start()
                outputs = [
                    self.timed_step() for _ in range(self.num_iterations_per_epoch) if self.progress < 1
                ]
                self.on_train_epoch_end(outputs)
                with torch.no_grad():
                    self.on_validation_epoch_start()
                    batches = (next(self.dataloader_val) for _ in range(self.num_val_iterations_per_epoch))
                    self.on_validation_epoch_end([self.validation_step(batch) for batch in batches])
                self.on_epoch_end()
            self.used = cpu_seconds() - self.started
            self.num_epochs = self.current_epoch  # or its closing checkpoint takes itself for an early one
            self.on_train_end()

        @property
        def progress(self) -> float:
            return min(1.0, (cpu_seconds() - self.started) / budget)

        def timed_step(self) -> dict:
            before = time.perf_counter()
            batch = next(self.dataloader_train)
            self.waited += time.perf_counter() - before
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - self.progress) ** POWER
            self.steps += 1
            return self.train_step(batch)

        def on_train_epoch_start(self) -> None:
            """As nnU-Net's, but the learning rate stays with ``timed_step``."""
            self.network.train()
            self.logger.log("lrs", self.optimizer.param_groups[0]["lr"], self.current_epoch)

    preprocessed = prepared / "preprocessed" / DATASET
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    described = json.loads((preprocessed / "dataset.json").read_text())
    torch.manual_seed(0)
    trainer = Budgeted(plans, "3d_fullres", fold, described, torch.device("cpu"))
    trainer.initialize()
    trainer.run_training()
    before = cpu_seconds()
    trainer.perform_actual_validation()
    return {
        "steps": trainer.steps,
        "cpu_minutes": trainer.used / 60,
        "seconds_waiting_for_data": trainer.waited,
        "predicting_cpu_seconds": cpu_seconds() - before,
        "predictions": str(Path(trainer.output_folder) / "validation"),
        "patch_size": trainer.configuration_manager.patch_size,
        "batch_size": trainer.batch_size,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "preprocessing_seconds": json.loads((prepared / "seconds.json").read_text()),
        "versions": {name: version(name) for name in ("nnunetv2", "torch")}
        | {"python": platform.python_version()},
    }


def cpu_seconds() -> float:
    """Of this process, all its threads, and its living and dead children."""
    own = time.process_time()
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    tick = os.sysconf("SC_CLK_TCK")
    living = 0.0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                fields = (Path("/proc") / child / "stat").read_text().rsplit(")", 1)[1].split()
            except FileNotFoundError:
                continue
            living += (int(fields[11]) + int(fields[12])) / tick
    return own + dead.ru_utime + dead.ru_stime + living


if __name__ == "__main__":
    main()
