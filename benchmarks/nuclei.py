"""Do border weights help to tell touching nuclei apart?

Two volumes of real nuclei: one trains (its upper quarter validates), the other tests. The same small U-Net
learns a nucleus-or-not map, once by plain cross-entropy and once weighted by the U-Net paper's border map,
for each seed and within the same budget. Predictions are split into objects (``postprocess: instances``) and
compared with the true nuclei: F1 at an IoU of 0.5, and panoptic quality. Prints a Markdown table and JSON:

    python benchmarks/nuclei.py --data DATA --out runs/nuclei [--minutes 10 | --steps 600] [--seeds 0 1 2]

DATA holds ``instances/plantseg_nuclei/1135_mini.h5`` and ``1136_mini.h5``; reading them needs h5py, of this
Python or of another (--peers). Micrometres are written as millimetres, so a "millilitre" is 1000 cubic
micrometres. In the label map that trains, nuclei that touch have a gap between them, as in the paper's ground
truth. Trainings by the clock depend on the machine's load: run them alone, or in pairs (--parallel).
What is done already in --out is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from medseg.files import atomic_path, read_json, write_json, write_text
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.metrics import match_instances
from medseg.pictures.planes import best_slices
from medseg.runs import RunFolder
from medseg.segmenters import instances_path
from medseg.transforms import separate_instances
from medseg.volume import Volume

FOLDER = Path("instances") / "plantseg_nuclei"
TRAINING, TEST = "1135_mini", "1136_mini"
VALIDATION_PART = 0.25
SMALLEST_ML = 0.0005
"""Half a cubic micrometre, 110 voxels: smaller pieces of nuclei, cut by the volume's edge, do not count."""

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"name": "weighted_cross_entropy"},
    "border": {"name": "weighted_cross_entropy", "border_weights": {"instances": "dataset"}},
}
RECIPE: dict[str, Any] = {
    "network": {"name": "unet", "base_features": 16},
    "augmentation": {"mirror": "all"},
    "optimizer": {"learning_rate": 0.002},
    "training": {
        "patch_size": [48, 48, 24],
        "batch_size": 2,
        "validate_every": 200,
        "checkpoint_every": 100,
    },
    "postprocess": {"fill_holes": "all", "instances": {"smallest_volume_ml": SMALLEST_ML}},
}


UNPACK = """
import sys, h5py, numpy
with h5py.File(sys.argv[1]) as file:
    spacing = file["label"].attrs["element_size_um"]
    numpy.savez(sys.argv[2], raw=file["raw"][:], label=file["label"][:], spacing=spacing)
"""


@dataclass(frozen=True)
class Result:
    """How one training did on the test volume.

    Attributes:
        arm: Its loss.
        seed: Of its weights, patches and augmentation.
        steps: Optimiser steps within the budget.
        found: Objects in the prediction.
        nuclei: In the truth.
        f1: At an IoU of 0.5.
        pq: Panoptic quality.
        sq: Mean IoU of the nuclei that were found.
        dice: Of nuclei against background, the truth without gaps.
    """

    arm: str
    seed: int
    steps: int
    found: int
    nuclei: int
    f1: float
    pq: float
    sq: float
    dice: float


