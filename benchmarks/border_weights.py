"""How long does the U-Net's weight map take, and is it the one of its definition?

Cells that touch, in a volume as large as a few: the map by medseg; by one distance transform of the whole
volume for each instance, which is the definition; and by distance transforms in each instance's box, grown
as far as the exponential matters, which is the usual shortcut. Each in a process of its own: seconds of the
processor, memory at its peak above what the process held before, and the largest difference to the
definition.

    python benchmarks/border_weights.py [--side 128] [--instances 150] [--spacing 1 1 1]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from scipy import ndimage
from scipy.spatial import cKDTree

Array = npt.NDArray[Any]

W0 = 10.0
SIGMAS_OF_SHORTCUT = 4.8
"""As far as medseg looks."""


def main() -> None:
    """Measure each way; print a table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--instances", type=int, default=150)
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.0), help="millimetres")
    parser.add_argument("--sigma", type=float, help="millimetres; five times the smallest spacing")
    parser.add_argument("--repetitions", type=int, default=3, help="the fastest counts; of the definition, 1")
    parser.add_argument("--one", choices=sorted(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sigma = chosen.sigma or 5.0 * min(chosen.spacing)
    if chosen.one:
        measure_one(chosen, sigma)
        return
    print("| cells | way | seconds | times faster | MiB | largest difference |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for filled in (0.2, 0.85):
            rows = {way: run(way, filled, Path(folder)) for way in WAYS}
            truth, naive = np.load(Path(folder) / "definition.npy"), rows["definition"]["seconds"]
            for way, row in rows.items():
                error = float(np.abs(np.load(Path(folder) / f"{way}.npy") - truth).max())
                cells = f"{row['count']} in {row['filled']:.0%} of {chosen.side}³"
                times = f"{row['seconds']:.2f} | {naive / row['seconds']:.0f} | {row['mib']:.0f}"
                print(f"| {cells} | {way} | {times} | {error:.1e} |", flush=True)
    spacing = " x ".join(f"{length:g}" for length in chosen.spacing)
    print(
        f"\nw0 {W0:g}, sigma {sigma:g} mm, voxels of {spacing} mm; one thread, NumPy {np.__version__}, ",
        end="",
    )
    print(f"SciPy {scipy.__version__}, Python {platform.python_version()}, {platform.platform()}.")


def run(way: str, filled: float, folder: Path) -> dict[str, Any]:
    """One way in a process of its own."""
    command = [
        sys.executable,
        __file__,
        *sys.argv[1:],
        "--one",
        way,
        "--out",
        str(folder / f"{filled}_{way}"),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (folder / f"{filled}_{way}.npy").replace(folder / f"{way}.npy")
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def measure_one(chosen: argparse.Namespace, sigma: float) -> None:
    """Time one way, keep its map, tell the figures as JSON."""
    filled = float(chosen.out.name.partition("_")[0])
    instances = cells(chosen.instances, chosen.side, filled)
    way = WAYS[chosen.one]
    way(instances[:16, :16, :16], chosen.spacing, sigma)  # imports do not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(1 if chosen.one == "definition" else chosen.repetitions):
        start = time.process_time()
        weights = way(instances, chosen.spacing, sigma)
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(chosen.out.with_name(f"{chosen.out.name}.npy"), weights)
    figures = {
        "seconds": min(seconds),
        "mib": (peak - before) / 1024,
        "count": len(np.unique(instances)) - 1,
        "filled": float((instances > 0).mean()),
    }
    print(json.dumps(figures))


def cells(count: int, side: int, filled: float, seed: int = 0) -> Array:
    """Balls around random points, cut where they meet, that fill a part of the volume."""
    rng = np.random.default_rng(seed)
    points = np.moveaxis(np.indices((side,) * 3, dtype=np.float32), 0, -1)
    distance, nearest = cKDTree(rng.uniform(0, side, (count, 3))).query(points)
    relative = distance / rng.uniform(0.7, 1.0, count)[nearest]
    return np.where(relative <= np.quantile(relative, filled), nearest + 1, 0).astype(np.int32)


def by_medseg(instances: Array, spacing_mm: Sequence[float], sigma_mm: float) -> Array:
    """What medseg gives."""
    from medseg.transforms import border_weight_map

    return border_weight_map(instances, spacing_mm, W0, sigma_mm)


def by_definition(instances: Array, spacing_mm: Sequence[float], sigma_mm: float) -> Array:
    """One distance transform of the whole volume for each instance; the two smallest are kept."""
    first = np.full(instances.shape, np.inf)
    second = first.copy()
    for number in np.unique(instances[instances > 0]):
        keep_two(ndimage.distance_transform_edt(instances != number, sampling=spacing_mm), first, second)
    return weighted(first, second, sigma_mm)


def by_boxes(instances: Array, spacing_mm: Sequence[float], sigma_mm: float) -> Array:
    """The same in each instance's box, grown as far as the exponential matters."""
    first = np.full(instances.shape, np.inf)
    second = first.copy()
    margins = [int(np.ceil(SIGMAS_OF_SHORTCUT * sigma_mm / length)) for length in spacing_mm]
    for index, box in enumerate(ndimage.find_objects(instances), start=1):
        if box is None:
            continue
        grown = tuple(
            slice(max(0, part.start - margin), part.stop + margin)
            for part, margin in zip(box, margins, strict=True)
        )
        distance = ndimage.distance_transform_edt(instances[grown] != index, sampling=spacing_mm)
        keep_two(distance, first[grown], second[grown])
    return weighted(first, second, sigma_mm)


def keep_two(distance: Array, first: Array, second: Array) -> None:
    """The two smallest so far, in place."""
    np.minimum(second, np.maximum(first, distance), out=second)
    np.minimum(first, distance, out=first)


def weighted(first: Array, second: Array, sigma_mm: float) -> Array:
    """Equation 2 of the U-Net paper, with class weights of 1."""
    with np.errstate(under="ignore"):
        weights: Array = 1.0 + W0 * np.exp(-((first + second) ** 2) / (2.0 * sigma_mm**2))
    return weights


WAYS: dict[str, Callable[[Array, Sequence[float], float], Array]] = {
    "definition": by_definition,
    "boxes": by_boxes,
    "medseg": by_medseg,
}

if __name__ == "__main__":
    main()
