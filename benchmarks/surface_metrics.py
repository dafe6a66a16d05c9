"""Surface metrics: does medseg agree with surface-distance and MONAI, and how long does each take?

Agreement: Hausdorff distance, its 95th percentile, mean distances and normalised surface distance of random
masks and, with ``--data``, of real ones (MR hippocampus and a CT with about 40 labels, against copies shifted
by a voxel or two). Speed: HD95, ASSD and NSD of all classes of two label maps; every row is a process of its
own, with a peak of its own. Prints Markdown:

    python benchmarks/surface_metrics.py --agreement --peers PYTHON [--data FOLDER]
    python benchmarks/surface_metrics.py --speed --peers PYTHON [--size 200] [--maps ellipsoids,blobs,...]

``--peers`` names the interpreter of an environment that has surface-distance and MONAI beside medseg.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

LabelMap = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Pair = tuple[Mask, Mask, tuple[float, ...]]

RANDOM_PAIRS = 200
CLASSES = (1, 2, 3, 4)
SPEED_SPACING_MM = (1.0, 1.0, 1.5)
TOLERANCE_MM = 1.0


# Rows: HD95, ASSD and NSD of each class


def by_medseg(pred: LabelMap, ref: LabelMap, spacing: tuple[float, ...], surface: Any = "area") -> None:
    from medseg.metrics import surface_metrics_of_labels

    surface_metrics_of_labels(pred, ref, CLASSES, spacing, tolerance_mm=TOLERANCE_MM, surface=surface)


def by_medseg_in_voxels(pred: LabelMap, ref: LabelMap, spacing: tuple[float, ...]) -> None:
    by_medseg(pred, ref, spacing, "voxels")


def by_surface_distance(pred: LabelMap, ref: LabelMap, spacing: tuple[float, ...]) -> None:
    package = surface_distance()
    for value in CLASSES:
        distances = package.compute_surface_distances(ref == value, pred == value, spacing)
        package.compute_robust_hausdorff(distances, 95)
        package.compute_average_surface_distance(distances)
        package.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)


def by_monai(pred: LabelMap, ref: LabelMap, spacing: tuple[float, ...]) -> None:
    import torch
    from monai.metrics import compute_average_surface_distance as assd
    from monai.metrics import compute_hausdorff_distance as hausdorff
    from monai.metrics import compute_surface_dice as nsd

    torch.set_num_threads(1)
    for value in CLASSES:
        pair = [torch.from_numpy(array == value)[None, None] for array in (pred, ref)]
        hausdorff(*pair, include_background=True, percentile=95, spacing=spacing)
        assd(*pair, include_background=True, symmetric=True, spacing=spacing)
        nsd(*pair, [TOLERANCE_MM], include_background=True, spacing=spacing)


ROWS: dict[str, tuple[str, Callable[[LabelMap, LabelMap, tuple[float, ...]], None]]] = {
    "medseg": ("medseg, by area", by_medseg),
    "surface-distance": ("surface-distance, by area", by_surface_distance),
    "medseg-voxels": ("medseg, by voxels", by_medseg_in_voxels),
    "monai": ("MONAI, by voxels", by_monai),
}
OF_OTHERS = ("surface-distance", "monai")
COMPARED_WITH = {"surface-distance": "medseg", "monai": "medseg-voxels"}


def surface_distance() -> Any:
    """The package, which names infinity as NumPy 1 did."""
    for name, value in (("Inf", np.inf), ("NaN", np.nan)):
        if not hasattr(np, name):
            setattr(np, name, value)
    import surface_distance as package

    return package


def main() -> None:
    """Compare, measure; print tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--data", type=Path, help="folder with mr/hippocampus and ct/totalsegmentator")
    parser.add_argument("--size", type=int, default=200, help="voxels along each axis")
    parser.add_argument("--maps", default=",".join(MAPS))
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--peers", default=sys.executable, help="interpreter with the other packages")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        measure(chosen.row, chosen.maps, chosen.size)
        return
    if chosen.agreement and chosen.peers != sys.executable:
        command = [
            chosen.peers,
            __file__,
            "--agreement",
            *(["--data", str(chosen.data)] if chosen.data else []),
        ]
        subprocess.run(command, check=True)
    elif chosen.agreement:
        print_agreement(chosen.data)
    if chosen.speed:
        for maps in chosen.maps.split(","):
            print_speed(chosen.rows.split(","), maps, chosen.size, chosen.peers)


# Agreement


