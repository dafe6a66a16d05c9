"""Overlap metrics of many classes: do medseg, MONAI and nnU-Net agree, and how long does each take?

Agreement: Dice and IoU of random pairs of label maps and, with ``--data``, of real ones (MR hippocampus and a
CT with about 40 labels) against copies shifted by a few voxels. Speed: two label maps of one size, of
structures or of noise; every row is a process of its own, with a peak of its own. Prints Markdown:

    python benchmarks/overlap_metrics.py --agreement [--data FOLDER] [--peers PYTHON]
    python benchmarks/overlap_metrics.py --speed [--size 256] [--classes 40] [--threads 1] [--peers PYTHON]

``--peers`` names the interpreter of an environment that has nnU-Net beside medseg. At 40 classes and 256^3
MONAI's one-hot tensors take about 16 GB.
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

LabelMap = npt.NDArray[Any]
Found = dict[str, list[float]]
"""By metric, a number for each foreground class."""

RANDOM_PAIRS = 200
HIPPOCAMPUS_CASES = 39
RATES = ("sensitivity", "precision", "specificity")


def by_medseg(pred: LabelMap, ref: LabelMap, classes: int) -> Found:
    """Everything that an ``Overlap`` knows, and the means over classes."""
    from medseg.labels import LabelScheme
    from medseg.metrics import confusion, frequency_weighted_iou, mean_iou, overlaps_of, pixel_accuracy

    labels = LabelScheme.from_names({value: f"label {value}" for value in range(1, classes + 1)})
    counts = confusion(pred, ref, labels)
    overlaps = overlaps_of(counts, labels)
    found = {
        name: [float(getattr(overlap, name)) for overlap in overlaps]
        for name in ("dice", "iou", *RATES, "volume_difference", "relative_volume_difference")
    }
    found["over_classes"] = [of(counts) for of in (pixel_accuracy, mean_iou, frequency_weighted_iou)]
    return found


def by_monai(pred: LabelMap, ref: LabelMap, classes: int) -> Found:
    """Dice, IoU and the confusion matrix's rates, by three metrics on one pair of one-hot tensors."""
    from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU

    maps = _one_hot(pred, classes), _one_hot(ref, classes)
    dice = DiceMetric(include_background=False)(*maps)
    iou = MeanIoU(include_background=False)(*maps)
    rates = ConfusionMatrixMetric(include_background=False, metric_name=RATES)
    rates(*maps)
    numbers = rates.aggregate()
    found = {"dice": dice[0].tolist(), "iou": iou[0].tolist()}
    return found | {f"mean {name}": [float(number)] for name, number in zip(RATES, numbers, strict=True)}


def by_monai_dice(pred: LabelMap, ref: LabelMap, classes: int) -> Found:
    """Dice alone, on one-hot tensors."""
    from monai.metrics import compute_dice

    maps = _one_hot(pred, classes), _one_hot(ref, classes)
    return {"dice": compute_dice(*maps, include_background=False)[0].tolist()}


def by_monai_dice_of_labels(pred: LabelMap, ref: LabelMap, classes: int) -> Found:
    """Dice alone, on label maps: MONAI compares them class by class."""
    import torch
    from monai.metrics import DiceMetric

    maps = (torch.from_numpy(array)[None, None] for array in (pred, ref))
    return {"dice": DiceMetric(include_background=False, num_classes=classes + 1)(*maps)[0].tolist()}


