"""The geometry gate: whether the frames of one volume make a grid, and which."""

from __future__ import annotations

import filecmp
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from medseg.geometry import SHEAR_TOLERANCE, Grid
from medseg.io.dicom.frame_checks import frame_findings
from medseg.io.dicom.frames import Frame
from medseg.io.dicom.stack import (
    DUPLICATE_MM,
    FloatArray,
    Stack,
    is_complete,
    is_even,
    is_usable_length,
    missing_slices,
    step_deviation_mm,
)
from medseg.io.dicom.verdict import DicomVolume, Finding, Reason, Repairs, Status, Verdict

__all__ = ["judge"]

QUIET_STEP_TOLERANCE: Final = 1e-3
"""Distances between slices that differ by less, as a part of them or in millimetres, go unmentioned."""

LARGEST_TILT_DEGREES: Final = 45.0
"""Gantries tilt by 30 degrees at most; beyond this, slices make no stack."""

STRAY_TOLERANCE_VOXELS: Final = 0.1
"""How far a slice may be shifted in its plane against the line on which the others lie."""

_WHOLE_VOXEL: Final = 1e-3
"""Rounding noise must not add a row of voxels."""


def judge(
    frames: Sequence[Frame], repairs: Repairs | None = None, traits: Mapping[str, object] | None = None
) -> DicomVolume:
    """Order the frames of one volume by their positions and say whether, and where, they make a grid.

    Positions and orientations are those of PS3.3, section C.7.6.2: nothing else orders slices, no file name
    and no number.

    Args:
        frames: Of one volume, in any order; at least one.
        repairs: What may be mended. By default a tilted gantry alone is.
        traits: What tells the volume from others of its series; handed on.

    Returns:
        The volume with its verdict. Its ``grid`` is ``None`` where it is refused.
    """
    allowed = repairs or Repairs()
    findings = frame_findings(frames)
    series, told = frames[0].series, dict(traits or {})
    usable = all(is_complete(frame) for frame in frames)
    if not usable or any(finding.reason in _UNORDERED for finding in findings):
        return DicomVolume(series, tuple(frames), Verdict(tuple(findings)), traits=told)
    stack, copies = _without_copies(Stack.of(frames))
    findings += copies
    spatial, grid, stored = _grid(stack, allowed)
    refused_before = Verdict(tuple(findings)).status is Status.REFUSED
    verdict = Verdict((*findings, *spatial))
    return DicomVolume(
        series,
        stack.frames,
        verdict,
        positions_mm=tuple(float(x) for x in stack.heights),
        stored_affine=None if refused_before else stored,
        grid=None if verdict.status is Status.REFUSED else grid,
        traits=told,
    )


_UNORDERED: Final = frozenset(
    {Reason.BAD_ORIENTATION, Reason.SHEARED, Reason.MIXED_ORIENTATIONS, Reason.BAD_SPACING}
)


def _without_copies(stack: Stack) -> tuple[Stack, list[Finding]]:
    """Leave out files that are copies of another to the last byte."""
    kept: list[int] = []
    for index, frame in enumerate(stack.frames):
        neighbours = [k for k in kept[-8:] if stack.heights[index] - stack.heights[k] < DUPLICATE_MM]
        if not any(_is_copy(frame, stack.frames[k]) for k in neighbours):
            kept.append(index)
    copies = len(stack.frames) - len(kept)
    if not copies:
        return stack, []
    frames = tuple(stack.frames[index] for index in kept)
    finding = Finding(
        Reason.DUPLICATE_POSITIONS,
        Status.REPAIRED,
        f"{copies} slices are copies of others, byte for byte",
        "each was taken once",
        {"copies": copies},
    )
    return replace(stack, frames=frames, corners=stack.corners[kept]), [finding]


def _is_copy(one: Frame, other: Frame) -> bool:
    if (one.sop_instance_uid, one.number, one.tile) != (other.sop_instance_uid, other.number, other.tile):
        return False
    return one.path != other.path and filecmp.cmp(one.path, other.path, shallow=False)


