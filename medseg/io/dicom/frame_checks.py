"""What is wrong with single frames, or between them, before their positions are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from pydicom import config
from pydicom.uid import UID

from medseg.geometry import SHEAR_TOLERANCE
from medseg.io.dicom.codecs import CODECS_FIX, can_decode
from medseg.io.dicom.colours import COLOUR_MODELS, shown
from medseg.io.dicom.frames import Frame
from medseg.io.dicom.stack import is_complete, is_usable_length, is_usable_place
from medseg.io.dicom.verdict import Finding, Reason, Status

__all__ = ["ORIENTATION_TOLERANCE", "SPACING_TOLERANCE", "frame_findings", "same_orientation", "same_spacing"]

ORIENTATION_TOLERANCE: Final = 1e-3
"""Largest difference of a direction's length from 1, and of two slices' direction cosines from each other.
Cosines written with three decimals differ by less."""

SPACING_TOLERANCE: Final = 1e-3
"""Largest difference of two slices' pixel spacings, as a part of them."""

_EXPORT_AGAIN: Final = "export the series again from the archive or the scanner"


def frame_findings(frames: Sequence[Frame]) -> list[Finding]:
    """All findings that need no order of the slices."""
    found = [check(frames) for check in _CHECKS]
    return [finding for finding in found if finding is not None]


def same_orientation(one: Frame, other: Frame) -> bool:
    """Whether two complete frames are parallel, and turned the same way in their plane."""
    difference = np.subtract(one.orientation, other.orientation)  # type: ignore[arg-type]
    return bool(np.abs(difference).max() <= ORIENTATION_TOLERANCE)


def same_spacing(one: Frame, other: Frame) -> bool:
    """Whether two complete frames have the same pixel spacing."""
    pairs = zip(one.spacing or (), other.spacing or (), strict=True)
    return all(abs(a - b) <= SPACING_TOLERANCE * max(abs(a), abs(b)) for a, b in pairs)


def _colours(frames: Sequence[Frame]) -> Finding | None:
    unknown = [frame for frame in frames if not _is_grey(frame) and not _is_coloured(frame)]
    if not unknown and not all(map(_is_grey, frames)):
        return Finding(
            Reason.COLOURS,
            Status.OK,
            "voxels are colours, not intensities",
            "red, green and blue become channels",
            {"channels": 3},
        )
    models = ", ".join(sorted({shown(frame.photometric) for frame in unknown}))
    return _refused(
        Reason.COLOURS,
        unknown,
        frames,
        f"hold colours that cannot be read ({models})",
        "choose the series that the scanner reconstructed, or export it as RGB",
    )


def _is_grey(frame: Frame) -> bool:
    return frame.samples == 1 and frame.photometric.startswith("MONOCHROME")


def _is_coloured(frame: Frame) -> bool:
    return frame.samples == 3 and frame.photometric in COLOUR_MODELS


def _no_codec(frames: Sequence[Frame]) -> Finding | None:
    lacking = [frame for frame in frames if not can_decode(frame.transfer_syntax_uid)]
    found = {UID(frame.transfer_syntax_uid, config.IGNORE) for frame in lacking}
    # The name of an unknown one is what the header says, which may be anything.
    names = sorted(uid.name for uid in found if uid.name != uid) or ["nobody knows what"]
    what = f"are stored as {', '.join(names)}, for which no codec is installed"
    return _refused(Reason.NO_CODEC, lacking, frames, what, CODECS_FIX)


def _truncated(frames: Sequence[Frame]) -> Finding | None:
    files = {frame.path: frame.missing_bytes for frame in frames if frame.missing_bytes}
    if not files:
        return None
    return Finding(
        Reason.TRUNCATED,
        Status.REFUSED,
        f"{_counted(len(files), 'file')} {_ends(len(files))} too early",
        "copy or export them again",
        {"files": len(files), "missing_bytes": sum(files.values())},
    )


def _no_position(frames: Sequence[Frame]) -> Finding | None:
    lacking = [frame for frame in frames if not is_usable_place(frame.position)]
    return _refused(Reason.NO_POSITION, lacking, frames, "have no usable ImagePositionPatient", _EXPORT_AGAIN)


def _no_orientation(frames: Sequence[Frame]) -> Finding | None:
    lacking = [frame for frame in frames if not is_usable_place(frame.orientation)]
    return _refused(
        Reason.NO_ORIENTATION, lacking, frames, "have no usable ImageOrientationPatient", _EXPORT_AGAIN
    )


def _no_spacing(frames: Sequence[Frame]) -> Finding | None:
    lacking = [frame for frame in frames if frame.spacing is None]
    return _refused(Reason.NO_SPACING, lacking, frames, "have no PixelSpacing", _EXPORT_AGAIN)


