"""Phantoms for ``training_phantoms.py``: tasks that can be learnt, each with one thing that may spoil it.

None can be solved by a threshold, and none needs more than a glance at a structure's surroundings. All are
made from a seed: ellipsoids and tubes with partial volume, a smooth bias field and noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.files import write_json
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.volume import Volume

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]
Maker = Callable[["Task", np.random.Generator], tuple[Floats, Labels]]

NOISE = 0.06
BIAS = 0.1
PLACING_TRIALS = 2000
_ORGAN_BRIGHTNESS = (0.55, 1.6)
_ORGANS = tuple(itertools.product((-2, -1, 0, 1, 2), range(4), range(2)))
"""Columns from left to right, rows from back to front, layers from feet to head."""


@dataclass(frozen=True)
class Task:
    """A data set that can be made.

    Attributes:
        name: Short, for files.
        difficulty: What makes it hard.
        shape: Voxels.
        spacing_mm: Of the voxels.
        labels: Names of the classes, the first of value 1.
        make: Draws tissue intensities (C, X, Y, Z) and a label map.
        training: Number of cases that train.
        validation: Number of cases that validate, fold 0.
        channels: Modalities.
        make_training: Draws the cases that train, where these are unlike the others.
    """

    name: str
    difficulty: str
    shape: tuple[int, int, int]
    spacing_mm: Triple
    labels: tuple[str, ...]
    make: Maker
    training: int = 12
    validation: int = 4
    channels: tuple[str, ...] = ("MRI",)
    make_training: Maker | None = None

    @property
    def positions_mm(self) -> Floats:
        """Of the voxels' centres from the volume's centre, (3, X, Y, Z), towards right, front and head."""
        centre = [(size - 1) / 2 for size in self.shape]
        return np.stack(
            [
                (index - middle) * spacing
                for index, middle, spacing in zip(
                    np.indices(self.shape, dtype=np.float32), centre, self.spacing_mm, strict=True
                )
            ]
        )

    @property
    def half_mm(self) -> npt.NDArray[np.float64]:
        """Half the field of view, per axis."""
        return np.asarray(self.shape) * np.asarray(self.spacing_mm) / 2

    def write(self, folder: Path, seed: int = 0) -> None:
        """Write it as a data set in the Decathlon's layout, with its own split; not if it is there."""
        if (folder / "dataset.json").is_file():
            return
        grid = Grid(self.shape, np.diag([*self.spacing_mm, 1.0]))
        entries = []
        for number in range(self.training + self.validation):
            rng = np.random.default_rng([seed, number])
            trains = number >= self.validation
            make = self.make_training if trains and self.make_training is not None else self.make
            tissue, label = make(self, rng)
            name = f"{self.name}_{number:03d}.nii.gz"
            write_volume(Volume(scan(tissue, rng), grid), folder / "imagesTr" / name)
            write_volume(Volume(label[np.newaxis], grid), folder / "labelsTr" / name, labels=True)
            fold = 0 if number < self.validation else 1
            entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}", "fold": fold})
        description = {
            "name": self.name,
            "description": self.difficulty,
            "modality": {str(channel): name for channel, name in enumerate(self.channels)},
            "labels": {"0": "background", **{str(value): name for value, name in enumerate(self.labels, 1)}},
            "numTraining": len(entries),
            "training": entries,
        }
        write_json(description, folder / "dataset.json")  # last: where it is, all is