def _grid(stack: Stack, repairs: Repairs) -> tuple[list[Finding], Grid | None, FloatArray | None]:
    """What positions say, the grid that follows, and the affine of what is stored."""
    if len(stack.frames) == 1:
        return _single_slice(stack)
    duplicate = _duplicates(stack)
    if duplicate is not None:
        return [duplicate], None, None
    steps = _steps(stack, repairs)
    stray = _stray(stack)
    tilt = _tilt(stack, repairs) if stray is None else None
    findings = [finding for finding in (steps.finding, tilt, stray) if finding is not None]
    stored = None
    if steps.as_stored and stray is None:
        stored = stack.affine((stack.corners[-1] - stack.corners[0]) / (len(stack.frames) - 1))
    if any(finding.status is Status.REFUSED for finding in findings):
        return findings, None, stored
    if tilt is not None:
        return findings, _upright_grid(stack, steps.slices), stored
    first = stack.frames[0]
    step = stack.slice_direction * stack.heights[-1] / (steps.slices - 1)
    return findings, Grid((first.columns, first.rows, steps.slices), stack.affine(step)), stored


def _single_slice(stack: Stack) -> tuple[list[Finding], Grid | None, FloatArray | None]:
    frame = stack.frames[0]
    lengths = [x for x in (frame.spacing_between, frame.thickness) if x is not None and is_usable_length(x)]
    if not lengths:
        finding = Finding(
            Reason.NO_SLICE_SPACING,
            Status.REFUSED,
            "one slice alone, without SpacingBetweenSlices and SliceThickness",
            "add the other slices of the series",
        )
        return [finding], None, None
    affine = stack.affine(stack.normal * lengths[0])
    return [], Grid((frame.columns, frame.rows, 1), affine), affine


def _duplicates(stack: Stack) -> Finding | None:
    same = np.flatnonzero(np.diff(stack.heights) < DUPLICATE_MM)
    if not len(same):
        return None
    places = sorted({round(float(stack.heights[index]), 3) for index in same})
    return Finding(
        Reason.DUPLICATE_POSITIONS,
        Status.REFUSED,
        f"{len(same)} slices lie where another lies already, and no element of the header tells them apart "
        f"(at {_listed(places)} mm from the first)",
        "keep the files of one volume in the folder",
        {"slices": len(same), "positions_mm": places},
    )


@dataclass(frozen=True)
class _Steps:
    """The distances between slices.

    Attributes:
        finding: What is wrong with them.
        slices: How many slices the grid has.
        as_stored: Whether these are the stored ones.
    """

    finding: Finding | None
    slices: int
    as_stored: bool


def _steps(stack: Stack, repairs: Repairs) -> _Steps:
    heights = stack.heights
    count = len(heights)
    spacing = float(heights[-1]) / (count - 1)
    deviation = step_deviation_mm(heights)
    if is_even(heights):
        quiet = deviation <= max(QUIET_STEP_TOLERANCE * spacing, QUIET_STEP_TOLERANCE)
        return _Steps(None if quiet else _uneven_remark(deviation, spacing), count, True)
    gaps = missing_slices(heights)
    if gaps:
        return _Steps(_missing(stack, gaps, repairs), count + sum(number for _, number in gaps), False)
    steps = np.diff(heights)
    slices = max(round(float(heights[-1]) / float(np.median(steps))) + 1, 2)
    return _Steps(_uneven(steps, slices, repairs), slices, False)


def _uneven_remark(deviation: float, spacing: float) -> Finding:
    return Finding(
        Reason.UNEVEN_SPACING,
        Status.OK,
        f"distances between slices differ from {spacing:.4g} mm by up to {deviation:.2g} mm "
        f"({100 * deviation / spacing:.2g} %)",
        "taken as even",
        {"deviation_mm": deviation, "deviation_percent": 100 * deviation / spacing, "spacing_mm": spacing},
    )