def by_nnunet(pred: LabelMap, ref: LabelMap, classes: int) -> Found:
    """Dice, IoU and the four counts, from masks class by class; the maps are in memory already."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    class InMemory:
        def read_seg(self, name: str) -> tuple[LabelMap, None]:
            return {"pred": pred, "ref": ref}[name], None

    table = compute_metrics("ref", "pred", InMemory(), list(range(1, classes + 1)))["metrics"]
    return {
        ours: [float(table[label][theirs]) for label in range(1, classes + 1)]
        for ours, theirs in (("dice", "Dice"), ("iou", "IoU"))
    }


ROWS: dict[str, tuple[str, Callable[[LabelMap, LabelMap, int], Found]]] = {
    "medseg": ("medseg, all overlap metrics", by_medseg),
    "monai": ("MONAI, Dice + MeanIoU + ConfusionMatrix, one-hot", by_monai),
    "monai-dice": ("MONAI, compute_dice alone, one-hot", by_monai_dice),
    "monai-labels": ("MONAI, Dice alone, label maps", by_monai_dice_of_labels),
    "nnunet": ("nnU-Net, compute_metrics", by_nnunet),
}
OF_OTHERS = ("nnunet",)


def _one_hot(array: LabelMap, classes: int) -> Any:
    """As MONAI's users make it: (1, K + 1, X, Y, Z), float32."""
    import torch
    from monai.networks import one_hot

    return one_hot(torch.from_numpy(array)[None, None], num_classes=classes + 1)