def print_agreement(data: Path | None) -> None:
    """The largest difference in each number, over all pairs of each set."""
    sets = {"random": list(random_pairs())}
    if data is not None:
        sets |= {"MR hippocampus": list(hippocampus(data)), "CT, 40 labels": list(many_labels(data))}
    print(
        "\n| pairs | against | HD mm | HD95 mm | ASSD mm | directed means mm | NSD |"
        "\n|---|---|---|---|---|---|---|"
    )
    for name, pairs in sets.items():
        for peer, compare in (("surface-distance", off_from_surface_distance), ("MONAI", off_from_monai)):
            off = np.max([compare(*pair) for pair in pairs], axis=0)
            cells = " | ".join("" if np.isnan(number) else f"{number:.1e}" for number in off)
            print(f"| {len(pairs)} {name} | {peer} | {cells} |", flush=True)


def off_from_surface_distance(pred: Mask, ref: Mask, spacing: tuple[float, ...]) -> list[float]:
    """By how much medseg is off, by area; ASSD is made of surface-distance's elements."""
    from medseg.metrics import surface_distances

    package = surface_distance()
    theirs = package.compute_surface_distances(ref, pred, spacing)
    ours = surface_distances(pred, ref, spacing)
    sides = ("gt_to_pred", "gt"), ("pred_to_gt", "pred")
    elements = [(theirs[f"distances_{way}"], theirs[f"surfel_areas_{side}"]) for way, side in sides]
    assd = sum(mm @ area for mm, area in elements) / sum(area.sum() for _, area in elements)
    means = package.compute_average_surface_distance(theirs)[::-1]
    return [
        abs(ours.hausdorff_mm() - package.compute_robust_hausdorff(theirs, 100)),
        abs(ours.hausdorff_mm(95) - package.compute_robust_hausdorff(theirs, 95)),
        abs(ours.assd_mm() - assd),
        float(np.abs(np.subtract(ours.directed_means_mm(), means)).max()),
        abs(ours.nsd(TOLERANCE_MM) - package.compute_surface_dice_at_tolerance(theirs, TOLERANCE_MM)),
    ]


def off_from_monai(pred: Mask, ref: Mask, spacing: tuple[float, ...]) -> list[float]:
    """By how much medseg is off, by voxels; MONAI counts in single precision."""
    import torch
    from monai.metrics import compute_average_surface_distance as assd
    from monai.metrics import compute_hausdorff_distance as hausdorff
    from monai.metrics import compute_surface_dice as nsd

    from medseg.metrics import surface_distances

    ours = surface_distances(pred, ref, spacing, surface="voxels")
    pair = [torch.from_numpy(mask)[None, None] for mask in (pred, ref)]
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    return [
        abs(ours.hausdorff_mm() - float(hausdorff(*pair, **options))),
        abs(ours.hausdorff_mm(95) - float(hausdorff(*pair, percentile=95, **options))),
        abs(ours.assd_mm() - float(assd(*pair, symmetric=True, **options))),
        np.nan,
        abs(ours.nsd(TOLERANCE_MM) - float(nsd(*pair, [TOLERANCE_MM], **options))),
    ]


def random_pairs() -> Iterator[Pair]:
    """Noise, blobs and blobs with specks, near and far, in 2D and 3D, of any spacing."""
    random = np.random.default_rng(0)
    made = 0
    while made < RANDOM_PAIRS:
        shape = tuple(random.integers(2, 30, 2 if made % 4 == 0 else 3).tolist())
        spacing = tuple(random.uniform(0.3, 4.0, len(shape)).tolist()) if made % 3 else (1.0,) * len(shape)
        masks = []
        for _ in range(2):
            field = random.standard_normal(shape)
            if made % 3:
                field = ndimage.gaussian_filter(field, 0.7 * (made % 3))
            masks.append(field > np.quantile(field, random.uniform(0.2, 0.99)))
        pred, ref = masks
        if made % 5 == 0:
            pred = ref ^ (random.random(shape) < 0.01)
        if pred.any() and ref.any():
            made += 1
            yield pred, ref, spacing


def hippocampus(data: Path) -> Iterator[Pair]:
    """Real masks and shifted copies."""
    from medseg.io import read_volume

    for index, path in enumerate(sorted((data / "mr" / "hippocampus" / "labelsTr").glob("h*.nii.gz"))):
        volume = read_volume(path)
        ref = np.asarray(volume.array).squeeze()
        pred = np.roll(ref, 1 + index % 3, axis=index % ref.ndim)
        for value in (1, 2):
            yield pred == value, ref == value, volume.grid.spacing_mm


def many_labels(data: Path) -> Iterator[Pair]:
    """Each structure of a real label map and of a shifted copy."""
    from medseg.io import read_volume

    volume = read_volume(data / "ct" / "totalsegmentator" / "example_seg.nii.gz")
    ref = np.asarray(volume.array).squeeze()
    pred = np.roll(ref, 2, axis=0)
    for value in np.unique(ref[ref != 0]):
        yield pred == value, ref == value, volume.grid.spacing_mm