def main() -> None:
    """Write the data, train, predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has h5py")
    parser.add_argument("--minutes", default=10.0, type=float, help="of each training, by the clock")
    parser.add_argument("--steps", type=int, help="of each training, in place of minutes")
    parser.add_argument("--seeds", default=[0, 1, 2], type=int, nargs="+")
    parser.add_argument("--parallel", action="store_true", help="both losses at a time, one thread each")
    parser.add_argument("--swap", action="store_true", help=f"train on {TEST}, test on {TRAINING}")
    chosen = parser.parse_args()
    training, test = (TEST, TRAINING) if chosen.swap else (TRAINING, TEST)
    write_dataset(chosen.data / FOLDER, chosen.out / "data", training, test, chosen.peers)
    budget = (
        ["--max-minutes", str(chosen.minutes)] if chosen.steps is None else ["--max-steps", str(chosen.steps)]
    )
    learn = partial(train_and_predict, out=chosen.out, budget=budget, threads=1 if chosen.parallel else None)
    results = []
    for seed in chosen.seeds:
        with ThreadPoolExecutor(len(ARMS) if chosen.parallel else 1) as pool:
            runs = [pool.submit(learn, arm, seed) for arm in ARMS]
        results += [
            score(arm, seed, run.result(), chosen.out / "data") for arm, run in zip(ARMS, runs, strict=True)
        ]
        draw(seed, [run.result() for run in runs], chosen.out)
    facts = {"training": training, "test": test, "budget": " ".join(budget), "machine": platform.platform()}
    facts |= {"threads": 1 if chosen.parallel else os.cpu_count()}
    write_json({**facts, "results": [asdict(result) for result in results]}, chosen.out / "results.json")
    print(table(results))
    print(json.dumps({**facts, "results": [asdict(result) for result in results]}))


def write_dataset(source: Path, out: Path, training: str, test: str, python: str) -> None:
    """NIfTI images, labels and instances, and a datalist that names which part validates."""
    raw, nuclei = read_nuclei(source / f"{training}.h5", python)
    cut = round(raw.grid.shape[2] * (1.0 - VALIDATION_PART))
    blocks = {f"{training}_learn": (0, cut), f"{training}_check": (cut, raw.grid.shape[2])}
    entries = []
    for fold, (name, (start, stop)) in enumerate(reversed(blocks.items())):
        image, ids = (part_of(volume, start, stop) for volume in (raw, nuclei))
        gapped = separate_instances(ids.array[0]).astype(np.uint8)
        write_volume(image, out / "imagesTr" / f"{name}.nii.gz")
        write_volume(ids, out / "instancesTr" / f"{name}.nii.gz", labels=True)
        write_volume(Volume(gapped[np.newaxis], ids.grid), out / "labelsTr" / f"{name}.nii.gz", labels=True)
        folders = {"image": "imagesTr", "label": "labelsTr", "instances": "instancesTr"}
        paths = {key: f"{folder}/{name}.nii.gz" for key, folder in folders.items()}
        entries.append({**paths, "fold": fold})
    raw, nuclei = read_nuclei(source / f"{test}.h5", python)
    write_volume(raw, out / "test" / "image.nii.gz")
    write_volume(nuclei, out / "test" / "nuclei.nii.gz", labels=True)
    labels = {"0": "background", "1": "nucleus"}
    listing = {"name": "nuclei", "modality": {"0": "fluorescence"}, "labels": labels, "training": entries}
    write_json(listing, out / "datalist.json")


def read_nuclei(path: Path, python: str) -> tuple[Volume, Volume]:
    """Image and instance ids, from (z, y, x) in micrometres to (x, y, z) in what medseg calls millimetres."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "nuclei.npz"
        subprocess.run([python, "-c", UNPACK, str(path), str(unpacked)], check=True)
        with np.load(unpacked) as arrays:
            spacing, raw, ids = arrays["spacing"][::-1], arrays["raw"].T, arrays["label"].T.astype(np.int32)
    grid = Grid(raw.shape, np.diag([*spacing, 1.0]))
    return Volume(raw[np.newaxis], grid), Volume(ids[np.newaxis], grid)


def part_of(volume: Volume, start: int, stop: int) -> Volume:
    """Slices [start, stop) along z."""
    x, y, _ = volume.grid.shape
    grid = volume.grid.cropped((0, 0, start), (x, y, stop))
    return Volume(np.ascontiguousarray(volume.array[..., start:stop]), grid)


def train_and_predict(arm: str, seed: int, out: Path, budget: Sequence[str], threads: int | None) -> Path:
    """The folder of one training, its prediction in it."""
    folder = out / f"{arm}_{seed}"
    recipe, run = out / f"{arm}.yaml", folder / "run"
    write_text(yaml.safe_dump({**RECIPE, "loss": ARMS[arm]}, sort_keys=False), recipe)
    if not (run / "fold_0" / "finished.json").exists():
        data = ["--data", str(out / "data" / "datalist.json"), "--recipe", str(recipe), "--out", str(run)]
        medseg(threads, "train", *data, "--fold", "0", "--seed", str(seed), *budget, "--resume")
    image = out / "data" / "test" / "image.nii.gz"
    medseg(threads, "predict", "--model", str(run), "--input", str(image), "--out", str(folder / "labels"))
    return folder


