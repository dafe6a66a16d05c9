"""What phantoms are made of: scenes of deformed ellipsoids, painted back to front.

Body coordinates are RAS+, and the field of view reaches from -1 to 1 along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from medseg.errors import ConfigError

__all__ = ["Field", "Kind", "Scene", "Triple", "paint", "scene_of", "smooth_waves"]

Kind = Literal["ct", "mr"]
Triple = tuple[float, float, float]
Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Structure:
    """A deformed ellipsoid of one tissue.

    Attributes:
        tissue: What it is made of; a key of the scene's intensities.
        centre: In body coordinates.
        semi_axes: In body coordinates.
        value: Its label, 0 for what is no target.
        power: 2 for an ellipsoid, larger for rounder boxes.
        wobble: Depth of its surface's deformation, as a part of the radius.
        waves: Deformations per radian of the structure's own size: 1.5 is smooth, 8 a cortex.
        jitter: Standard deviation of its place.
        rim: The tissue that parts it from its neighbours, if any.
    """

    tissue: str
    centre: Triple
    semi_axes: Triple
    value: int = 0
    power: float = 2.0
    wobble: float = 0.08
    waves: float = 1.5
    jitter: float = 0.02
    rim: str | None = None


@dataclass(frozen=True)
class _Cluster:
    """Touching structures of one label, each an instance of its own."""

    members: tuple[_Structure, ...]


@dataclass(frozen=True)
class Scene:
    """What is common to all phantoms of a kind.

    Attributes:
        names: Label value → name.
        spacing_mm: Default spacing.
        intensities: Tissue → mean intensity; Hounsfield units, or parts of the brightest.
        variation: Standard deviation of a tissue's mean between cases.
        modality: As MSD's ``dataset.json`` calls it.
    """

    names: dict[int, str]
    spacing_mm: Triple
    intensities: dict[str, float]
    variation: float
    modality: str


_SCENES: dict[str, Scene] = {
    "ct": Scene(
        names={1: "liver", 2: "spleen", 3: "left kidney", 4: "right kidney", 5: "vertebrae"},
        spacing_mm=(5.0, 5.0, 7.5),
        intensities={
            "air": -1000.0,
            "fat": -100.0,
            "muscle": 60.0,
            "parenchyma": 115.0,
            "enhanced": 190.0,
            "bone": 420.0,
            "couch": -200.0,
        },
        variation=8.0,
        modality="CT",
    ),
    "mr": Scene(
        names={1: "ventricles", 2: "left nucleus", 3: "right nucleus", 4: "nodules"},
        spacing_mm=(3.0, 3.0, 4.5),
        intensities={
            "air": 0.0,
            "skull": 0.08,
            "fluid": 0.22,
            "grey": 0.48,
            "white": 0.72,
            "bright": 1.0,
            "nodule": 1.3,
        },
        variation=0.02,
        modality="MRI",
    ),
}


def scene_of(kind: str) -> Scene:
    """The scene of a kind of phantom.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in _SCENES:
        raise ConfigError(
            f"unknown kind of phantom '{kind}'", fix=f"choose one of {', '.join(get_args(Kind))}"
        )
    return _SCENES[kind]


