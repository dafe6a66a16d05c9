"""A model trained by nnU-Net for a few steps, and the label maps that nnU-Net makes with it.

Runs under a Python that has nnU-Net, which medseg's has not; ``nnunet_labels.py`` in the folder above calls
it and compares. nnU-Net plans, preprocesses, trains and predicts by itself; alone its epochs are shortened.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

DATASET = "Dataset005_Labels"


def main() -> None:
    """Prepare, train, predict; a line of JSON tells where things are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="a folder in the Decathlon's layout")
    parser.add_argument("--cases", default=20, type=int, help="left out of the training, and predicted")
    parser.add_argument("--train-cases", default=40, type=int)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--planner", default="ExperimentPlanner", help="or nnUNetPlannerResEncM")
    parser.add_argument("--reader", help="nnU-Net's class that reads images; its own choice if left out")
    parser.add_argument("--spacing", help="of the plan, as 1,1,1; nnU-Net's choice if left out")
    parser.add_argument("--features", type=int, help="of the first stage; nnU-Net's choice if left out")
    parser.add_argument("--patch", help="as 24,32,24; nnU-Net's choice if left out")
    parser.add_argument("--learning-rate", type=float, help="nnU-Net's choice if left out")
    parser.add_argument("--epochs", default=2, type=int)
    parser.add_argument("--iterations", default=50, type=int, help="of an epoch")
    parser.add_argument("--folds", default=1, type=int)
    parser.add_argument("--out", required=True, type=Path)
    chosen = parser.parse_args()
    os.environ |= {
        "nnUNet_raw": str(chosen.out / "raw"),
        "nnUNet_preprocessed": str(chosen.out / "preprocessed"),
        "nnUNet_results": str(chosen.out / "results"),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1",
    }
    images = prepare(chosen)
    started = time.perf_counter()
    model = train(chosen)
    trained = time.perf_counter()
    predictions = predict(model, images, chosen.out / "predictions")
    told = {
        "model": str(model),
        "images": [str(image) for image in images],
        "predictions": str(predictions),
        "training_seconds": trained - started,
        "predicting_seconds": time.perf_counter() - trained,
        "versions": {name: version(name) for name in ("nnunetv2", "torch")},
    }
    print(json.dumps(told))


def prepare(chosen: argparse.Namespace) -> list[Path]:
    """The data set in nnU-Net's layout, planned and preprocessed; gives the images that nobody trains on."""
    described = json.loads((chosen.data / "dataset.json").read_text())
    ids = sorted(Path(entry["image"]).name.removesuffix(".nii.gz") for entry in described["training"])
    training = ids[chosen.cases : chosen.cases + chosen.train_cases]
    raw = chosen.out / "raw" / DATASET
    for folder, names in (("imagesTs", ids[: chosen.cases]), ("imagesTr", training), ("labelsTr", training)):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        for case in names:
            source = "labelsTr" if folder == "labelsTr" else "imagesTr"
            target = raw / folder / (f"{case}.nii.gz" if source == "labelsTr" else f"{case}_0000.nii.gz")
            shutil.copyfile(chosen.data / source / f"{case}.nii.gz", target)
    theirs = {
        "channel_names": described["modality"],
        "labels": {name: int(value) for value, name in described["labels"].items()},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
    }
    if chosen.reader:
        theirs["overwrite_image_reader_writer"] = chosen.reader
    (raw / "dataset.json").write_text(json.dumps(theirs))
    tool = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
    options = ["-d", "5", "-c", chosen.configuration, "-np", "1", "-npfp", "1", "-pl", chosen.planner]
    if chosen.spacing:
        options += ["-overwrite_target_spacing", *chosen.spacing.split(",")]
        options += ["-overwrite_plans_name", plans_of(chosen)]
    environment = {**os.environ, "nnUNet_n_proc_DA": "1"}
    if not (chosen.out / "preprocessed" / DATASET / f"{plans_of(chosen)}.json").exists():
        subprocess.run([tool, *options], check=True, stdout=sys.stderr, env=environment)
    return [raw / "imagesTs" / f"{case}_0000.nii.gz" for case in ids[: chosen.cases]]


def plans_of(chosen: argparse.Namespace) -> str:
    """What nnU-Net calls the plans."""
    if chosen.spacing:
        return "nnUNetOtherPlans"
    return "nnUNetPlans" if chosen.planner == "ExperimentPlanner" else "nnUNetResEncUNetMPlans"


def train(chosen: argparse.Namespace) -> Path:
    """Train the folds; gives the model's folder."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    preprocessed = chosen.out / "preprocessed" / DATASET
    for fold in range(chosen.folds):
        plans: dict[str, Any] = json.loads((preprocessed / f"{plans_of(chosen)}.json").read_text())
        plans["continue_training"] = False
        planned = plans["configurations"][chosen.configuration]
        if chosen.patch:
            planned["patch_size"] = [int(size) for size in chosen.patch.split(",")]
        if chosen.features:
            options = planned["architecture"]["arch_kwargs"]
            stages = range(options["n_stages"])
            options["features_per_stage"] = [chosen.features * 2**stage for stage in stages]
        described = json.loads((preprocessed / "dataset.json").read_text())
        torch.manual_seed(fold)
        trainer = nnUNetTrainer(plans, chosen.configuration, fold, described, torch.device("cpu"))
        trainer.num_epochs = chosen.epochs
        if chosen.learning_rate:
            trainer.initial_lr = chosen.learning_rate
        trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = chosen.iterations, 2
        trainer.run_training()
    return Path(trainer.output_folder_base)


def predict(model: Path, images: list[Path], out: Path) -> Path:
    """Segment as nnU-Net does by default: all folds, mirror images, windows at half a step."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    out.mkdir(parents=True, exist_ok=True)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), use_folds=None)
    targets = [str(out / image.name.removesuffix("_0000.nii.gz")) for image in images]
    predictor.predict_from_files_sequential([[str(image)] for image in images], targets)
    return out


if __name__ == "__main__":
    main()
