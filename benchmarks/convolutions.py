"""Which routine computes a U-Net's layers fastest on this machine's processor?

For each shape of layer that a U-Net meets in slabs, one row: GFLOP/s of PyTorch's own function, of oneDNN
with channels first and channels last, and of what medseg takes; beside them the rate of a matrix product.
One thread unless ``--threads`` says otherwise; seconds of the processor, the best of a few runs.

    python benchmarks/convolutions.py [--base 16] [--plane 256] [--slab 8] [--precision fp32|bf16]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medseg.inference.streaming.kernels.convolve import convolve, convolve_transposed
from medseg.inference.streaming.kernels.layer import Layer
from medseg.network_graph import Node
from medseg.ranges import TransposedWindow

LAST = torch.channels_last_3d
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUTINES = ("PyTorch", "oneDNN, channels first", "oneDNN, channels last", "medseg")


@dataclass(frozen=True)
class Shape:
    """A layer: channels, kernel, stride, and the input that a slab gives it."""

    inputs: int
    outputs: int
    kernel: int
    size: tuple[int, int, int]
    transposed: bool = False

    @property
    def flop(self) -> int:
        """Multiplications and additions; of a transposed convolution whose kernel is its stride."""
        depth, height, width = self.size
        made = depth * height * width if self.transposed else (depth - self.kernel + 1) * height * width
        return 2 * self.inputs * self.outputs * self.kernel**3 * made

    def __str__(self) -> str:
        """As a row's title."""
        kind = "up" if self.transposed else "to"
        size = "x".join(map(str, self.size))
        return f"{self.inputs} {kind} {self.outputs}, kernel {self.kernel}, {size}"


def main() -> None:
    """Measure; print a table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=int, default=16, help="features of the first level")
    parser.add_argument("--plane", type=int, default=256, help="voxels along each side of a slice")
    parser.add_argument("--slab", type=int, default=8, help="slices of the output at a time")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    dtype = PRECISIONS[chosen.precision]
    with torch.inference_mode():
        square = torch.randn(2048, 2048).to(dtype)
        product = 2 * 2048**3 / seconds(lambda: square @ square, chosen.repetitions) / 1e9
        print(f"Matrix product of 2048 x 2048, {chosen.precision}: {product:.0f} GFLOP/s\n")
        print("| layer | " + " | ".join(ROUTINES) + " |")
        print("|---|" + "---:|" * len(ROUTINES))
        for shape in shapes(chosen.base, chosen.plane, chosen.slab):
            rates = measure(shape, dtype, chosen.repetitions)
            cells = " | ".join(f"{rates[name]:.0f}" if name in rates else "" for name in ROUTINES)
            print(f"| {shape} | {cells} |", flush=True)
    print(f"\n{chosen.threads} threads, PyTorch {torch.__version__}, {platform.platform()}.")


def shapes(base: int, plane: int, slab: int) -> Iterator[Shape]:
    """The layers of a U-Net with five levels; a level halves the slab as well as the plane."""
    yield Shape(1, base, 3, (slab + 2, plane, plane))
    for level in range(5):
        features, side, slices = base << level, plane >> level, max(1, slab >> level)
        if level:
            yield Shape(features // 2, features, 3, (slices + 2, side, side))
        yield Shape(features, features, 3, (slices + 2, side, side))
        if level < 4:
            yield Shape(2 * features, features, 3, (slices + 2, side, side))
            yield Shape(
                2 * features, features, 2, (max(1, slices // 2), side // 2, side // 2), transposed=True
            )
    yield Shape(base, 14, 1, (slab, plane, plane))


def measure(shape: Shape, dtype: torch.dtype, repetitions: int) -> dict[str, float]:
    """GFLOP/s of each routine that there is."""
    images = torch.randn(1, shape.inputs, *shape.size).to(dtype).contiguous(memory_format=LAST)
    channels = (shape.inputs, shape.outputs) if shape.transposed else (shape.outputs, shape.inputs)
    weight = torch.randn(*channels, *[shape.kernel] * 3).to(dtype).contiguous(memory_format=LAST)
    bias = torch.randn(shape.outputs).to(dtype)
    found = routines(shape, images, weight, bias)
    return {name: shape.flop / seconds(routine, repetitions) / 1e9 for name, routine in found.items()}


def routines(shape: Shape, images: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What computes the layer, by name."""
    layer = Layer(
        Node("layer", "", "", (), (), images.dtype, ()),
        (),
        (0, 1, 2),
        {"weight": weight, "bias": bias},
        images.dtype,
        images.device,
    )
    one = [1, 1, 1]
    if shape.transposed:
        windows = (TransposedWindow(shape.kernel, shape.kernel),) * 3
        apply = convolve_transposed(layer, windows)
        return {
            "PyTorch": lambda: functional.conv_transpose3d(images, weight, bias, shape.kernel),
            "medseg": lambda: apply(images),
        }
    padding = [0, shape.kernel // 2, shape.kernel // 2]
    apply = convolve(layer, stride=one, padding=padding, dilation=one)
    first, first_weight = images.contiguous(), weight.contiguous()
    return {
        "PyTorch": lambda: functional.conv3d(images, weight, bias, 1, padding),
        "oneDNN, channels first": lambda: torch.mkldnn_convolution(
            first, first_weight, bias, padding, one, one, 1
        ),
        "oneDNN, channels last": lambda: torch.mkldnn_convolution(images, weight, bias, padding, one, one, 1),
        "medseg": lambda: apply(images),
    }


def seconds(work: Callable[[], object], repetitions: int) -> float:
    """Of the processor, over all threads: the best of some runs after one that is not counted."""
    work()
    best = float("inf")
    for _ in range(repetitions):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


if __name__ == "__main__":
    main()