def _bad_spacing(frames: Sequence[Frame]) -> Finding | None:
    wrong = [
        frame
        for frame in frames
        if frame.spacing is not None and not all(map(is_usable_length, frame.spacing))
    ]
    return _refused(
        Reason.BAD_SPACING,
        wrong,
        frames,
        "have a PixelSpacing that is not two positive lengths",
        _EXPORT_AGAIN,
    )


def _bad_orientation(frames: Sequence[Frame]) -> Finding | None:
    wrong = [
        frame
        for frame in frames
        if is_usable_place(frame.orientation) and _length_error(frame) > ORIENTATION_TOLERANCE
    ]
    worst = max((_length_error(frame) for frame in wrong), default=0.0)
    return _refused(
        Reason.BAD_ORIENTATION,
        wrong,
        frames,
        f"have directions that are not of length 1 (by {worst:.3g})",
        _EXPORT_AGAIN,
        {"length_error": worst},
    )


def _sheared(frames: Sequence[Frame]) -> Finding | None:
    cosines = [(abs(_cosine(frame)), frame) for frame in frames if is_usable_place(frame.orientation)]
    wrong = [
        (cosine, frame)
        for cosine, frame in cosines
        if cosine > SHEAR_TOLERANCE and _length_error(frame) <= ORIENTATION_TOLERANCE
    ]
    worst = max((cosine for cosine, _ in wrong), default=0.0)
    degrees = 90.0 - math.degrees(math.acos(min(worst, 1.0)))
    return _refused(
        Reason.SHEARED,
        [frame for _, frame in wrong],
        frames,
        f"have rows and columns that are not at right angles (by {degrees:.2f} degrees)",
        _EXPORT_AGAIN,
        {"shear_degrees": degrees},
    )


def _mixed_orientations(frames: Sequence[Frame]) -> Finding | None:
    known = [frame for frame in frames if is_usable_place(frame.orientation)]
    other = [frame for frame in known if not same_orientation(known[0], frame)]
    return _refused(
        Reason.MIXED_ORIENTATIONS,
        _minority(known, other),
        frames,
        "lie in the stack, but are turned against the others",
        "remove what does not belong to the series, or export it again",
    )


def _mixed_sizes(frames: Sequence[Frame]) -> Finding | None:
    first = frames[0]
    other = [
        frame
        for frame in frames
        if (frame.rows, frame.columns) != (first.rows, first.columns)
        or (is_complete(frame) and is_complete(first) and not same_spacing(first, frame))
    ]
    return _refused(
        Reason.MIXED_SIZES,
        _minority(frames, other),
        frames,
        "lie in the stack, but have other rows, columns or pixel spacing than the others",
        "remove what does not belong to the series, or export it again",
    )


def _long_text(frames: Sequence[Frame]) -> Finding | None:
    long = [frame for frame in frames if frame.long_values]
    if not long:
        return None
    names = sorted({name for frame in long for name in frame.long_values})
    return Finding(
        Reason.LONG_TEXT,
        Status.OK,
        f"{', '.join(names)} of {_counted(len(long), 'slice')} has numbers of more than 16 characters",
        "read as it is",
        {"slices": len(long)},
    )


_CHECKS: Final[tuple[Callable[[Sequence[Frame]], Finding | None], ...]] = (
    _colours,
    _no_codec,
    _truncated,
    _no_position,
    _no_orientation,
    _no_spacing,
    _bad_spacing,
    _bad_orientation,
    _sheared,
    _mixed_orientations,
    _mixed_sizes,
    _long_text,
)


def _refused(
    reason: Reason,
    wrong: Sequence[Frame],
    frames: Sequence[Frame],
    what: str,
    fix: str,
    figures: dict[str, float | int | str | list[float]] | None = None,
) -> Finding | None:
    if not wrong:
        return None
    whose = "all slices" if len(wrong) == len(frames) else f"{len(wrong)} of {len(frames)} slices"
    return Finding(reason, Status.REFUSED, f"{whose} {what}", fix, {"slices": len(wrong), **(figures or {})})


def _minority(frames: Sequence[Frame], others: list[Frame]) -> list[Frame]:
    """Those that differ from most; ``others`` are those that differ from the first."""
    if len(others) * 2 <= len(frames):
        return others
    different = {id(frame) for frame in others}
    return [frame for frame in frames if id(frame) not in different]


def _length_error(frame: Frame) -> float:
    directions = np.asarray(frame.orientation).reshape(2, 3)
    return float(np.abs(np.linalg.norm(directions, axis=1) - 1.0).max())


def _cosine(frame: Frame) -> float:
    directions = np.asarray(frame.orientation).reshape(2, 3)
    return float(directions[0] @ directions[1])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _ends(count: int) -> str:
    return "ends" if count == 1 else "end"
