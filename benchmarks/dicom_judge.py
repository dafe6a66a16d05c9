"""What became of a DICOM folder: is what a converter wrote right, honestly repaired, or silently wrong?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from medseg.geometry import AxisMap
from tests.data.dicom import SeriesTruth, landmark_offsets_voxels
from tests.data.dicom_cases import Written

HALF_A_VOXEL = 0.5
CORRECTED = ("_Tilt", "_Eq")
LEAST_CORRELATION = 0.95
LEAST_COVERED = 0.9

Array = npt.NDArray[Any]


class Outcome(StrEnum):
    """Of a folder, or of one volume."""

    RIGHT = "right"
    REPAIRED = "repaired"
    REFUSED = "refused"
    WRONG = "silently wrong"


@dataclass(frozen=True, eq=False)
class Output:
    """One volume that a converter wrote.

    Attributes:
        name: Of the file.
        array: (X, Y, Z); of colours the red.
        affine: To RAS+ millimetres, (4, 4).
    """

    name: str
    array: Array
    affine: Array


@dataclass(frozen=True)
class Judgement:
    """Of a folder.

    Attributes:
        outcome: Of all its volumes together.
        note: What is wrong, in words.
    """

    outcome: Outcome
    note: str = ""


def read_outputs(folder: Path) -> list[Output]:
    """All NIfTI files below a folder; a fourth axis is one volume after the other.

    dcm2niix writes the stored slices beside what it corrected; the latter alone counts.
    """
    paths = sorted(folder.rglob("*.nii*"))
    corrected = {path.name.split(mark)[0] for path in paths for mark in CORRECTED if mark in path.name}
    outputs = []
    for path in paths:
        if path.name.split(".")[0] in corrected:
            continue
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
        if array.dtype.names:
            array = array["R"]
        if array.ndim == 4 and array.shape[3] == 3 and array.dtype == np.uint8:
            array = array[..., 0]
        array = array.reshape(*array.shape, *(1,) * (3 - array.ndim))
        for index in range(int(np.prod(array.shape[3:]))):
            volume = array.reshape(*array.shape[:3], -1)[..., index]
            outputs.append(Output(path.name, volume, image.affine))
    return outputs


def judge(outputs: Sequence[Output], written: Written, failed: bool, by_landmarks: bool) -> Judgement:
    """Compare what a converter wrote with the truth.

    Args:
        outputs: What it wrote.
        written: What the folder holds.
        failed: Whether it said so by an exit code or an exception: then volumes may be absent.
        by_landmarks: Whether a repaired volume is a phantom, whose centroids are known by formula.

    Returns:
        ``WRONG`` if any volume is neither right nor repaired, or if one is absent without an error.
    """
    outcomes: dict[int, Outcome] = {}
    for output in outputs:
        if not _is_affine(output.affine):
            return Judgement(Outcome.WRONG, f"{output.name}: the affine cannot be inverted")
        found = [_compare(output, truth, written, by_landmarks) for truth in written.truths]
        good = [(index, outcome) for index, outcome in enumerate(found) if outcome is not Outcome.WRONG]
        if good:
            outcomes.update(good)
        elif not _is_extra(output, written):
            return Judgement(Outcome.WRONG, _difference(output, written.truths))
    if not outcomes:
        return Judgement(Outcome.REFUSED)
    lost = len(written.truths) - len(outcomes)
    if lost:
        note = f"{lost} of {len(written.truths)} volumes absent"
        return Judgement(Outcome.REFUSED if failed else Outcome.WRONG, note)
    repaired = Outcome.REPAIRED in outcomes.values()
    return Judgement(Outcome.REPAIRED if repaired else Outcome.RIGHT)


def _compare(output: Output, truth: SeriesTruth, written: Written, by_landmarks: bool) -> Outcome:
    if _same(output, truth, written.tolerance_mm):
        return Outcome.RIGHT
    if not written.mendable:
        return Outcome.WRONG
    repaired = _landmarks_stay(output) if by_landmarks else _lies_where(output, truth)
    return Outcome.REPAIRED if repaired else Outcome.WRONG


def _same(output: Output, truth: SeriesTruth, tolerance_mm: float) -> bool:
    """Whether voxels and places are equal once the axes are in one order."""
    axes = _axes(output, truth)
    if axes is None:
        return False
    array = axes.apply(output.array)
    if array.shape != truth.array.shape or _displacement_mm(output, truth, axes) > tolerance_mm:
        return False
    wanted = truth.array.astype(np.float64)
    return bool(np.abs(array - wanted).max() <= 1e-4 * max(float(np.ptp(wanted)), 1.0))


def _axes(output: Output, truth: SeriesTruth) -> AxisMap | None:
    """How the output's axes must be permuted and flipped to be the truth's."""
    axes = [
        affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (output.affine, truth.affine)
    ]
    turn = axes[0].T @ axes[1]
    order = np.abs(turn).argmax(axis=0)
    if sorted(order) != [0, 1, 2]:
        return None
    return AxisMap(tuple(map(int, order)), tuple(bool(turn[axis, i] < 0) for i, axis in enumerate(order)))


def _displacement_mm(output: Output, truth: SeriesTruth, axes: AxisMap) -> float:
    """How far a corner of a slice lies from its place."""
    affine = output.affine @ axes.index_affine(output.array.shape)
    columns, rows, slices = truth.array.shape
    corners = np.array(list(itertools.product((0, columns - 1), (0, rows - 1), range(slices))))
    places = corners @ affine[:3, :3].T + affine[:3, 3]
    return float(np.linalg.norm(places - truth.places_mm(corners), axis=1).max())


def _landmarks_stay(output: Output) -> bool:
    return bool(np.abs(landmark_offsets_voxels(output.array, output.affine)).max() <= HALF_A_VOXEL)


def _lies_where(output: Output, truth: SeriesTruth) -> bool:
    """Whether the output, looked up where the truth's voxels lie, fits there better than a voxel beside."""
    steps = tuple(np.arange(1, size - 1, max(size // 64, 1)) for size in truth.array.shape)
    indices = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    wanted = truth.array[tuple(indices.T)].astype(np.float64)
    to_index = np.linalg.inv(output.affine)
    fits = []
    for shift in [np.zeros(3, dtype=int), *np.eye(3, dtype=int), *-np.eye(3, dtype=int)]:
        places = truth.places_mm(indices + shift) @ to_index[:3, :3].T + to_index[:3, 3]
        found = map_coordinates(output.array.astype(np.float32), places.T, order=1, cval=np.nan)
        inside = np.isfinite(found)
        if inside.mean() < LEAST_COVERED:
            return False
        fits.append(float(np.corrcoef(found[inside], wanted[inside])[0, 1]))
    return fits[0] >= max(LEAST_CORRELATION, *fits)


def _is_affine(affine: Array) -> bool:
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9)


def _is_extra(output: Output, written: Written) -> bool:
    return sorted(output.array.shape) in [sorted(shape) for shape in written.extras]


def _difference(output: Output, truths: Sequence[SeriesTruth]) -> str:
    """In what an output differs from the truth that it resembles most."""
    told = []
    for truth in truths:
        axes = _axes(output, truth)
        shape = output.array.shape if axes is None else axes.apply(output.array).shape
        if axes is None or shape != truth.array.shape:
            told.append((2, f"{output.name} has {_by(shape)} voxels instead of {_by(truth.array.shape)}"))
            continue
        beside = _displacement_mm(output, truth, axes)
        other = float((np.abs(axes.apply(output.array) - truth.array.astype(np.float64)) > 1e-3).mean())
        words = f"{output.name}: corners {beside:.3g} mm beside, {100 * other:.0f} % of the voxels differ"
        told.append((other, words))
    return min(told)[1]


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
