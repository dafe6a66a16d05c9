"""Where the time of an evaluation goes: headers, reading, overlap, surfaces, statistics.

Takes a folder of label maps, makes copies shifted by up to two voxels, and scores them against the originals;
``--enlarge`` repeats each voxel along every axis, for volumes as large as CT. Prints Markdown:

    python benchmarks/evaluation.py FOLDER [--cases 100] [--enlarge 1] [--jobs 2]

Files come from the operating system's cache: from a disk, reading takes longer.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medseg.evaluation import Pair, ScoringOptions, evaluate, find_pairs, summary_of
from medseg.evaluation.grids import check_pairs
from medseg.evaluation.label_maps import read_label_map
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.volume import Volume


def make_pairs(source: Path, out: Path, cases: int, enlarge: int) -> tuple[Pair, ...]:
    """Write references and shifted predictions."""
    generator = np.random.default_rng(0)
    paths = [path for path in sorted(source.glob("*.nii.gz")) if not path.name.startswith(".")][:cases]
    for path in paths:
        volume = read_volume(path)
        labels = volume.array.astype(np.uint8)
        affine = volume.grid.affine.copy()
        affine[:3, :3] /= enlarge
        for axis in (1, 2, 3):
            labels = labels.repeat(enlarge, axis)
        grid = Grid(labels.shape[1:], affine)  # type: ignore[arg-type]
        shift = tuple(int(step) for step in generator.integers(-2, 3, 3))
        write_volume(Volume(labels, grid), out / "ref" / path.name, labels=True)
        write_volume(Volume(np.roll(labels, shift, (1, 2, 3)), grid), out / "pred" / path.name, labels=True)
    return find_pairs(out / "pred", out / "ref").pairs


def read_all(pairs: Sequence[Pair]) -> None:
    """Nothing but the files."""
    for pair in pairs:
        for path in (pair.prediction, pair.reference):
            if path is not None:
                read_label_map(path)


def seconds(work: Callable[[], object]) -> float:
    """The shortest of three runs."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = make_pairs(options.folder, Path(folder), options.cases, options.enlarge)
        voxels = check_pairs(pairs)
        table = evaluate(pairs)
        overlap = ScoringOptions(surface=None)
        rows = {
            "headers of all files": seconds(lambda: check_pairs(pairs)),
            "reading all files": seconds(lambda: read_all(pairs)),
            "evaluation, overlap alone": seconds(lambda: evaluate(pairs, table.labels, options=overlap)),
            "evaluation": seconds(lambda: evaluate(pairs, table.labels)),
            f"evaluation, {options.jobs} processes": seconds(
                lambda: evaluate(pairs, table.labels, jobs=options.jobs)
            ),
            "summary with intervals": seconds(lambda: summary_of(table)),
        }
    print(f"{len(pairs)} cases of {sum(voxels) / len(pairs) / 1e6:.2f} million voxels in the mean, ", end="")
    print(
        f"{len(table.labels.foreground)} classes; {platform.machine()}, Python {platform.python_version()}\n"
    )
    print("| part | s | ms a case |\n|---|---|---|")
    for name, taken in rows.items():
        print(f"| {name} | {taken:.2f} | {1000 * taken / len(pairs):.1f} |")


if __name__ == "__main__":
    main()
