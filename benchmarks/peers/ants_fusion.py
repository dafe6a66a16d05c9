"""Joint label fusion by ANTs, in a Python that has antspyx; called by ``benchmarks/joint_fusion.py``.

For each ``.npz`` of a folder (target, images, labels, mask) it writes what ANTs makes of it beside it, as
``NAME.ants.npy``, and prints the seconds of CPU time as one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import ants
import numpy as np


def main() -> None:
    folder = Path(sys.argv[1])
    options = json.loads(sys.argv[2])
    seconds = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as case:
            target, images, labels, mask = (case[name] for name in ("target", "images", "labels", "mask"))
        started = time.process_time()
        found = ants.joint_label_fusion(
            ants.from_numpy(target.astype(np.float32)),
            ants.from_numpy(mask.astype(np.float32)),
            [ants.from_numpy(image.astype(np.float32)) for image in images],
            beta=options["beta"],
            rad=options["patch_radius"],
            rho=options["alpha"],
            r_search=options["search_radius"],
            label_list=[ants.from_numpy(label.astype(np.float32)) for label in labels],
        )
        seconds.append(time.process_time() - started)
        # The segmentation that comes along leaves the background out: it is what is missing to 1.
        votes = {
            int(label): image.numpy()
            for label, image in zip(found["segmentation_numbers"], found["probabilityimages"], strict=True)
        }
        classes = np.zeros((int(labels.max()) + 1, *target.shape), np.float32)
        for label, probability in votes.items():
            classes[label] = probability
        if 0 not in votes:
            classes[0] = 1.0 - classes.sum(axis=0)
        np.save(path.with_suffix(".ants.npy"), classes.argmax(axis=0).astype(np.uint8))
    print(json.dumps({"version": ants.__version__, "seconds": seconds}))


if __name__ == "__main__":
    main()