def _uneven(steps: FloatArray, slices: int, repairs: Repairs) -> Finding:
    low, high, usual = float(steps.min()), float(steps.max()), float(np.median(steps))
    percent = 100 * max(high - usual, usual - low) / usual
    return Finding(
        Reason.UNEVEN_SPACING,
        Status.REPAIRED if repairs.uneven else Status.REFUSED,
        f"distances between slices are {low:.4g} to {high:.4g} mm, up to {percent:.3g} % off {usual:.4g} mm",
        f"resampled onto {slices} even slices"
        if repairs.uneven
        else "resample them by --repair (Repairs.uneven)",
        {"smallest_mm": low, "largest_mm": high, "usual_mm": usual, "deviation_percent": percent},
    )


def _missing(stack: Stack, gaps: list[tuple[int, int]], repairs: Repairs) -> Finding:
    count = sum(number for _, number in gaps)
    ends = [(float(stack.heights[index]), float(stack.heights[index + 1])) for index, _ in gaps]
    shown = [
        f"{number} between {low:.4g} and {high:.4g}"
        for (_, number), (low, high) in zip(gaps, ends, strict=True)
    ]
    return Finding(
        Reason.MISSING_SLICES,
        Status.REPAIRED if repairs.missing else Status.REFUSED,
        f"{count} {'slice is' if count == 1 else 'slices are'} missing: {_listed(shown)} mm from the first",
        "interpolated from their neighbours"
        if repairs.missing
        else "find the missing files, or interpolate them by --repair (Repairs.missing)",
        {
            "missing": count,
            "before_mm": [low for low, _ in ends],
            "after_mm": [high for _, high in ends],
        },
    )


def _tilt(stack: Stack, repairs: Repairs) -> Finding | None:
    if np.linalg.norm(stack.drift) <= SHEAR_TOLERANCE:
        return None
    degrees = stack.tilt_degrees
    return Finding(
        Reason.GANTRY_TILT,
        Status.REPAIRED if repairs.tilt else Status.REFUSED,
        f"slices are not stacked along their normal: the gantry was tilted by {degrees:.1f} degrees",
        "resampled onto an orthogonal grid" if repairs.tilt else "resample them by Repairs.tilt",
        {"tilt_degrees": degrees},
    )


def _stray(stack: Stack) -> Finding | None:
    if stack.tilt_degrees > LARGEST_TILT_DEGREES:
        return Finding(
            Reason.SHEARED,
            Status.REFUSED,
            f"slices lie side by side more than one above the other ({stack.tilt_degrees:.0f} degrees)",
            "export the series again from the archive or the scanner",
            {"tilt_degrees": stack.tilt_degrees},
        )
    smallest = min(stack.frames[0].spacing or (math.nan,))
    if stack.stray_mm <= STRAY_TOLERANCE_VOXELS * smallest:
        return None
    return Finding(
        Reason.SHEARED,
        Status.REFUSED,
        f"slices are shifted against each other in their plane, by up to {stack.stray_mm:.3g} mm",
        "export the series again from the archive or the scanner",
        {"shift_mm": stack.stray_mm},
    )


def _upright_grid(stack: Stack, slices: int) -> Grid:
    """The orthogonal grid that encloses all voxels of a tilted stack, extended by whole voxels in plane."""
    first = stack.frames[0]
    between_rows, between_columns = first.spacing or (math.nan, math.nan)
    height = float(stack.heights[-1])
    shifts = stack.drift * height / np.array([between_columns, between_rows])
    before = np.floor(np.minimum(shifts, 0.0) + _WHOLE_VOXEL).astype(int)
    after = np.ceil(np.maximum(shifts, 0.0) - _WHOLE_VOXEL).astype(int)
    extra = after - before
    corner = (
        stack.corners[0] + before[0] * between_columns * stack.across + before[1] * between_rows * stack.down
    )
    affine = stack.affine(stack.normal * height / (slices - 1), corner)
    return Grid((first.columns + int(extra[0]), first.rows + int(extra[1]), slices), affine)


def _listed(items: Sequence[object], most: int = 4) -> str:
    return ", ".join(map(str, items[:most])) + (", …" if len(items) > most else "")
