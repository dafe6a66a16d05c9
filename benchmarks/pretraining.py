"""Does an encoder learnt from unlabelled volumes help where few are labelled?

A denoising autoencoder learns from the images of fold 0's training cases. Then the same small U-Net is
trained on a few of them with labels, once from that encoder and once from random weights, for each seed; the
seed also draws the labelled cases. All are scored on fold 0's validation cases, whose images no training has
seen. Prints a Markdown table:

    python benchmarks/pretraining.py --data DATASET --out runs/pretraining

Trainings end after steps, not minutes, so that the machine's load does not matter. What is done already in
--out is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from medseg.data import Dataset, load_dataset, split_dataset
from medseg.runs import RunFolder, load_recipe
from medseg.runs.documents import save_yaml

MEDSEG = (sys.executable, "-m", "medseg")
ARMS = ("from scratch", "pretrained")


def main() -> None:
    """Pretrain once, train twice a seed, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--pretrain-recipe", default="pretrain_denoising")
    parser.add_argument("--recipe", default="unet_small")
    parser.add_argument("--pretrain-steps", default=2000, type=int)
    parser.add_argument("--steps", default=500, type=int)
    parser.add_argument("--labelled", default=5, type=int, help="labelled cases")
    parser.add_argument("--seeds", default=3, type=int)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset(chosen.data)
    split = split_dataset(dataset, load_recipe(chosen.recipe).folds)
    pretrained = chosen.out / "pretrained"
    if not (pretrained / "fold_0" / "finished.json").exists():
        steps = ["--max-steps", str(chosen.pretrain_steps)]
        source = ["--data", str(chosen.data), "--recipe", chosen.pretrain_recipe]
        medseg("train", *source, *steps, "--resume", "--out", str(pretrained))
    recipe = same_network(chosen.recipe, pretrained, chosen.out / "recipe.yaml")
    rows = []
    for seed in range(chosen.seeds):
        names = sorted(random.Random(seed).sample(split.training(0), chosen.labelled))
        few = datalist(dataset, names, split.validation(0), chosen.out / f"seed_{seed}.json")
        starts = {"from scratch": [], "pretrained": ["--init-encoder", str(pretrained)]}
        rows.append(
            [
                score(
                    chosen,
                    few,
                    recipe,
                    seed,
                    chosen.out / f"seed_{seed}_{arm.replace(' ', '_')}",
                    starts[arm],
                )
                for arm in ARMS
            ]
        )
    print_table(rows, dataset)
    finished = json.loads((pretrained / "fold_0" / "finished.json").read_text())
    print(
        f"\n{chosen.pretrain_recipe} on {len(split.training(0))} images, {finished['steps']} steps: "
        f"reconstruction error {finished['reconstruction_error']:.4f}. {chosen.recipe} on {chosen.labelled} "
        f"labelled cases, {chosen.steps} steps; {len(split.validation(0))} validation cases, label maps on "
        f"native grids. {finished['precision']}, {finished['device']}, {os.cpu_count()} cores, "
        f"{platform.platform()}."
    )


def medseg(*arguments: str) -> None:
    """Run a verb of the command line; its tables go to standard error, so that the result stands alone."""
    subprocess.run([*MEDSEG, *arguments], check=True, stdout=sys.stderr)


def same_network(name: str, pretrained: Path, path: Path) -> Path:
    """The recipe with all that few cases would otherwise decide as the pretraining's plan has it."""
    plan, recipe = RunFolder.open(pretrained).plan(), load_recipe(name)
    planned = {"features", "kernel_sizes", "strides"} & plan.network.options.keys()
    options = {option: plan.network.options[option] for option in sorted(planned)}
    content: dict[str, Any] = recipe.model_dump(mode="json")
    content["folds"] = 2  # as the datalists have
    content["spacing_mm"] = list(plan.preprocessing.spacing_mm or ())
    content["network"]["options"] |= options
    content["training"]["patch_size"] = list(plan.patch_size)
    save_yaml(type(recipe).model_validate(content), path)
    return path


def datalist(dataset: Dataset, training: list[str], validation: tuple[str, ...], path: Path) -> Path:
    """A datalist of a few cases to train on, its fold 1, and fold 0, which validates; no file is copied."""
    cases = {case.id: case for case in dataset.cases}

    def entries(names: list[str] | tuple[str, ...], fold: int) -> list[dict[str, Any]]:
        return [
            {
                "fold": fold,
                "image": [str(image.resolve()) for image in cases[name].images],
                "label": str(Path(cases[name].label or "").resolve()),
            }
            for name in names
        ]

    content = {
        "name": f"{dataset.name}, {len(training)} labelled cases",
        "modality": {str(number): name for number, name in enumerate(dataset.channel_names)},
        "labels": {str(entry.value): entry.name for entry in dataset.labels.classes},
        "training": [*entries(validation, 0), *entries(training, 1)],
    }
    path.write_text(json.dumps(content, indent=1))
    return path


def score(
    chosen: argparse.Namespace, data: Path, recipe: Path, seed: int, out: Path, start: list[str]
) -> dict[str, Any]:
    """Train, segment the validation cases, score them."""
    summary = out / "scores" / "summary.json"
    if not summary.exists():
        steps = ["--max-steps", str(chosen.steps), "--seed", str(seed)]
        training = ["--data", str(data), "--recipe", str(recipe), *start, *steps]
        medseg("train", *training, "--resume", "--out", str(out / "run"))
        medseg("predict", "--model", str(out / "run"), "--validation", "--out", str(out / "predictions"))
        references = chosen.data / "labelsTr"
        results = ["--pred", str(out / "predictions"), "--ref", str(references), "--out", str(summary.parent)]
        medseg("evaluate", *results)
    result: dict[str, Any] = json.loads(summary.read_text())
    return result


def print_table(rows: list[list[dict[str, Any]]], dataset: Dataset) -> None:
    """Mean Dice a seed, by arm; then the mean over seeds."""
    names = [entry.name for entry in dataset.labels.foreground]
    print("| seed |", *(f" {name}, {arm} |" for name in names for arm in ARMS), sep="", end="")
    print(*(f" mean, {arm} |" for arm in ARMS), " difference |", sep="")
    print("|---|" + "---|" * (2 * len(names) + 3))
    means = [[arm["mean"]["dice"] for arm in row] for row in rows]
    for seed, (row, (scratch, pretrained)) in enumerate(zip(rows, means, strict=True)):
        by_class = [{entry["name"]: entry["dice"]["mean"] for entry in arm["classes"]} for arm in row]
        cells = [shown(arm.get(name)) for name in names for arm in by_class]
        print(f"| {seed} | {' | '.join(cells)} | {shown(scratch)} | {shown(pretrained)} |", end="")
        print(f" {pretrained - scratch:+.4f} |")
    both = [statistics.mean(column) for column in zip(*means, strict=True)]
    spread = [pretrained - scratch for scratch, pretrained in means]
    deviation = f" ± {statistics.stdev(spread):.4f}" if len(spread) > 1 else ""
    print(f"| mean |{' |' * (2 * len(names))} {shown(both[0])} | {shown(both[1])} |", end="")
    print(f" {statistics.mean(spread):+.4f}{deviation} |")


def shown(dice: float | None) -> str:
    """Four digits, or a dash where nothing could be scored."""
    return "-" if dice is None else f"{dice:.4f}"


if __name__ == "__main__":
    main()