def medseg(threads: int | None, verb: str, *arguments: str) -> None:
    """Run the command line on the processor."""
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "medseg", verb, *arguments, "--device", "cpu", "--quiet"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def score(arm: str, seed: int, folder: Path, data: Path) -> Result:
    """Compare the objects that were found with the nuclei."""
    truth, labels, objects = read_results(folder, data)
    match = match_instances(objects, truth)
    both = int(((labels > 0) & (truth > 0)).sum())
    steps = read_json(RunFolder(folder / "run").fold(0).finished_mark)["steps"]
    return Result(
        arm=arm,
        seed=seed,
        steps=int(steps),
        found=len(np.unique(objects[objects > 0])),
        nuclei=len(np.unique(truth[truth > 0])),
        f1=match.f1,
        pq=match.quality.pq,
        sq=match.quality.sq,
        dice=2 * both / max(int((labels > 0).sum() + (truth > 0).sum()), 1),
    )


def read_results(folder: Path, data: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """The true nuclei that are large enough, the predicted label map, and its objects."""
    nuclei = read_volume(data / "test" / "nuclei.nii.gz")
    truth = nuclei.array[0]
    small = np.bincount(truth.ravel()) * nuclei.grid.voxel_volume_ml < SMALLEST_ML
    path = folder / "labels" / "image.nii.gz"
    return (
        np.where(small[truth], 0, truth),
        read_volume(path).array[0],
        read_volume(instances_path(path)).array[0],
    )


def draw(seed: int, folders: Sequence[Path], out: Path) -> None:
    """The objects of both trainings in colours, the true nuclei outlined, in two planes of the test."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no pictures: matplotlib is not installed", file=sys.stderr)
        return
    image = read_volume(out / "data" / "test" / "image.nii.gz")
    fullest = best_slices((read_results(folders[0], out / "data")[0] > 0).astype(np.uint8))
    aspect = image.grid.spacing_mm[2] / image.grid.spacing_mm[0]
    planes = [(np.s_[:, :, fullest[2]], 1.0), (np.s_[:, fullest[1], :], aspect)]
    figure = Figure(figsize=(5 * len(folders), 5 + 5 * aspect), layout="constrained")
    axes = figure.subplots(2, len(folders), height_ratios=[1.0, aspect], squeeze=False)
    colours = np.random.default_rng(0).permutation(np.linspace(0.0, 1.0, 997))
    for column, folder in enumerate(folders):
        truth, _, objects = read_results(folder, out / "data")
        for row, (plane, stretch) in enumerate(planes):
            shown = axes[row][column]
            shown.imshow(image.array[0][plane].T, cmap="gray", aspect=stretch, origin="lower")
            coloured = np.ma.masked_where(objects[plane] == 0, colours[objects[plane] % 997])
            shown.imshow(coloured.T, cmap="hsv", vmin=0, vmax=1, alpha=0.4, aspect=stretch, origin="lower")
            for number in np.unique(truth[plane][truth[plane] > 0]):
                shown.contour((truth[plane] == number).T, levels=[0.5], colors="white", linewidths=0.8)
            shown.set_axis_off()
        axes[0][column].set_title(f"{folder.name}: {objects.max()} objects")
    with atomic_path(out / f"seed_{seed}.png") as path:
        figure.savefig(path, dpi=100)


def table(results: Sequence[Result]) -> str:
    """Markdown: a row for each training, then means, and the differences seed by seed."""
    lines = [
        "| loss | seed | steps | found / nuclei | F1 at 0.5 | PQ | SQ | Dice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        figures = " | ".join(f"{value:.3f}" for value in (one.f1, one.pq, one.sq, one.dice))
        lines.append(f"| {one.arm} | {one.seed} | {one.steps} | {one.found} / {one.nuclei} | {figures} |")
    keys = ("f1", "pq", "sq", "dice")
    for arm in ARMS:
        own = [[getattr(one, key) for one in results if one.arm == arm] for key in keys]
        lines.append(f"| {arm}, mean | | | | " + " | ".join(mean_and_spread(values) for values in own) + " |")
    plain, border = ([one for one in results if one.arm == arm] for arm in ARMS)
    gains = [[getattr(b, key) - getattr(a, key) for a, b in zip(plain, border, strict=True)] for key in keys]
    lines.append("| border - plain | | | | " + " | ".join(mean_and_spread(values) for values in gains) + " |")
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation where there are several."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
