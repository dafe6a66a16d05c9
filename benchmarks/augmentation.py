"""What does augmentation cost a patch, and how much less than MONAI's transforms?

Microseconds of the processor for each change when it is drawn every time, and on average with the default
probabilities; beside them MONAI's own transform of the kind. One thread, random voxels: the cost does not
depend on what is on them.

    python benchmarks/augmentation.py [--patch 40 56 40] [--spacing 1 1 1] [--repetitions 200]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import monai.transforms as mt
import numpy as np
import torch
from monai.data import set_track_meta

from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms import Augmenter, augment_patch, augmentation_margin

NOTHING = {name: 0.0 for name in Augmentation.model_fields if name.endswith("_probability")}
TURN = math.radians(20)


def main() -> None:
    """Measure each change; print a table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patch", type=int, nargs=3, default=(40, 56, 40), help="voxels along each axis")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.0), help="millimetres")
    parser.add_argument("--repetitions", type=int, default=200)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    set_track_meta(False)
    patch, spacing, count = tuple(chosen.patch), tuple(chosen.spacing), chosen.repetitions
    print(f"Patch {patch}, spacing {spacing} mm, one channel, one thread; microseconds a patch\n")
    print("| change | medseg | MONAI |")
    print("|---|---:|---:|")
    for name, options in CHANGES.items():
        own = medseg_us(Augmentation(**{**NOTHING, "mirror": "none", **options}), patch, spacing, count)
        other = monai_us(MONAI[name](patch), patch, spacing, max(count // 4, 10)) if name in MONAI else None
        print(f"| {name} | {own:.0f} | {'' if other is None else f'{other:.0f}'} |", flush=True)
    own = medseg_us(Augmentation(), patch, spacing, 5 * count)
    other = monai_us([t for kind in DEFAULTS for t in kind(patch)], patch, spacing, count)
    print(f"| average with default probabilities (MONAI: of what it had) | {own:.0f} | {other:.0f} |")


def medseg_us(choice: Augmentation, patch: Any, spacing: Any, count: int) -> float:
    """Drawing and applying, of patches read with the margin that each draw needs."""
    labels = LabelScheme.from_names({1: "anterior", 2: "posterior"})
    augmenter = Augmenter(
        choice, patch, axcodes="RAS", labels=labels, ct_channels=[False], spacing_mm=spacing
    )
    margin = augmentation_margin(choice, patch, spacing)
    image, label = arrays(patch, margin)

    def one(seed: int) -> None:
        draw = augmenter.draw(np.random.default_rng(seed))
        box = (slice(None), *(
            slice(most - edge, most + size + edge)
            for most, edge, size in zip(margin, draw.spatial.margin, patch, strict=True)
        ))  # fmt: skip
        augment_patch({"image": image[box].contiguous(), "label": label[box].contiguous()}, draw)

    return microseconds(one, count)


def monai_us(transforms: list[Any], patch: Any, spacing: Any, count: int) -> float:
    """MONAI's transforms, of patches read with the margin that any draw needs."""
    moves = any(isinstance(t, mt.RandAffined | mt.Rand3DElasticd) for t in transforms)
    margin = augmentation_margin(Augmentation(), patch, spacing) if moves else (0, 0, 0)
    image, label = arrays(patch, margin)
    sample = {"image": image, "label": label.float()}
    chain = mt.Compose(transforms)

    def one(seed: int) -> None:
        chain.set_random_state(seed)
        chain(dict(sample))

    return microseconds(one, count)


def arrays(patch: Any, margin: Any) -> tuple[torch.Tensor, torch.Tensor]:
    shape = [size + 2 * edge for size, edge in zip(patch, margin, strict=True)]
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, *shape, generator=generator)
    return image, torch.randint(0, 3, (1, *shape), generator=generator).to(torch.uint8)


def microseconds(one: Callable[[int], None], count: int) -> float:
    """Mean time of the processor, without the first calls."""
    for seed in range(5):
        one(seed)
    start = time.process_time()
    for seed in range(count):
        one(seed)
    return (time.process_time() - start) / count * 1e6


CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "rotation and scaling": {"spatial_probability": 1.0},
    "elastic": {"elastic_probability": 1.0},
    "rotation, scaling and elastic": {"spatial_probability": 1.0, "elastic_probability": 1.0},
    "mirroring": {"mirror": "left_right"},
    "noise": {"noise_probability": 1.0},
    "blur": {"blur_probability": 1.0},
    "low resolution": {"low_resolution_probability": 1.0},
    "brightness": {"brightness_probability": 1.0},
    "contrast": {"contrast_probability": 1.0},
    "gamma": {"gamma_probability": 1.0},
    "bias field": {"bias_field_probability": 1.0},
    "ghosting": {"ghosting_probability": 1.0},
    "motion": {"motion_probability": 1.0},
}

BOTH, MODES = ["image", "label"], ["bilinear", "nearest"]
SIGMAS = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"}


def _affine(patch: Any, prob: float = 1.0) -> list[Any]:
    ranges = {"rotate_range": (TURN,) * 3, "scale_range": (0.2,) * 3}
    return [mt.RandAffined(BOTH, prob=prob, spatial_size=patch, mode=MODES, padding_mode="zeros", **ranges)]


def _elastic(patch: Any, **ranges: Any) -> list[Any]:
    smooth = {"sigma_range": (5, 8), "magnitude_range": (50, 100)}
    return [mt.Rand3DElasticd(BOTH, prob=1.0, spatial_size=patch, mode=MODES, **smooth, **ranges)]


MONAI: dict[str, Callable[[Any], list[Any]]] = {
    "rotation and scaling": _affine,
    "elastic": _elastic,
    "rotation, scaling and elastic": lambda patch: _elastic(
        patch, rotate_range=(TURN,) * 3, scale_range=(0.2,) * 3
    ),
    "mirroring": lambda _: [mt.RandFlipd(BOTH, prob=0.5, spatial_axis=0)],
    "noise": lambda _: [mt.RandGaussianNoised(["image"], prob=1.0, std=0.15, sample_std=True)],
    "blur": lambda _: [mt.RandGaussianSmoothd(["image"], prob=1.0, **SIGMAS)],
    "low resolution": lambda _: [mt.RandSimulateLowResolutiond(["image"], prob=1.0, zoom_range=(0.5, 1.0))],
    "brightness": lambda _: [mt.RandScaleIntensityd(["image"], prob=1.0, factors=0.25)],
    "contrast": lambda _: [mt.RandScaleIntensityFixedMeand(["image"], prob=1.0, factors=0.25)],
    "gamma": lambda _: [mt.RandAdjustContrastd(["image"], prob=1.0, gamma=(0.7, 1.5), retain_stats=True)],
    "bias field": lambda _: [mt.RandBiasFieldd(["image"], prob=1.0)],
}

DEFAULTS: list[Callable[[Any], list[Any]]] = [
    lambda patch: _affine(patch, 0.5),
    lambda _: [mt.RandFlipd(BOTH, prob=0.5, spatial_axis=0)],
    lambda _: [mt.RandGaussianNoised(["image"], prob=0.15, std=0.15, sample_std=True)],
    lambda _: [mt.RandGaussianSmoothd(["image"], prob=0.1, **SIGMAS)],
    lambda _: [mt.RandScaleIntensityd(["image"], prob=0.2, factors=0.25)],
    lambda _: [mt.RandAdjustContrastd(["image"], prob=0.2, gamma=(0.7, 1.5), retain_stats=True)],
]


if __name__ == "__main__":
    main()
