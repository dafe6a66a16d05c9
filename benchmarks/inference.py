"""How long does a whole volume take, how much memory, and do the labels agree?

The same U-Net on the same noise, by medseg's ways of inference and by those of others; every row is a process
of its own, so that each has its own peak. Prints Markdown:

    python benchmarks/inference.py --out results [--size 256,256,256] [--features 16] [--classes 3,14,105]
                                   [--rows streaming,monai-0.5,...] [--peers PYTHON] [--sample 16]

``--peers`` names the interpreter of an environment that has nnU-Net and TorchIO beside medseg. With
``--sample`` the windows of others are computed so many times only and the rest of the time is added up from
that; such times are marked. Peak memory is above that of the process with network and image in it.
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
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WINDOW = (96, 96, 96)
REFERENCE = "whole"
OVERLAP_TILE_BYTES = 7_000_000_000


class Sampled(nn.Module):
    """Computes the first windows only, and remembers how long they took; the rest get the last answer."""

    def __init__(self, network: nn.Module, limit: int | None) -> None:
        super().__init__()
        self.network = network
        self.limit = limit
        self.seconds: list[float] = []
        self.calls = 0
        self._last: Tensor | None = None

    def forward(self, windows: Tensor) -> Tensor:
        """From (N, 1, X, Y, Z) to scores."""
        self.calls += 1
        if self.limit is not None and len(self.seconds) >= self.limit and self._last is not None:
            return self._last[: len(windows)].clone()
        started = time.perf_counter()
        self._last = self.network(windows)
        self.seconds.append(time.perf_counter() - started)
        return self._last

    @property
    def missing_seconds(self) -> float:
        """What the windows that were not computed would have taken; the first, a warm-up, does not count."""
        left = self.calls - len(self.seconds)
        return left * sum(self.seconds[1:]) / len(self.seconds[1:]) if left else 0.0


def labels_of(scores: Tensor) -> Tensor:
    """(K, X, Y, Z) to labels."""
    from medseg.inference import best_class

    return best_class(scores)


def whole(network: nn.Module, image: Tensor) -> Tensor:
    """One pass over everything."""
    return labels_of(network(image)[0])


def streaming(precision: str) -> Callable[[nn.Module, Tensor], Tensor]:
    """Medseg's exact streaming."""

    def run(network: nn.Module, image: Tensor) -> Tensor:
        from medseg.inference import StreamingInferer

        inferer = StreamingInferer(reduce="argmax", precision=precision)
        return inferer(image, network)[0, 0]

    return run


def medseg_windows(overlap: float, batch: int) -> Callable[[nn.Module, Tensor], Tensor]:
    """Medseg's sliding window."""

    def run(network: nn.Module, image: Tensor) -> Tensor:
        from medseg.inference import SlidingWindowInferer

        return SlidingWindowInferer(WINDOW, batch, overlap, reduce="argmax")(image, network)[0, 0]

    return run


def overlap_tile(network: nn.Module, image: Tensor) -> Tensor:
    """Medseg's overlap-tile, for the valid twin of the network."""
    from medseg.inference import OverlapTileInferer

    inferer = OverlapTileInferer(reduce="argmax", max_ram_bytes=OVERLAP_TILE_BYTES)
    return inferer(image, network)[0, 0]


def monai_windows(
    overlap: float, batch: int, buffer_steps: int | None = None
) -> Callable[[nn.Module, Tensor], Tensor]:
    """MONAI's sliding window, with its Gaussian."""

    def run(network: nn.Module, image: Tensor) -> Tensor:
        from monai.inferers import SlidingWindowInferer

        inferer = SlidingWindowInferer(WINDOW, batch, overlap, mode="gaussian", buffer_steps=buffer_steps)
        return labels_of(inferer(image, network)[0])

    return run