def scan(tissue: Floats, rng: np.random.Generator) -> Floats:
    """Partial volume, a smooth bias, noise, and a gain that no two scans share."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in tissue.shape[1:]), indexing="ij")
    bias = np.exp(BIAS * sum(rng.standard_normal() * axis for axis in axes))
    blurred = ndimage.gaussian_filter(tissue, (0, 0.5, 0.5, 0.5))
    noisy = blurred * bias + NOISE * rng.standard_normal(tissue.shape)
    return (noisy * 100 * np.exp(rng.normal(0, 0.3))).astype(np.float32)


def ellipsoid(positions: Floats, centre: Sequence[float], semi_axes: Sequence[float]) -> Floats:
    """Below 1 inside, 1 on the surface, above 1 outside: the square of the relative radius."""
    parts = [
        ((axis - middle) / radius) ** 2
        for axis, middle, radius in zip(positions, centre, semi_axes, strict=True)
    ]
    return np.asarray(sum(parts), dtype=np.float32)


def places(
    rng: np.random.Generator, radii: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> list[npt.NDArray[np.float64]]:
    """Centres of balls that lie within a box and do not touch, the large ones first to be placed."""
    centres: dict[int, npt.NDArray[np.float64]] = {}
    for number in sorted(range(len(radii)), key=lambda number: -radii[number]):
        for _ in range(PLACING_TRIALS):
            margin = min(radii[number], *(np.subtract(high, low) / 2))
            centre = rng.uniform(np.asarray(low) + margin, np.asarray(high) - margin)
            if all(
                np.linalg.norm(centre - other) > radii[number] + radii[known] + 1.0
                for known, other in centres.items()
            ):
                centres[number] = centre
                break
        else:
            raise RuntimeError(f"no place is left for {len(radii)} structures")
    return [centres[number] for number in range(len(radii))]


def _forty(task: Task, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """A body of forty organs: which is which is told by its place among the others, and by its brightness."""
    positions = task.positions_mm * rng.uniform(0.95, 1.05) - rng.uniform(-1.5, 1.5, (3, 1, 1, 1))
    tissue, label = np.zeros(task.shape, np.float32), np.zeros(task.shape, np.uint8)
    tissue[np.abs(positions / np.reshape(task.half_mm - 2, (3, 1, 1, 1))).max(0) < 1] = 0.5
    for value, (column, row, layer) in enumerate(_ORGANS, 1):
        centre = np.multiply((column, row - 1.5, layer - 0.5), (8.6, 10.4, 14.0)) + rng.uniform(-0.8, 0.8, 3)
        reach = ellipsoid(positions, centre, np.multiply((3.6, 4.2, 5.6), rng.uniform(0.85, 1.0, 3)))
        tissue[reach < 1] = (0.0, 1.0, 1.5, 2.0)[(abs(column) + 2 * row + layer) % 4]
        label[reach < 1] = value
    return tissue[np.newaxis], label


def _organ(column: int, row: int, layer: int) -> str:
    side = {-1: "left ", 0: "", 1: "right "}[int(np.sign(column))]
    return f"{side}organ {abs(column)}{row}{layer}"


def _one_percent(task: Task, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """Nodules among vessels that are as bright."""
    positions, half = task.positions_mm, task.half_mm
    tissue = np.full(task.shape, 0.5, np.float32) + 0.3 * smooth(rng, task.shape, 6.0)
    label = np.zeros(task.shape, np.uint8)
    for _ in range(6):
        axis = int(rng.integers(3))
        across = [other for other in range(3) if other != axis]
        radius = rng.uniform(1.8, 3.0)
        swing = rng.uniform(1.0, 5.0, 2)
        turn = rng.uniform(0.0, 2 * np.pi, 2)
        start = rng.uniform(-0.8, 0.8, 2) * half[across]
        distance = sum(
            (positions[other] - start[k] - swing[k] * np.sin(positions[axis] / half[axis] * 2 + turn[k])) ** 2
            for k, other in enumerate(across)
        )
        tissue[distance < radius**2] = 2.0
    radii = [rng.uniform(2.8, 4.2)]
    while sum(4.19 * radius**3 for radius in radii) < 0.01 * np.prod(2 * half):
        radii.append(rng.uniform(2.8, 4.2))
    for radius, centre in zip(radii, places(rng, radii, -half, half), strict=True):
        reach = ellipsoid(positions, centre, (radius, radius, radius))
        tissue[reach < 1] = 2.0
        label[reach < 1] = 1
    return tissue[np.newaxis], label


def _two_channels(task: Task, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """What is bright in both is one class, dark in both another; bright in one alone is none."""
    positions, half = task.positions_mm, task.half_mm
    tissue, label = np.full((2, *task.shape), 1.5, np.float32), np.zeros(task.shape, np.uint8)
    radii = rng.uniform(4.0, 6.0, 12)
    for number, centre in enumerate(places(rng, radii, -half, half)):
        first, second = bool(number % 2), bool(number // 2 % 2)
        reach = ellipsoid(positions, centre, radii[number] * rng.uniform(0.8, 1.0, 3))
        tissue[0][reach < 1] = 2.3 if first else 0.7
        tissue[1][reach < 1] = 2.3 if second else 0.7
        if first == second:
            label[reach < 1] = 1 if first else 2
    return tissue, label


def _stack(task: Task, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """Short-axis slices of a heart: a bright cavity in a dark muscle, beside bright vessels without one."""
    positions = task.positions_mm[:2, :, :, 0]
    tissue = np.full(task.shape, 1.2, np.float32)
    label = np.zeros(task.shape, np.uint8)
    middle, radius, wall = rng.uniform(-8, 8, 2), rng.uniform(13, 18), rng.uniform(6, 9)
    for index in range(task.shape[2]):
        place = middle + rng.normal(0, 1.5, 2)  # breath-holds differ from slice to slice
        inner = radius * (1.0 - 0.1 * index) * rng.uniform(0.9, 1.1, 2)
        for _ in range(3):
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 2.2) * (radius + wall)
            vessel = place + far * np.array([np.cos(angle), np.sin(angle)])
            tissue[..., index][ellipsoid(positions, vessel, rng.uniform(4, 9, 2)) < 1] = 2.0
        muscle = ellipsoid(positions, place, inner + wall) < 1
        cavity = ellipsoid(positions, place, inner) < 1
        tissue[..., index][muscle], label[..., index][muscle] = 0.6, 2
        tissue[..., index][cavity], label[..., index][cavity] = 2.0, 1
    return tissue[np.newaxis], label


def _cord(task: Task, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """A cord in its fluid, with grey matter of little contrast, which wanders from slice to slice."""
    positions = task.positions_mm[:2, :, :, 0]
    tissue = np.full(task.shape, 0.8, np.float32) + 0.3 * smooth(rng, task.shape, (5.0, 5.0, 0.7))
    label = np.zeros(task.shape, np.uint8)
    semi = np.array([rng.uniform(5.5, 7.0), rng.uniform(4.0, 5.0)])
    place = rng.uniform(-4, 4, 2)
    for index in range(task.shape[2]):
        place = np.clip(place + rng.normal(0, 1.8, 2), -9, 9)
        size = semi * rng.uniform(0.92, 1.08)
        canal = ellipsoid(positions, place, size + rng.uniform(1.5, 3.0)) < 1
        cord = ellipsoid(positions, place, size) < 1
        grey = np.zeros_like(cord)
        for side in (-1, 1):
            horn = (place[0] + side * 0.33 * size[0], place[1])
            grey |= ellipsoid(positions, horn, (0.2 * size[0], 0.62 * size[1])) < 1
        grey |= ellipsoid(positions, place, (0.35 * size[0], 0.15 * size[1])) < 1
        tissue[..., index][canal] = 2.0
        tissue[..., index][cord], label[..., index][cord] = 0.9, 1
        tissue[..., index][grey], label[..., index][grey] = 1.15, 2
    return tissue[np.newaxis], label


def _two_sides(
    task: Task, rng: np.random.Generator, brightness: tuple[float, float] | None = None
) -> tuple[Floats, Labels]:
    """Two organs either side of a spine, alike but for their side: how bright each is tells nothing of it."""
    positions, half = task.positions_mm, task.half_mm
    tissue, label = np.full(task.shape, 0.2, np.float32), np.zeros(task.shape, np.uint8)
    tissue[ellipsoid(positions, (0, 0, 0), half * [0.95, 0.95, 2.0]) < 1] = 1.0
    tissue[ellipsoid(positions[:2], (0, -0.4 * half[1]), (6.0, 6.0)) < 1] = 2.2
    for value, side in enumerate((-1, 1), 1):
        centre = np.array([side * rng.uniform(0.42, 0.55), rng.uniform(-0.3, 0.2), rng.uniform(-0.3, 0.3)])
        organ = ellipsoid(positions, centre * half, rng.uniform(0.7, 1.1, 3) * [7.0, 8.0, 11.0]) < 1
        drawn = rng.choice(_ORGAN_BRIGHTNESS)
        tissue[organ], label[organ] = drawn if brightness is None else brightness[value - 1], value
    return tissue[np.newaxis], label


def _two_sides_by_chance(task: Task, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """The same, where the one side happens to be dark and the other bright, as may be in so few cases."""
    return _two_sides(task, rng, _ORGAN_BRIGHTNESS)


def smooth(rng: np.random.Generator, shape: Sequence[int], sigma: float | Sequence[float]) -> Floats:
    """Noise of deviation 1 that is alike within ``sigma`` voxels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return np.asarray(field / field.std(), dtype=np.float32)


FORTY = tuple(_organ(*place) for place in _ORGANS)
LEARNT = (
    Task("forty_classes", "40 classes", (48, 48, 32), (1.0, 1.0, 1.0), FORTY, _forty),
    Task("one_percent", "1 % foreground", (48, 48, 40), (1.0, 1.0, 1.0), ("nodule",), _one_percent),
    Task(
        "two_channels",
        "classes that need both channels",
        (48, 48, 36),
        (1.0, 1.0, 1.0),
        ("bright in both", "dark in both"),
        _two_channels,
        channels=("T1", "T2"),
    ),
    Task("stacks", "few thick slices", (96, 96, 6), (0.8, 0.8, 10.0), ("cavity", "muscle"), _stack),
)
CORD = Task("cord", "0.7 x 0.7 x 8 mm", (64, 64, 12), (0.7, 0.7, 8.0), ("white matter", "grey matter"), _cord)
SIDES = Task(
    "two_sides",
    "left and right alike, few cases",
    (48, 40, 24),
    (1.5, 1.5, 1.5),
    ("left kidney", "right kidney"),
    _two_sides,
    training=3,
    validation=12,
    make_training=_two_sides_by_chance,
)
