"""Joint label fusion against ANTs' on the same registered atlases: how alike, how right, how fast.

    python benchmarks/joint_fusion.py --registered runs/atlases/registered --ants-python PYTHON

The cases are those that ``benchmarks/atlas_methods.py`` has written. Both get hard labels and work on the
same voxels, those on which the atlases differ; patches of 5x5x5, searched one voxel around, beta 2, alpha
0.1. One thread each; seconds are CPU time. ``PYTHON`` is one that has antspyx.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.atlas.joint import joint_fusion
from medseg.atlas.patches import disputed

PEER = Path(__file__).parent / "peers" / "ants_fusion.py"
OPTIONS = {"patch_radius": 2, "search_radius": 1, "beta": 2, "alpha": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registered", type=Path, required=True)
    parser.add_argument("--ants-python", required=True)
    parser.add_argument("--atlases", type=int, default=20)
    given = parser.parse_args()
    work = given.registered / f"with_{given.atlases}"
    work.mkdir(exist_ok=True)
    ours, seconds, references = {}, [], {}
    for path in sorted(given.registered.glob("*.npz")):
        with np.load(path, allow_pickle=False) as case:
            target, images = case["target"], case["images"][: given.atlases]
            labels, references[path.stem] = (
                case["probabilities"][: given.atlases].argmax(axis=1),
                case["label"],
            )
        votes = np.stack([labels == index for index in range(labels.max() + 1)], axis=1).astype(np.float32)
        np.savez(
            work / path.name,
            target=target,
            images=images,
            labels=labels.astype(np.uint8),
            mask=disputed(votes),
        )
        started = time.process_time()
        found = joint_fusion(target, images, votes, vote_radius=2, **OPTIONS)  # ANTs' patches vote as a whole
        seconds.append(time.process_time() - started)
        ours[path.stem] = found.argmax(axis=0)
    printed = subprocess.run(
        [given.ants_python, PEER, work, json.dumps(OPTIONS)],
        env={**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    theirs = json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith("{")))
    between, ours_right, ants_right = [], [], []
    for name, found in ours.items():
        with np.load(work / f"{name}.npz", allow_pickle=False) as case:
            agreed = case["labels"][0]
            mask = case["mask"]
        ants = np.where(mask, np.load(work / f"{name}.ants.npy"), agreed)
        between.append(mean_dice(found, ants))
        ours_right.append(mean_dice(found, references[name]))
        ants_right.append(mean_dice(ants, references[name]))
    print(f"{len(ours)} cases, {given.atlases} atlases; ANTs {theirs['version']}")
    print(f"Dice between both: mean {np.mean(between):.4f}, lowest {min(between):.4f}")
    print(f"Dice to the reference: ours {np.mean(ours_right):.4f}, ANTs {np.mean(ants_right):.4f}")
    print(f"seconds a case: ours {np.mean(seconds):.2f}, ANTs {np.mean(theirs['seconds']):.2f}")


def mean_dice(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> float:
    values = range(1, int(max(one.max(), other.max())) + 1)
    scores = [
        2.0 * ((one == k) & (other == k)).sum() / ((one == k).sum() + (other == k).sum()) for k in values
    ]
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
