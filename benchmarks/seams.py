"""Do labels depend on where slabs or windows happen to lie?

Streams the validation images of a trained run in slabs of every thickness, and slides windows over them whose
grid is moved voxel by voxel; counts the labels that are not those of one pass, or of the unmoved grid:

    python benchmarks/seams.py --model runs/hippocampus [--cases 10] [--window 32]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.inference import SlidingWindowInferer, StreamingInferer
from medseg.io import read_volume
from medseg.segmenters import NetworkSegmenter, load_segmenter, validation_cases
from medseg.transforms import preprocess

THICKNESSES = (1, 2, 3, 5, 8, 13, 16)
MOVES = (1, 2, 3, 5, 8, 13)


def main() -> None:
    """Print the share of labels that change, by thickness and by move."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--cases", default=10, type=int)
    parser.add_argument("--window", default=32, type=int)
    chosen = parser.parse_args()
    segmenter = load_segmenter(chosen.model, "cpu", fold=0)
    if not isinstance(segmenter, NetworkSegmenter):
        raise SystemExit("give a run with one network a fold")
    network = segmenter.network
    streamed = dict.fromkeys(THICKNESSES, 0)
    moved = dict.fromkeys(MOVES, 0)
    voxels = structures = 0
    for case in validation_cases(chosen.model, [0])[0][: chosen.cases]:
        seen = preprocess(read_volume(case.images), segmenter.preprocessing)
        image = torch.from_numpy(seen.array)[None].contiguous()
        with torch.inference_mode():
            whole = network(image).argmax(1)
        voxels += whole.numel()
        structures += int((whole > 0).sum())
        for thickness in THICKNESSES:
            labels = StreamingInferer(slab=thickness, reduce="argmax")(image, network)[:, 0]
            streamed[thickness] += int((labels != whole).sum())
        still = windows(image, network, chosen.window, 0)
        for move in MOVES:
            moved[move] += int((windows(image, network, chosen.window, move) != still).sum())
    print(f"{chosen.cases} images, {voxels:,} voxels, {structures:,} of them in structures\n")
    print("| streamed in slabs of | labels that differ from one pass |\n|---|---|")
    for thickness, count in streamed.items():
        print(f"| {thickness} | {count} |")
    print(f"\n| windows of {chosen.window}, overlap 0.5, moved by", end="")
    print(" | labels that change | as part of those in structures |")
    print("|---|---|---|")
    for move, count in moved.items():
        print(f"| {move} | {count} | {100 * count / structures:.2f} % |")


def windows(image: Tensor, network: nn.Module, size: int, move: int) -> Tensor:
    """Labels by windows whose grid begins ``move`` voxels before the image, where zeros stand."""
    padded = functional.pad(image, (move, size, move, size, move, size))
    with torch.inference_mode():
        labels = SlidingWindowInferer((size,) * 3, reduce="argmax")(padded, network)[:, 0]
    return labels[tuple([slice(None)] + [slice(move, move + length) for length in image.shape[2:]])]


if __name__ == "__main__":
    main()
