"""Phantoms: seeded volumes that look like CT and MR of a body and come with their true labels.

They are the embedded data of demonstrations and tests. Each holds organs of random, smooth shape beside
structures of the same intensities that are no targets, so that intensity alone cannot segment them; a left
and a right organ that differ by their side only; and touching instances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.data.anatomy import Field, Kind, Triple, paint, scene_of, smooth_waves
from medseg.errors import ConfigError
from medseg.files import require_writable_folder, write_json
from medseg.geometry import Grid, parse_axcodes
from medseg.io import write_volume
from medseg.labels import LabelScheme
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.data.layouts import Dataset

__all__ = ["Kind", "Phantom", "make_phantom", "phantom_labels", "write_phantom_dataset"]


@dataclass(frozen=True)
class Phantom:
    """A volume and its truth, all three on one grid.

    Attributes:
        image: One channel; int16 Hounsfield units (ct) or float32 arbitrary units (mr).
        label: One channel; uint8, the values of ``phantom_labels``.
        instances: One channel; uint8, 0 outside, 1, 2, … for each of the touching instances.
    """

    image: Volume
    label: Volume
    instances: Volume


def phantom_labels(kind: Kind) -> LabelScheme:
    """The classes that phantoms of ``kind`` hold.

    Raises:
        ConfigError: ``kind`` is neither ``"ct"`` nor ``"mr"``.

    Example:
        >>> phantom_labels("mr").names
        ('background', 'ventricles', 'left nucleus', 'right nucleus', 'nodules')
    """
    return LabelScheme.from_names(scene_of(kind).names)


def make_phantom(
    kind: Kind = "mr",
    seed: int | Sequence[int] = 0,
    *,
    shape: tuple[int, int, int] = (64, 64, 40),
    spacing_mm: Triple | None = None,
    axcodes: str = "RAS",
    tilt_degrees: Triple = (0.0, 0.0, 0.0),
) -> Phantom:
    """Make one phantom; the same arguments always give the same voxels.

    Args:
        kind: ``"ct"`` (a trunk) or ``"mr"`` (a head).
        seed: One number, or several that name a case (``[seed, index]``).
        shape: Voxels from left to right, back to front, foot to head.
        spacing_mm: Spacing along the same axes; by default the kind's own, thicker along the body.
        axcodes: The orientation in which the voxels are stored.
        tilt_degrees: Turns of the grid about the R, A and S axes, for oblique volumes.

    Raises:
        ConfigError: An unknown kind, an orientation that is none, or a side below 16 voxels.

    Example:
        >>> phantom = make_phantom("mr", seed=1, shape=(32, 32, 20), axcodes="LPS")
        >>> phantom.image.grid.axcodes, np.unique(phantom.label.array).tolist()
        ('LPS', [0, 1, 2, 3, 4])
    """
    scene = scene_of(kind)
    parse_axcodes(axcodes)
    if min(shape) < 16:
        raise ConfigError(f"shape {shape} is too small for a phantom", fix="use at least 16 voxels a side")
    rng = np.random.default_rng(seed)
    spacing = scene.spacing_mm if spacing_mm is None else spacing_mm
    grid = _centred_grid(shape, spacing, tilt_degrees)
    tissue, label, instances = paint(kind, scene, shape, rng)
    image = _scan_ct(tissue, rng) if kind == "ct" else _scan_mr(tissue, rng)
    volumes = (Volume(array[np.newaxis], grid).reoriented(axcodes) for array in (image, label, instances))
    return Phantom(*volumes)


def write_phantom_dataset(
    folder: str | Path,
    kind: Kind = "mr",
    count: int = 24,
    test_count: int = 6,
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = (64, 64, 40),
    spacing_mm: Triple | None = None,
    axcodes: Sequence[str] = ("RAS", "LAS", "LPS"),
    spacing_variation: float = 0.0,
) -> Dataset:
    """Write phantoms as a dataset in MSD's layout, the test cases with labels too (``labelsTs``).

    Args:
        folder: Where to; made if need be.
        kind: ``"ct"`` or ``"mr"``.
        count: Training cases.
        test_count: Held-out cases.
        seed: Case ``index`` is made from ``[seed, index]``, whatever the number of cases.
        shape: As for ``make_phantom``.
        spacing_mm: As for ``make_phantom``.
        axcodes: Orientations in which the cases are stored, in turn.
        spacing_variation: Standard deviation of the logarithm of each case's spacing.

    Raises:
        ConfigError: A count that makes no dataset, or an option that ``make_phantom`` refuses.
        ResourceError: The folder cannot be written.
    """
    from medseg.data.layouts import load_dataset

    if count < 1 or test_count < 0 or not axcodes:
        raise ConfigError(
            f"{count} training and {test_count} test phantoms in {len(axcodes)} orientations make no dataset",
            fix="ask for one training phantom and one orientation at least",
        )
    scene = scene_of(kind)
    spacing = scene.spacing_mm if spacing_mm is None else spacing_mm
    root = require_writable_folder(folder)
    entries: dict[str, list[dict[str, str]]] = {"Tr": [], "Ts": []}
    for index in range(count + test_count):
        part = "Tr" if index < count else "Ts"
        factor = math.exp(spacing_variation * np.random.default_rng([seed, index, 1]).standard_normal())
        phantom = make_phantom(
            kind,
            [seed, index],
            shape=shape,
            spacing_mm=(spacing[0] * factor, spacing[1] * factor, spacing[2] * factor),
            axcodes=axcodes[index % len(axcodes)],
        )
        name = f"{kind}_{index:03d}.nii.gz"
        write_volume(phantom.image, root / f"images{part}" / name)
        write_volume(phantom.label, root / f"labels{part}" / name, labels=True)
        entries[part].append({"image": f"./images{part}/{name}", "label": f"./labels{part}/{name}"})
    description = {
        "name": f"{kind}_phantoms",
        "description": f"{kind.upper()}-like phantoms made by medseg from seed {seed}",
        "tensorImageSize": "3D",
        "modality": {"0": scene.modality},
        "labels": {"0": "background", **{str(value): name for value, name in scene.names.items()}},
        "numTraining": count,
        "numTest": test_count,
        "training": entries["Tr"],
        "test": [entry["image"] for entry in entries["Ts"]],
    }
    write_json(description, root / "dataset.json")
    return load_dataset(root)


def _centred_grid(shape: tuple[int, int, int], spacing_mm: Triple, tilt_degrees: Triple) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt_degrees, degrees=True).as_matrix() * spacing_mm
    affine[:3, 3] = affine[:3, :3] @ (-(np.asarray(shape) - 1) / 2.0)
    return Grid(shape, affine)


def _scan_ct(tissue: Field, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Blur by the scanner and grainy noise, in Hounsfield units."""
    sharp = ndimage.gaussian_filter(tissue, 0.6)
    grain = ndimage.gaussian_filter(rng.standard_normal(tissue.shape, np.float32), (0.6, 0.6, 0.0))
    sharp += grain * np.float32(rng.uniform(18.0, 28.0) / grain.std())
    return np.clip(np.round(sharp), -1024, 3071).astype(np.int16)


def _scan_mr(tissue: Field, rng: np.random.Generator) -> Field:
    """Partial volume, a bias field as of a surface coil, Rician noise, and a gain that no two scans share."""
    shape = tissue.shape
    axes = [np.linspace(-1.0, 1.0, size, dtype=np.float32) for size in shape]
    bias = np.exp(0.15 * smooth_waves(np.stack(np.meshgrid(*axes, indexing="ij")), 1.5, rng))
    signal = ndimage.gaussian_filter(tissue, 0.6) * bias
    sigma = np.float32(rng.uniform(0.03, 0.045))
    real = signal + sigma * rng.standard_normal(shape, np.float32)
    imaginary = sigma * rng.standard_normal(shape, np.float32)
    gain = math.exp(rng.normal(6.0, 0.4))
    return np.asarray(np.hypot(real, imaginary) * np.float32(gain), dtype=np.float32)
