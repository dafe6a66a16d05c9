"""Does medseg give the labels that nnU-Net gives with a model that nnU-Net trained?

nnU-Net plans, trains a few steps and predicts by itself, under its own Python; medseg reads the folder that
this leaves, predicts the same images, and both label maps are compared voxel by voxel:

    python benchmarks/nnunet_labels.py --data DATASET --nnunet-python PYTHON --out runs/nnunet_labels

Options choose what nnU-Net is to plan: --configuration 2d, --planner nnUNetPlannerResEncM, --spacing
3.5,1.2,0.9, --reader NibabelIOWithReorient, --folds 2, --features 8, --patch 24,32,24,
--epochs 2, --iterations 250.

What is done already in --out is not done again. It fails if less than 99.9 % of the voxels agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measured import Place, last_json, once, run, table

from medseg.io import read_volume
from medseg.segmenters import load_segmenter

PEER = Path(__file__).parent / "peers" / "nnunet_labels.py"
AGREEING_AT_LEAST = 0.999
PASSED_ON = (
    "cases", "train-cases", "configuration", "planner", "reader", "spacing", "features", "patch", "epochs",
    "iterations", "folds", "learning-rate",
)  # fmt: skip


def main() -> None:
    """Let nnU-Net train and predict, unless it has; predict and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder in the Decathlon's layout")
    parser.add_argument("--nnunet-python", required=True, type=Path, help="a Python that has nnU-Net")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=1)
    for name in PASSED_ON:
        parser.add_argument(f"--{name}", help="see peers/nnunet_labels.py")
    chosen = parser.parse_args()
    theirs = once(chosen.out / "nnunet.json", lambda: by_nnunet(chosen))
    ours = once(chosen.out / "medseg.json", lambda: compared(theirs))
    heads = ["case", "voxels", "foreground", "differ", "seconds"]
    rows = [
        [case["case"], case["voxels"], case["foreground"], case["differ"], f"{case['seconds']:.1f}"]
        for case in ours["cases"]
    ]
    print(table(heads, rows))
    print(f"\n{ours['agree']:.6%} of {ours['voxels']:,} voxels agree; {ours['foreground']:,} are foreground.")
    if ours["agree"] < AGREEING_AT_LEAST:
        sys.exit("too few")


def by_nnunet(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train and predict by nnU-Net; gives where all lies."""
    command: list[str | Path] = [
        chosen.nnunet_python,
        PEER,
        "--data",
        chosen.data,
        "--out",
        chosen.out / "work",
    ]
    for name in PASSED_ON:
        value = getattr(chosen, name.replace("-", "_"))
        if value is not None:
            command += [f"--{name}", value]
    printed, _ = run(command, Place(threads=chosen.threads), chosen.out / "nnunet.txt")
    return last_json(printed)


def compared(theirs: dict[str, Any]) -> dict[str, Any]:
    """Predict by medseg, and count the voxels whose labels differ."""
    segmenter = load_segmenter(theirs["model"], "cpu")
    cases = []
    for image in map(Path, theirs["images"]):
        name = image.name.replace("_0000.nii.gz", ".nii.gz")
        started = time.perf_counter()
        ours = segmenter.segment(image)
        seconds = time.perf_counter() - started
        expected = read_volume(Path(theirs["predictions"]) / name)
        if ours.grid != expected.grid:
            sys.exit(f"{name}: another grid")
        cases.append(
            {
                "case": name,
                "voxels": ours.array.size,
                "foreground": int(np.count_nonzero(expected.array)),
                "differ": int(np.count_nonzero(ours.array != expected.array)),
                "seconds": seconds,
            }
        )
    totals = {name: sum(case[name] for case in cases) for name in ("voxels", "foreground", "differ")}
    return {**totals, "agree": 1 - totals["differ"] / totals["voxels"], "cases": cases}


if __name__ == "__main__":
    main()
