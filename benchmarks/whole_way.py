"""A large CT from file to file: how much memory, how long, and are the labels those of one piece?

Makes a file of 512 x 512 x 600 voxels of 16 bits at 0.8 x 0.8 x 1.0 mm, segments it into 105 classes with a
U-Net of base 32 (random weights) on a grid of 1.5 mm, and compares the written labels with those of crops
that were computed in one piece, with a halo around them: inside, at the volume's corner, across a seam of
slabs.

    python benchmarks/whole_way.py --out results [--max-ram 2GB] [--precision bfloat16] [--size 512,512,600]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medseg.geometry import Grid
from medseg.inference import RestoredScores, choose_compute
from medseg.io import LabelSink, open_volume, read_volume
from medseg.io.sizes import format_bytes, parse_bytes
from medseg.labels import LabelScheme
from medseg.networks import build_network, halo
from medseg.runs import Normalization, PreprocessingSpec
from medseg.segmenters import NetworkSegmenter, segment_to_file
from medseg.transforms import preprocess

SPACING_MM = (0.8, 0.8, 1.0)
NETWORK_SPACING_MM = (1.5, 1.5, 1.5)
LEVELS = 5
STRIDE = 2 ** (LEVELS - 1)
INNER = 24
SPEC = PreprocessingSpec(
    spacing_mm=NETWORK_SPACING_MM,
    normalization=[Normalization(scheme="clip_zscore", lower=-900, upper=1000, mean=50, std=350)],
)


def main() -> None:
    """Make the image, segment it in a process of its own, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--size", default="512,512,600")
    parser.add_argument("--classes", default=105, type=int)
    parser.add_argument("--features", default=32, type=int)
    parser.add_argument("--max-ram", default="4GB")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--no-crops", action="store_true", help="leave the comparison out")
    parser.add_argument("--segment", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    image = chosen.out / f"ct_{chosen.size.replace(',', 'x')}.nii.gz"
    labels = chosen.out / f"labels_{chosen.max_ram}_{chosen.precision}.nii.gz"
    if chosen.segment:
        print(json.dumps(segment(chosen, image, labels)))
        return
    chosen.out.mkdir(parents=True, exist_ok=True)
    if not image.is_file():
        make_image(image, tuple(int(length) for length in chosen.size.split(",")))
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--segment"], check=True, stdout=subprocess.PIPE, text=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{chosen.size}, {chosen.classes} classes, base {chosen.features}, {chosen.precision}")
    print(f"  --max-ram {chosen.max_ram}: {row['seconds']:.0f} s", end="")
    print(f", peak {format_bytes(row['peak_bytes'])}, planned {format_bytes(row['planned_bytes'])}")
    print(row["plan"], flush=True)
    if not chosen.no_crops:
        compare(chosen, image, labels, row)
    print(f"{chosen.threads} threads, {platform.platform()}, PyTorch {torch.__version__}.")


def make_image(path: Path, size: tuple[int, ...]) -> None:
    """Smooth structures with noise, in Hounsfield units."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 1, *(max(2, length // 24) for length in size), generator=generator)
    grid = Grid((size[0], size[1], size[2]), np.diag([*SPACING_MM, 1.0]))
    random = np.random.default_rng(0)
    with LabelSink(path, grid, np.int16) as sink:
        smooth = functional.interpolate(coarse, size=size, mode="trilinear")[0, 0]
        for start in range(0, size[2], 20):
            slab = smooth[..., start : start + 20].numpy() * 300
            slab = slab + random.normal(0, 20, slab.shape)
            sink.write(2, start, slab.clip(-1000, 2000).astype(np.int16))


def network(features: int, classes: int) -> nn.Module:
    """Random weights, with statistics that spread the classes."""
    torch.manual_seed(0)
    levels = [features * 2**level for level in range(LEVELS)]
    return build_network("unet", in_channels=1, out_channels=classes, features=levels).eval()


def segment(chosen: argparse.Namespace, image: Path, labels: Path) -> dict[str, Any]:
    """In this process; its peak counts from its beginning."""
    segmenter = NetworkSegmenter(
        network(chosen.features, chosen.classes),
        labels=LabelScheme.from_names({index: f"structure {index}" for index in range(1, chosen.classes)}),
        channel_names=("CT",),
        preprocessing=SPEC,
        patch_size=(128, 128, 128),
        compute=choose_compute("cpu", chosen.precision),
        max_ram_bytes=parse_bytes(chosen.max_ram, "--max-ram"),
    )
    started = time.perf_counter()
    plan = segment_to_file(segmenter, image, labels).plan
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    inference = plan.inference
    return {
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak,
        "planned_bytes": plan.peak_bytes,
        "plan": str(plan),
        "axis": inference.axis,
        "slab": inference.slab,
    }


def compare(chosen: argparse.Namespace, image: Path, labels: Path, row: dict[str, Any]) -> None:
    """Labels of crops in one piece against those that were written."""
    whole = read_volume(labels)
    with open_volume(image) as stored:
        seen = preprocess(read_volume(image), SPEC)
        native = stored.grid
    unet = network(chosen.features, chosen.classes)
    margin = -(-max(halo(unet)) // STRIDE) * STRIDE
    size = seen.grid.shape
    middle = [length // 2 // STRIDE * STRIDE for length in size]
    seam = list(middle)
    seam[row["axis"]] = row["slab"] * (middle[row["axis"]] // row["slab"]) - INNER // 2
    places = {"inside": middle, "corner": [0, 0, 0], "across a seam": seam}
    for name, place in places.items():
        low = [max(0, (start - margin) // STRIDE * STRIDE) for start in place]
        high = [min(length, start + INNER + margin) for start, length in zip(place, size, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        piece = torch.from_numpy(np.ascontiguousarray(seen.array[(slice(None), *box)]))[None]
        with torch.inference_mode():
            scores = unet(piece)[0]
        inner = [slice(start - a, start - a + INNER) for start, a in zip(place, low, strict=True)]
        stop = [start + INNER for start in place]
        grid = seen.grid.cropped(place, stop)
        corners = np.array([place, [end - 1 for end in stop]], dtype=float)
        world = np.stack([seen.grid.to_world(corner) for corner in corners])
        index = np.sort(
            np.stack([np.linalg.solve(native.affine, [*point, 1.0])[:3] for point in world]), axis=0
        )
        first = [max(0, int(np.ceil(value))) for value in index[0]]
        last = [
            min(length, int(np.floor(value)) + 1)
            for value, length in zip(index[1], native.shape, strict=True)
        ]
        stage = RestoredScores.of(scores[(slice(None), *inner)], grid, native.cropped(first, last))
        best = stage.best(0, stage.length).numpy()
        there = whole.array[(0, *(slice(a, b) for a, b in zip(first, last, strict=True)))]
        differ = int((best != there).sum())
        print(f"  {name}: {differ} of {best.size} labels differ, {len(np.unique(best))} classes in the crop")


if __name__ == "__main__":
    main()