def paint(
    kind: str, scene: Scene, shape: tuple[int, int, int], rng: np.random.Generator
) -> tuple[Field, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Paint the scene back to front: mean intensities without blur or noise, labels, instances."""
    means = {
        tissue: mean + (0.0 if tissue == "air" else scene.variation * rng.standard_normal())
        for tissue, mean in scene.intensities.items()
    }
    where = _body_coordinates(shape, rng)
    tissue = np.full(shape, means["air"], np.float32)
    label = np.zeros(shape, np.uint8)
    instances = np.zeros(shape, np.uint8)
    anatomy = _trunk(rng) if kind == "ct" else _head(rng)
    for part in anatomy:
        members = part.members if isinstance(part, _Cluster) else (part,)
        radii = np.stack([_radius(_varied(member, rng), where, rng) for member in members])
        nearest = radii.min(axis=0)
        inside = nearest < 1.0
        sample = members[0]
        if sample.rim is not None:
            rim = (nearest < 1.0 + _RIM / min(sample.semi_axes)) & ~inside
            tissue[rim], label[rim], instances[rim] = means[sample.rim], 0, 0
        tissue[inside], label[inside] = means[sample.tissue], sample.value
        numbers = radii.argmin(axis=0)[inside] + 1
        instances[inside] = numbers if isinstance(part, _Cluster) else 0
    # An instance that lies outside the field of view, or behind another, leaves no gap in the numbers.
    numbered = np.unique(instances, return_inverse=True)[1].reshape(shape).astype(np.uint8)
    return tissue, label, numbered


_RIM = 0.06
"""Width of a rim in body coordinates: about two voxels of 64."""


def _body_coordinates(shape: tuple[int, int, int], rng: np.random.Generator) -> Field:
    """(3, X, Y, Z): where each voxel lies in a body that is shifted, turned, scaled and gently bent."""
    axes = [np.linspace(-1.0 + 1.0 / size, 1.0 - 1.0 / size, size, dtype=np.float32) for size in shape]
    straight = np.stack(np.meshgrid(*axes, indexing="ij"))
    turn = Rotation.from_euler("xyz", rng.normal(0.0, 3.0, 3), degrees=True).as_matrix().astype(np.float32)
    scale = np.exp(rng.normal(0.0, 0.03, 3)).astype(np.float32)
    shift = rng.normal(0.0, 0.02, 3).astype(np.float32)
    moved = np.tensordot(turn * scale[:, np.newaxis], straight, axes=1) + shift[:, None, None, None]
    bent = moved.copy()
    for axis in range(3):
        bent[axis] += 0.03 * smooth_waves(moved, 2.0, rng)
    return bent


def smooth_waves(where: Field, frequency: float, rng: np.random.Generator) -> Field:
    """A smooth random function of place, of zero mean and about unit deviation, (X, Y, Z)."""
    total = np.zeros(where.shape[1:], np.float32)
    count = 3
    for _ in range(count):
        direction = rng.normal(0.0, 1.0, 3)
        direction *= frequency * rng.uniform(0.6, 1.4) / np.linalg.norm(direction)
        phase = rng.uniform(0.0, 2.0 * np.pi)
        total += np.sin(np.tensordot(direction.astype(np.float32), where, axes=1) + np.float32(phase))
    return np.asarray(total * np.float32(math.sqrt(2.0 / count)), dtype=np.float32)


def _varied(structure: _Structure, rng: np.random.Generator) -> _Structure:
    shift = rng.normal(0.0, structure.jitter, 3)
    factors = np.exp(rng.normal(0.0, 2.0 * structure.jitter, 3))
    return replace(
        structure,
        centre=tuple(np.add(structure.centre, shift)),
        semi_axes=tuple(np.multiply(structure.semi_axes, factors)),
    )


def _radius(structure: _Structure, where: Field, rng: np.random.Generator) -> Field:
    """Distance from the centre in units of the structure's own, deformed radius: below 1 is inside."""
    centre = np.asarray(structure.centre, np.float32)[:, None, None, None]
    semi_axes = np.asarray(structure.semi_axes, np.float32)[:, None, None, None]
    local = (where - centre) / semi_axes
    squares = local * local
    if structure.power != 2.0:
        squares **= structure.power / 2.0
    radius = squares.sum(axis=0) ** (1.0 / structure.power)
    if structure.wobble > 0.0:
        radius *= 1.0 + structure.wobble * smooth_waves(local, structure.waves, rng)
    return np.asarray(radius, dtype=np.float32)


def _trunk(rng: np.random.Generator) -> Iterator[_Structure | _Cluster]:
    """An abdomen in contrast-enhanced CT; it goes on above and below the field of view."""
    endless = 6.0
    wall = partial(_Structure, wobble=0.02, waves=3.0, jitter=0.005)
    yield _Structure("couch", (0.0, -0.86, 0.0), (0.75, 0.06, endless), power=6.0, wobble=0.0)
    yield wall("fat", (0.0, 0.04, 0.0), (0.92, 0.74, endless), power=2.4)
    yield wall("muscle", (0.0, 0.04, 0.0), (0.83, 0.64, endless), power=2.4)
    for level in np.arange(-0.05, 1.2, 0.25):
        # A rib is a bone disc whose middle the cavity takes away again; it is as bright as a vertebra.
        yield _Structure("bone", (0.0, 0.04, float(level)), (0.80, 0.60, 0.055), power=6.0, wobble=0.0)
        yield _Structure("muscle", (0.0, 0.04, float(level)), (0.77, 0.57, 0.2), power=2.4, wobble=0.0)
    yield wall("fat", (0.0, 0.10, 0.0), (0.74, 0.52, endless), power=2.4)
    for side in (-1.0, 1.0):
        yield _Structure("muscle", (0.24 * side, -0.40, 0.0), (0.20, 0.16, endless))
    for _ in range(7):
        # Bowel filled with contrast medium: as bright as a kidney.
        centre = (rng.uniform(-0.45, 0.45), rng.uniform(0.15, 0.40), rng.uniform(-0.95, -0.35))
        sizes = rng.uniform(0.08, 0.20, 3)
        yield _Structure("enhanced", centre, tuple(sizes), wobble=0.15, rim="fat")
    yield _Structure("parenchyma", (-0.22, 0.30, 0.42), (0.24, 0.16, 0.30), wobble=0.12, rim="fat")  # stomach
    yield _Structure("parenchyma", (0.36, 0.14, 0.32), (0.34, 0.38, 0.44), 1, wobble=0.12, rim="fat")
    yield _Structure("parenchyma", (-0.50, -0.06, 0.36), (0.17, 0.25, 0.28), 2, wobble=0.12, rim="fat")
    yield _Structure("enhanced", (-0.36, -0.16, -0.26), (0.15, 0.16, 0.32), 3, wobble=0.12, rim="fat")
    yield _Structure("enhanced", (0.36, -0.18, -0.38), (0.15, 0.16, 0.32), 4, wobble=0.12, rim="fat")
    yield _Structure("enhanced", (-0.07, -0.12, 0.0), (0.07, 0.07, endless), rim="fat")  # aorta
    yield _Structure("parenchyma", (0.10, -0.10, 0.0), (0.07, 0.06, endless), rim="fat")  # vena cava
    height, first = rng.uniform(0.15, 0.18), rng.uniform(-1.4, -1.1)
    yield _Cluster(
        tuple(
            _Structure(
                "bone",
                (0.0, -0.36, first + 2.0 * height * number),
                (0.15, 0.15, height),
                5,
                power=3.5,
                wobble=0.04,
                jitter=0.005,
                rim="fat",
            )
            for number in range(10)
        )
    )


def _head(rng: np.random.Generator) -> Iterator[_Structure | _Cluster]:
    """A head in contrast-enhanced T1-weighted MR."""
    shell = partial(_Structure, wobble=0.01, jitter=0.004)
    cortex = partial(_Structure, wobble=0.04, waves=9.0, jitter=0.004)
    yield _Structure("grey", (0.0, -0.10, -0.95), (0.50, 0.55, 0.60), power=3.0)  # neck
    yield shell("bright", (0.0, 0.0, 0.02), (0.86, 0.95, 0.95))
    yield shell("skull", (0.0, 0.0, 0.02), (0.80, 0.89, 0.89))
    yield shell("fluid", (0.0, 0.0, 0.02), (0.76, 0.85, 0.84))
    yield cortex("grey", (0.0, 0.0, 0.03), (0.72, 0.81, 0.79))
    yield cortex("white", (0.0, 0.0, 0.03), (0.61, 0.70, 0.67))
    yield _Structure("fluid", (0.0, -0.10, 0.60), (0.03, 0.60, 0.30))  # fissure between the hemispheres
    yield _Structure("grey", (0.0, -0.44, -0.50), (0.40, 0.26, 0.20), wobble=0.05, waves=6.0, rim="fluid")
    yield _Structure("white", (0.0, -0.06, -0.60), (0.14, 0.14, 0.40))  # brain stem
    yield _Structure("bright", (0.0, -0.78, 0.15), (0.06, 0.06, 0.45))  # venous sinus
    for side in (-1.0, 1.0):
        yield _Structure("fluid", (0.34 * side, 0.72, -0.36), (0.15, 0.15, 0.15), wobble=0.02, rim="bright")
        yield _Structure("fluid", (0.13 * side, 0.02, 0.15), (0.13, 0.42, 0.24), 1, jitter=0.025)
    yield _Structure("grey", (-0.40, 0.08, -0.05), (0.15, 0.29, 0.24), 2, jitter=0.025, rim="white")
    yield _Structure("grey", (0.40, 0.08, -0.05), (0.15, 0.29, 0.24), 3, jitter=0.025, rim="white")
    yield _Cluster(tuple(_nodules(rng)))


def _nodules(rng: np.random.Generator) -> Iterator[_Structure]:
    """Round nodules, each of which touches the one before, in the white matter of either hemisphere."""
    home = np.array([0.30 * rng.choice([-1.0, 1.0]), rng.uniform(-0.38, -0.28), rng.uniform(0.10, 0.30)])
    centre, radius = home, rng.uniform(0.12, 0.16)
    for _ in range(int(rng.integers(3, 6))):
        size = (float(radius), float(radius), float(radius))
        yield _Structure("nodule", tuple(centre), size, 4, wobble=0.03, jitter=0.005)
        following = rng.uniform(0.10, 0.14)
        # Away from the last one, but back towards where the cluster began: it stays within the brain.
        step = 0.1 * rng.normal(0.0, 1.0, 3) + (home - centre)
        centre = centre + step * (0.9 * (radius + following) / np.linalg.norm(step))
        radius = following