# Speed


def ellipsoids(size: int) -> tuple[LabelMap, LabelMap]:
    """Four smooth structures, displaced by three voxels and a little too large."""
    places = np.indices([size] * 3, dtype=np.float32) / size
    centres = np.array([(0.28, 0.28, 0.5), (0.28, 0.72, 0.5), (0.72, 0.28, 0.5), (0.72, 0.72, 0.5)])
    found = []
    for shift, larger in ((3 / size, 1.5 / size), (0.0, 0.0)):
        label_map = np.zeros([size] * 3, np.uint8)
        for value, centre in zip(CLASSES, centres, strict=True):
            radii = np.array([0.2, 0.19, 0.38]) + larger
            moved = centre + shift * np.eye(3)[value % 3]
            label_map[sum(((places[axis] - moved[axis]) / radii[axis]) ** 2 for axis in range(3)) < 1] = value
        found.append(label_map)
    return found[0], found[1]


def blobs(size: int) -> tuple[LabelMap, LabelMap]:
    """Four winding structures that fill most of the image, with errors of a few voxels, some larger."""
    random = np.random.default_rng(0)
    pred, ref = [], []
    for _ in range(len(CLASSES) + 1):
        shape = field(random, size, 12.0)
        ref.append(shape)
        pred.append(shape + 0.1 * field(random, size, 4.0))
    return np.argmax(pred, axis=0).astype(np.uint8), np.argmax(ref, axis=0).astype(np.uint8)


def field(random: np.random.Generator, size: int, smoothness: float) -> npt.NDArray[np.float32]:
    """Smooth noise of unit deviation."""
    noise = ndimage.gaussian_filter(random.standard_normal([size] * 3, np.float32), smoothness)
    return noise / noise.std()


def noise(size: int) -> tuple[LabelMap, LabelMap]:
    """No structure at all: nearly every voxel is a boundary."""
    random = np.random.default_rng(0)
    pred, ref = (random.integers(0, 5, [size] * 3).astype(np.uint8) for _ in range(2))
    return pred, ref


def far(size: int) -> tuple[LabelMap, LabelMap]:
    """Each structure of the ellipsoids called by another's name: all distances are long."""
    pred, ref = ellipsoids(size)
    return np.array([0, 2, 1, 4, 3], np.uint8)[pred], ref


MAPS = {"ellipsoids": ellipsoids, "blobs": blobs, "noise": noise, "far": far}


def print_speed(rows: list[str], maps: str, size: int, peers: str) -> None:
    """A line a row, each in a process of its own."""
    print(f"\n{len(CLASSES)} classes, {size}^3 voxels of {maps}, one thread\n")
    print("| row | seconds | of the processor | times medseg's | peak memory |\n|---|---|---|---|---|")
    taken: dict[str, float] = {}
    for row in rows:
        interpreter = peers if row in OF_OTHERS else sys.executable
        command = [interpreter, __file__, "--row", row, "--maps", maps, "--size", str(size)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"| {ROWS[row][0]} | failed with {done.returncode} | | | |", flush=True)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        taken[row] = result["cpu_seconds"]
        ours = taken.get(COMPARED_WITH.get(row, ""))
        print(
            f"| {ROWS[row][0]} | {result['seconds']:.3f} | {result['cpu_seconds']:.3f} "
            f"| {f'{taken[row] / ours:.1f}' if ours else ''} | {result['peak_bytes'] / 1e6:.0f} MB |",
            flush=True,
        )
    print(f"\nNumPy {np.__version__}, Python {platform.python_version()}, {platform.platform()}")


def measure(row: str, maps: str, size: int) -> None:
    """One row: the best of three, or of those begun in half a minute; its peak above what two maps take.

    Prints JSON.
    """
    method = ROWS[row][1]
    method(*ellipsoids(24), SPEED_SPACING_MM)  # imports and warms up
    pred, ref = MAPS[maps](size)
    base = reset_peak()
    walls, processor = [], []
    while len(walls) < 3 and sum(walls) < 30:
        started, begun = time.perf_counter(), time.process_time()
        method(pred, ref, SPEED_SPACING_MM)
        walls.append(time.perf_counter() - started)
        processor.append(time.process_time() - begun)
    result = {"seconds": min(walls), "cpu_seconds": min(processor), "peak_bytes": status("VmHWM") - base}
    print(json.dumps(result))


def reset_peak() -> int:
    """Forget the peak so far; what is resident now, with all that was freed given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status("VmRSS")


def status(key: str) -> int:
    """Bytes, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