def main() -> None:
    """Compare or measure; print tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--data", type=Path, help="folder with mr/hippocampus and ct/totalsegmentator")
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis")
    parser.add_argument("--classes", type=int, default=40, help="without the background")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--peers", default=sys.executable, help="interpreter with nnU-Net")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--maps", choices=("structures", "noise"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        measure(chosen)
        return
    rows = chosen.rows.split(",")
    if chosen.agreement:
        if chosen.peers == sys.executable:
            print_agreement(rows, chosen.data)
        else:
            command = [chosen.peers, __file__, "--agreement", "--rows", chosen.rows]
            subprocess.run(command + (["--data", str(chosen.data)] if chosen.data else []), check=True)
    if chosen.speed:
        for maps in ("structures", "noise"):
            print_speed(rows, maps, chosen)


# Agreement


def print_agreement(rows: list[str], data: Path | None) -> None:
    """The largest difference of each row from medseg, in Dice and IoU, over all pairs and classes."""
    print("\n| pairs | row | numbers | largest difference in Dice | in IoU | scored by medseg alone |")
    print("|---|---|---|---|---|---|")
    sets = {"random": random_pairs()}
    if data is not None:
        sets |= {"MR hippocampus": hippocampus(data), "CT, 40 labels": many_labels(data)}
    for name, pairs in sets.items():
        kept = list(pairs)
        for row in rows:
            if row != "medseg":
                print(f"| {len(kept)} {name} | {ROWS[row][0]} | {compared(ROWS[row][1], kept)} |")


def compared(
    method: Callable[[LabelMap, LabelMap, int], Found], pairs: list[tuple[LabelMap, LabelMap, int]]
) -> str:
    """A method against medseg: how many numbers, the largest differences, and what it leaves out.

    Raises:
        ValueError: Medseg calls a number undefined that the other has, or the other one that is not 0.
    """
    differences: dict[str, list[float]] = {"dice": [], "iou": []}
    alone = 0
    for pred, ref, classes in pairs:
        ours, theirs = by_medseg(pred, ref, classes), method(pred, ref, classes)
        for metric in differences.keys() & theirs.keys():
            mine, other = np.array(ours[metric]), np.array(theirs[metric])
            left_out = np.isnan(other) & ~np.isnan(mine)  # MONAI scores no class without a reference
            if (np.isnan(mine) & ~np.isnan(other)).any() or mine[left_out].any():
                raise ValueError(f"{metric} is {mine} and {other}")
            alone += np.count_nonzero(left_out)
            differences[metric] += np.abs(mine - other)[~np.isnan(other)].tolist()
    largest = [f"{max(found):.1e}" if found else "" for found in differences.values()]
    return " | ".join([str(sum(map(len, differences.values()))), *largest, str(alone)])


def random_pairs() -> Iterator[tuple[LabelMap, LabelMap, int]]:
    """Noise of few or many classes, some of them missing from one map or from both."""
    random = np.random.default_rng(0)
    for _ in range(RANDOM_PAIRS):
        classes = int(random.integers(1, 12))
        shape = tuple(random.integers(3, 24, 3))
        ref = random.integers(0, classes + 1, shape).astype(np.uint8)
        pred = np.where(random.random(shape) < 0.7, ref, random.integers(0, classes + 1, shape))
        for array in (pred, ref):
            array[array == random.integers(1, classes + 2)] = 0
        yield pred.astype(np.uint8), ref, classes


def hippocampus(data: Path) -> Iterator[tuple[LabelMap, LabelMap, int]]:
    """Real label maps and shifted copies."""
    from medseg.io import read_volume

    folder = data / "mr" / "hippocampus" / "labelsTr"
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for index, path in enumerate(paths[:HIPPOCAMPUS_CASES]):
        ref = read_volume(path).array.squeeze().astype(np.uint8)
        yield np.roll(ref, 1 + index % 3, axis=index % ref.ndim), ref, 2


def many_labels(data: Path) -> Iterator[tuple[LabelMap, LabelMap, int]]:
    """A real label map and a shifted copy; its values, not contiguous, are made so."""
    from medseg.io import read_volume

    stored = read_volume(data / "ct" / "totalsegmentator" / "example_seg.nii.gz").array.squeeze()
    values = np.unique(stored)
    ref = np.searchsorted(values, stored).astype(np.uint8)
    yield np.roll(ref, 2, axis=0), ref, len(values) - 1


# Speed


def print_speed(rows: list[str], maps: str, chosen: argparse.Namespace) -> None:
    """A line a row, each in a process of its own."""
    print(f"\n{chosen.classes} classes, {chosen.size}^3 voxels of {maps}, {chosen.threads} thread(s)\n")
    print("| row | seconds | of the processor | times medseg's | peak memory |\n|---|---|---|---|---|")
    ours = None
    for row in rows:
        interpreter = chosen.peers if row in OF_OTHERS else sys.executable
        command = [interpreter, __file__, "--row", row, "--maps", maps, "--size", str(chosen.size)]
        command += ["--classes", str(chosen.classes), "--threads", str(chosen.threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"| {ROWS[row][0]} | failed with {done.returncode} | | | |", flush=True)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        ours = result["seconds"] if row == "medseg" else ours
        ratio = f"{result['seconds'] / ours:.0f}" if ours else ""
        print(
            f"| {ROWS[row][0]} | {result['seconds']:.3f} | {result['cpu_seconds']:.3f} | {ratio} "
            f"| {result['peak_bytes'] / 1e6:.0f} MB |",
            flush=True,
        )
    print(f"\nNumPy {np.__version__}, Python {platform.python_version()}, {platform.platform()}")


def measure(chosen: argparse.Namespace) -> None:
    """One row: the best of three, and the peak above what two label maps take; prints JSON."""
    method = ROWS[chosen.row][1]
    pred, ref = label_maps(chosen.maps, chosen.size, chosen.classes)
    method(pred[:8, :8, :8].copy(), ref[:8, :8, :8].copy(), chosen.classes)  # imports and warms up
    base = reset_peak()
    walls, processor = [], []
    for _ in range(3):
        started, begun = time.perf_counter(), time.process_time()
        method(pred, ref, chosen.classes)
        walls.append(time.perf_counter() - started)
        processor.append(time.process_time() - begun)
    result = {"seconds": min(walls), "cpu_seconds": min(processor), "peak_bytes": status("VmHWM") - base}
    print(json.dumps(result))


def label_maps(maps: str, size: int, classes: int) -> tuple[LabelMap, LabelMap]:
    """Two label maps of bytes: ragged structures that overlap in part, or noise that does not agree."""
    random = np.random.default_rng(0)
    if maps == "noise":
        pred, ref = random.integers(0, classes + 1, (2, *[size] * 3)).astype(np.uint8)
        return pred, ref
    cells = random.integers(0, classes + 1, [-(-size // 16)] * 3).astype(np.uint8)
    ref = np.kron(cells, np.ones([16] * 3, np.uint8))[:size, :size, :size]
    ragged = random.random(ref.shape, np.float32) < 0.01
    ref = np.where(ragged, np.roll(ref, 3, axis=2), ref)
    return np.roll(ref, 2, axis=1).copy(), ref


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
    warnings.filterwarnings("ignore", category=FutureWarning)
    main()
