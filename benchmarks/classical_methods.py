"""How long the classical methods take, in how much memory, beside their peers.

Each measurement runs in a process of its own. Peers (PyMaxflow, SimpleITK, scikit-image) come from the
environment of ``--peers``.

    python benchmarks/classical_methods.py --peers PYTHON --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

SPACING_MM = (1.0, 1.0, 1.5)
MEDIUM, LARGE = (128, 128, 64), (256, 256, 128)


def scene(shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of smooth regions in noise, and scores that its intensities alone give; single precision."""
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.normal(size=[size // 4 for size in shape]), 3.0)
    smooth = ndimage.zoom(coarse / coarse.std(), 4, order=1).astype(np.float32)
    bounds = np.quantile(smooth, np.linspace(0.0, 1.0, classes + 1)[1:-1])
    image = np.digitize(smooth, bounds).astype(np.float32) + rng.normal(0.0, 0.5, shape).astype(np.float32)
    scores = np.stack([-((image - index) ** 2) / (2.0 * 0.5**2) for index in range(classes)])
    return image, scores


def cut(shape: tuple[int, ...], classes: int, solver: str) -> Callable[[], Any]:
    from medseg.classical import graph_cut

    image, scores = scene(shape, classes)
    return lambda: graph_cut(scores, image, SPACING_MM, solver=solver)


def pymaxflow_whole_grid(shape: tuple[int, ...]) -> Callable[[], Any]:
    """All voxels as one graph, as PyMaxflow's own examples have it."""
    import maxflow

    image, scores = scene(shape, 2)

    def run() -> Any:
        graph = maxflow.GraphFloat()
        nodes = graph.add_grid_nodes(shape)
        for axis, length in enumerate(SPACING_MM):
            differences = np.diff(image, axis=axis) ** 2
            weights = np.zeros(shape)
            inner = tuple(slice(0, -1) if other == axis else slice(None) for other in range(3))
            weights[inner] = 2.0 / 3.0 / length * np.exp(-differences / (2.0 * differences.mean()))
            structure = np.zeros((3, 3, 3))
            structure[tuple(2 if other == axis else 1 for other in range(3))] = 1.0
            graph.add_grid_edges(nodes, weights, structure, symmetric=True)
        graph.add_grid_tedges(nodes, -scores[1].astype(np.float64), -scores[0].astype(np.float64))
        graph.maxflow()
        return graph.get_grid_segments(nodes)

    return run


def crf(shape: tuple[int, ...], classes: int, passes: int = 1) -> Callable[[], Any]:
    from medseg.classical import dense_crf

    image, scores = scene(shape, classes)
    return lambda: dense_crf(
        scores, image, SPACING_MM, bilateral_sigma_mm=3.0, contrast=1.0, iterations=10, passes=passes
    )


def growing(shape: tuple[int, ...]) -> Callable[[], Any]:
    from medseg.classical import confidence_region

    image, _ = scene(shape, 2)
    seeds = np.zeros(shape, np.bool_)
    seeds[np.unravel_index(ndimage.gaussian_filter(image, 3.0).argmax(), shape)] = True
    return lambda: confidence_region(image, seeds, spacing_mm=SPACING_MM, radius_mm=2.0)


def growing_sitk(shape: tuple[int, ...]) -> Callable[[], Any]:
    import SimpleITK as sitk

    image, _ = scene(shape, 2)
    index = np.unravel_index(ndimage.gaussian_filter(image, 3.0).argmax(), shape)
    volume, seed = sitk.GetImageFromArray(image.transpose()), [int(voxel) for voxel in index]
    return lambda: sitk.ConfidenceConnected(volume, [seed], 4, 2.5, 2, 1)


def blobs(shape: tuple[int, ...]) -> Callable[[], Any]:
    from medseg.classical import find_blobs

    image, _ = scene(shape, 2)
    options = {"smallest_radius_mm": 2.0, "largest_radius_mm": 6.0, "threshold": 0.3, "scales": 5}
    return lambda: find_blobs(image, (1.0, 1.0, 1.0), **options)


def blobs_skimage(shape: tuple[int, ...]) -> Callable[[], Any]:
    from skimage.feature import blob_log

    image, _ = scene(shape, 2)
    smallest, largest = 2.0 / 3.0**0.5, 6.0 / 3.0**0.5
    options = {"num_sigma": 5, "threshold": 0.3, "overlap": 0.5, "log_scale": True}
    return lambda: blob_log(image, smallest, largest, **options)


def stable(shape: tuple[int, ...]) -> Callable[[], Any]:
    from medseg.classical import find_stable_regions

    image, _ = scene(shape, 2)
    smooth = ndimage.gaussian_filter(image, 1.0)
    return lambda: find_stable_regions(
        smooth, SPACING_MM, delta=0.2, smallest_volume_ml=0.1, largest_volume_ml=50.0
    )


MEASURED: dict[str, tuple[bool, Callable[[], Callable[[], Any]]]] = {
    "graph cut, 2 classes, SciPy": (False, lambda: cut(MEDIUM, 2, "scipy")),
    "graph cut, 2 classes, PyMaxflow in it": (True, lambda: cut(MEDIUM, 2, "pymaxflow")),
    "graph cut, 2 classes, PyMaxflow on the whole grid": (True, lambda: pymaxflow_whole_grid(MEDIUM)),
    "graph cut, 5 classes, SciPy": (False, lambda: cut(MEDIUM, 5, "scipy")),
    "dense CRF, 5 classes": (False, lambda: crf(MEDIUM, 5)),
    "confidence region": (False, lambda: growing(MEDIUM)),
    "confidence region, SimpleITK": (True, lambda: growing_sitk(MEDIUM)),
    "blobs, 5 scales": (False, lambda: blobs(MEDIUM)),
    "blobs, 5 scales, scikit-image": (True, lambda: blobs_skimage(MEDIUM)),
    "stable regions, 64 levels": (False, lambda: stable(MEDIUM)),
    "large: dense CRF, 5 classes": (False, lambda: crf(LARGE, 5)),
    "large: graph cut, 2 classes, SciPy": (False, lambda: cut(LARGE, 2, "scipy")),
}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str) -> None:
    """Print seconds, seconds of processors, and how much the peak rose, as JSON."""
    run = MEASURED[name][1]()
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    run()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"s": seconds, "cpu": cpu_seconds, "rise": peak_bytes() - before, "peak": peak_bytes()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="Python of an environment with the peers")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--measure", choices=list(MEASURED), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    print("| what | seconds | CPU seconds | memory beside the input, MB | peak of the process, MB |")
    print("|---|---|---|---|---|")
    environment = {**os.environ, "OMP_NUM_THREADS": arguments.threads}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    for name, (peer, _) in MEASURED.items():
        if not name.startswith(arguments.only) or (peer and not arguments.peers):
            continue
        python = arguments.peers if peer else sys.executable
        command = [python, __file__, "--measure", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {name} | failed: {done.stderr.strip().splitlines()[-1]} | | | |", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        row = f"{found['s']:.2f} | {found['cpu']:.2f} | {found['rise'] / 1e6:.0f} | {found['peak'] / 1e6:.0f}"
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
