"""How long does preprocessing alone take, and how much memory?

Plans, then preprocesses all cases of a data set into a cache that is thrown away; prints a line of JSON.
Imports and the plan are not in the seconds. ``against_nnunet.py --preprocessing`` calls it, pinned to a core:

    python benchmarks/preprocessing.py --data DATASET [--recipe unet]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from medseg.data import load_dataset
from medseg.progress import SilentProgress
from medseg.runs import load_recipe
from medseg.training.cache import prepare_cases
from medseg.training.clock import cpu_seconds
from medseg.training.planning import plan_from_dataset


def main() -> None:
    """Preprocess, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a folder with a dataset.json")
    parser.add_argument("--recipe", default="unet")
    chosen = parser.parse_args()
    dataset, recipe = load_dataset(chosen.data), load_recipe(chosen.recipe)
    plan = plan_from_dataset(dataset, recipe)
    with tempfile.TemporaryDirectory() as scratch:
        before_gib = peak_gib()
        clock, used = time.perf_counter(), cpu_seconds()
        prepare_cases(dataset.cases, plan, Path(scratch), SilentProgress())
        measured = {
            "cases": len(dataset.cases),
            "seconds": time.perf_counter() - clock,
            "cpu_seconds": cpu_seconds() - used,
            "bytes": sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file()),
            "peak_gib_above_the_plan": peak_gib() - before_gib,
        }
    print(json.dumps(measured))


def peak_gib() -> float:
    """Resident memory so far of this process, or of the largest that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 2**20


if __name__ == "__main__":
    main()
