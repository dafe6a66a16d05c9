"""nnU-Net's preprocessing alone, in one process, of a data set that ``nnunet_training.py`` has planned.

Runs under a Python that has nnU-Net; ``against_nnunet.py --preprocessing`` calls it. Imports are not in the
seconds, nor is the start of nnU-Net's worker processes: its cases come one by one, in this process.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from nnunet_training import DATASET


def main() -> None:
    """Preprocess all cases, print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", required=True, type=Path, help="as nnunet_training.py has left it")
    chosen = parser.parse_args()
    raw, preprocessed = chosen.prepared / "raw" / DATASET, chosen.prepared / "preprocessed" / DATASET
    os.environ |= {"nnUNet_raw": str(raw.parent), "nnUNet_preprocessed": str(preprocessed.parent)}
    os.environ |= {"nnUNet_results": str(chosen.prepared)}
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(json.loads((preprocessed / "nnUNetPlans.json").read_text()))
    configuration = plans.get_configuration("3d_fullres")
    described = json.loads((preprocessed / "dataset.json").read_text())
    preprocessor = configuration.preprocessor_class(verbose=False)
    labels = sorted((raw / "labelsTr").glob("*.nii.gz"))
    with tempfile.TemporaryDirectory() as scratch:
        started, used = time.perf_counter(), time.process_time()
        for label in labels:
            name = label.name.removesuffix(".nii.gz")
            image = raw / "imagesTr" / f"{name}_0000.nii.gz"
            target = str(Path(scratch) / name)
            preprocessor.run_case_save(target, [str(image)], str(label), plans, configuration, described)
        measured = {
            "cases": len(labels),
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - used,
            "bytes": sum(path.stat().st_size for path in Path(scratch).iterdir()),
        }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