def nnunet(network: nn.Module, image: Tensor) -> Tensor:
    """nnU-Net's predictor: steps of half a window, Gaussian, no mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    classes = network(image[..., :16, :16, :16]).shape[1]
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=WINDOW)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)
    return labels_of(predictor.predict_sliding_window_return_logits(image[0]))


def torchio(network: nn.Module, image: Tensor) -> Tensor:
    """TorchIO's sampler and aggregator, half a window of overlap, averaged."""
    import torchio as tio

    subject = tio.Subject(image=tio.ScalarImage(tensor=image[0]))
    sampler = tio.GridSampler(subject, WINDOW, tuple(length // 2 for length in WINDOW))
    aggregator = tio.GridAggregator(sampler, overlap_mode="average")
    for patch in tio.SubjectsLoader(sampler, batch_size=1):
        aggregator.add_batch(network(patch["image"][tio.DATA]), patch[tio.LOCATION])
    return labels_of(aggregator.get_output_tensor())


ROWS: dict[str, tuple[str, Callable[[nn.Module, Tensor], Tensor]]] = {
    REFERENCE: ("whole volume in one pass", whole),
    "streaming": ("medseg streaming", streaming("fp32")),
    "streaming-bf16": ("medseg streaming, bfloat16", streaming("bf16")),
    "windows-0.25": ("medseg sliding window, overlap 0.25", medseg_windows(0.25, 1)),
    "windows-0.5": ("medseg sliding window, overlap 0.5", medseg_windows(0.5, 1)),
    "windows-0.5-four": ("medseg sliding window, overlap 0.5, four a batch", medseg_windows(0.5, 4)),
    "overlap-tile": ("medseg overlap-tile (valid network)", overlap_tile),
    "monai-0.25": ("MONAI sliding window, overlap 0.25", monai_windows(0.25, 1)),
    "monai-0.25-four": ("MONAI sliding window, overlap 0.25, four a batch", monai_windows(0.25, 4)),
    "monai-0.5": ("MONAI sliding window, overlap 0.5", monai_windows(0.5, 1)),
    "monai-0.5-four": ("MONAI sliding window, overlap 0.5, four a batch", monai_windows(0.5, 4)),
    "monai-0.5-buffer": ("MONAI sliding window, overlap 0.5, buffer_steps=1", monai_windows(0.5, 1, 1)),
    "nnunet": ("nnU-Net 2.8 predictor, step 0.5", nnunet),
    "torchio": ("TorchIO GridSampler + GridAggregator, overlap 0.5", torchio),
}
SAMPLED = ("monai", "nnunet", "torchio")
OF_OTHERS = ("nnunet", "torchio")


def main() -> None:
    """Measure what has no result yet; print all results of the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="a folder, with earlier results or new")
    parser.add_argument("--size", default="256,256,256")
    parser.add_argument("--features", default="16", help="channels of the finest level")
    parser.add_argument("--classes", default="14")
    parser.add_argument("--rows", default=",".join(ROWS), help=", ".join(ROWS))
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that has the others")
    parser.add_argument("--sample", type=int, help="windows that are computed of others' methods")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(int(chosen.threads))
    if chosen.row:
        measure(chosen)
        return
    for classes in chosen.classes.split(","):
        for row in chosen.rows.split(","):
            folder = chosen.out / f"{chosen.size.replace(',', 'x')}_base{chosen.features}_{classes}"
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / f"{row}.json").is_file():
                run_row(row, classes, folder, chosen)
        print_table(folder)
    print(f"\n{chosen.threads} threads, {platform.platform()}, PyTorch {torch.__version__}.")


def run_row(row: str, classes: str, folder: Path, chosen: argparse.Namespace) -> None:
    """In a process of its own."""
    interpreter = chosen.peers if row in OF_OTHERS else sys.executable
    command = [interpreter, __file__, "--row", row, "--classes", classes, "--out", str(folder)]
    command += ["--size", chosen.size, "--features", chosen.features, "--threads", chosen.threads]
    if chosen.sample and row.startswith(SAMPLED):
        command += ["--sample", str(chosen.sample)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        print(f"{row}: failed with {done.returncode}", file=sys.stderr)


def build(row: str, features: int, classes: int) -> nn.Module:
    """The U-Net, its batch norms with statistics of their own."""
    from medseg.networks import build_network

    torch.manual_seed(0)
    padding = "valid" if row == "overlap-tile" else "same"
    levels = [features * 2**level for level in range(5)]
    network = build_network("unet", in_channels=1, out_channels=classes, features=levels, padding=padding)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


def measure(chosen: argparse.Namespace) -> None:
    """One row: seconds, peak memory, labels."""
    from medseg.networks import summarize

    size = tuple(int(length) for length in chosen.size.split(","))
    row, classes = chosen.row, int(chosen.classes)
    network = build(row, int(chosen.features), classes)
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    sampled = Sampled(network, chosen.sample)
    seen = sampled if row.startswith(SAMPLED) else network
    rate = product_rate()
    with torch.inference_mode():
        # Warms up: imports, kernels. No smaller than a window, which TorchIO needs.
        ROWS[row][1](network, image[..., : WINDOW[0], : WINDOW[1], : WINDOW[2]].contiguous())
        base = reset_peak()
        started = time.perf_counter()
        labels = ROWS[row][1](seen, image)
        seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "row": row,
        "seconds": seconds + sampled.missing_seconds,
        "computed": sampled.calls > len(sampled.seconds),
        "peak_bytes": peak_bytes() - base,
        "product_rate": rate,
        "predicted_bytes": predicted(row, network, tuple(image.shape)),
    }
    if row != "overlap-tile":
        result["operations"] = 2 * summarize(network, tuple(image.shape)).multiply_adds
    if not result["computed"]:
        torch.save(labels.to(torch.uint8), chosen.out / f"{row}.pt")
    (chosen.out / f"{row}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def predicted(row: str, network: nn.Module, shape: tuple[int, ...]) -> int | None:
    """What medseg's plan says of the peak."""
    from medseg.inference import plan_memory

    if row.startswith("streaming"):
        precision = "bf16" if row.endswith("bf16") else "fp32"
        return plan_memory(network, shape, reduce="argmax", precision=precision).peak_bytes
    if row.startswith("windows"):
        overlap = float(row.split("-")[1])
        batch = 4 if row.endswith("four") else 1
        options = {"roi_size": WINDOW, "sw_batch_size": batch, "overlap": overlap, "reduce": "argmax"}
        return plan_memory(network, shape, mode="sliding-window", **options).peak_bytes
    if row == "overlap-tile":
        options = {"reduce": "argmax", "max_ram_bytes": OVERLAP_TILE_BYTES}
        return plan_memory(network, shape, mode="overlap-tile", **options).peak_bytes
    return None


def product_rate() -> float:
    """Operations a second of a single-precision matrix product, the best of five."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def reset_peak() -> int:
    """Forget the peak so far; what is resident now, with all that was freed given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that was resident since."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def print_table(folder: Path) -> None:
    """One line a row, in the order of ``ROWS``; ratios to MONAI's window at overlap 0.5, the better batch."""
    results = {
        row: json.loads(path.read_text(encoding="utf-8"))
        for row in ROWS
        if (path := folder / f"{row}.json").is_file()
    }
    monai = [results[row]["seconds"] for row in ("monai-0.5", "monai-0.5-four") if row in results]
    print(f"\n{folder.name}\n\n| method | seconds | times as fast as MONAI 0.5 | peak memory | predicted | "
          "labels as in one pass | of the product rate |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for row, result in results.items():
        cells = [
            ROWS[row][0],
            f"{result['seconds']:.1f}{' (computed)' if result['computed'] else ''}",
            f"{min(monai) / result['seconds']:.1f}" if monai else "",
            f"{result['peak_bytes'] / 1e9:.2f} GB",
            f"{result['predicted_bytes'] / 1e9:.2f} GB" if result["predicted_bytes"] else "",
            agreement(folder, row),
            share_of_product(result),
        ]
        print("| " + " | ".join(cells) + " |")


def agreement(folder: Path, row: str) -> str:
    """Share of equal labels."""
    mine, theirs = folder / f"{row}.pt", folder / f"{REFERENCE}.pt"
    if row == "overlap-tile" or not (mine.is_file() and theirs.is_file()):
        return ""
    same = torch.load(mine, weights_only=True) == torch.load(theirs, weights_only=True)
    return f"{100 * same.float().mean().item():.4f} %"


def share_of_product(result: dict[str, Any]) -> str:
    """The network's operations a second, as a part of the matrix product's; for rows without overlap."""
    if "operations" not in result or not result["row"].startswith(("streaming", REFERENCE)):
        return ""
    return f"{100 * result['operations'] / result['seconds'] / result['product_rate']:.0f} %"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
