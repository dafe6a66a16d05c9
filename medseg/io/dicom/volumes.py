"""From the frames of a DICOM volume to its voxels on its grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid
from medseg.io.dicom.frames import Frame
from medseg.io.dicom.modality import MeasuredStack
from medseg.io.dicom.pixels import open_planes
from medseg.io.dicom.repair import repaired
from medseg.io.dicom.verdict import DicomVolume, Status
from medseg.io.sizes import require_memory
from medseg.progress import Progress, SilentProgress
from medseg.volume import Volume

__all__ = ["read_dicom_volume", "require_accepted"]

_VOLUMES_HELD = 3
_USUAL_VOXEL_BYTES = 2


def read_dicom_volume(volume: DicomVolume, *, progress: Progress | None = None) -> Volume:
    """Decode a DICOM volume, rescale it to measured values, and repair it as its verdict says.

    Colours become three channels: red, green, blue. All other volumes have one channel, whose
    values are slope times stored value plus intercept, of each frame by itself. They are integers where
    slopes and intercepts are whole numbers (int16 for CT), else float32. Values that stand for "no voxel
    here" (PixelPaddingValue) stay, rescaled like all others. Each file is opened once, and decoded plane by
    plane.

    Args:
        volume: Of a scan.
        progress: Shown while slices are decoded.

    Returns:
        Array (channels, columns, rows, slices) on the volume's grid, in RAS+ millimetres.

    Raises:
        GeometryError: The volume is refused by its verdict, in whose words.
        InputError: A file is damaged, truncated, no longer what it was when it was scanned, or no codec for
            it is installed.
        ResourceError: The volume does not fit into memory.
    """
    grid = require_accepted(volume)
    frames = volume.frames
    if not frames:
        raise InputError("the volume has no frames", fix="scan the folder again")
    values = len(frames) * frames[0].rows * frames[0].columns * frames[0].samples
    require_memory(values * _USUAL_VOXEL_BYTES * _VOLUMES_HELD, _place_of(volume))
    shown = progress or SilentProgress()
    with shown.task("slices", len(frames)) as advance:
        stack = _read_stack(frames, advance)
    channels = [repaired(channel, volume) for channel in np.moveaxis(stack, -1, 0)]
    # Files have columns fastest, and so does this array: of one channel nothing is copied.
    array = channels[0][np.newaxis] if len(channels) == 1 else np.stack(channels)
    return Volume(array.transpose(0, 3, 2, 1), grid)


def require_accepted(volume: DicomVolume) -> Grid:
    """The grid of a volume that may be read.

    Raises:
        GeometryError: It is refused; the error says why in its findings' words.
    """
    if volume.grid is not None and volume.verdict.status is not Status.REFUSED:
        return volume.grid
    refusals = [finding for finding in volume.verdict.findings if finding.status is Status.REFUSED]
    raise GeometryError(
        "; ".join(f"{finding.what} ({finding.reason})" for finding in refusals) or "it has no grid",
        where=_place_of(volume),
        fix="; ".join(dict.fromkeys(finding.fix for finding in refusals if finding.fix)) or None,
    )


def _read_stack(frames: tuple[Frame, ...], advance: Callable[[float], None]) -> npt.NDArray[Any]:
    """Measured values of all frames, shape (slices, rows, columns, channels)."""
    first = frames[0]
    shape = (first.rows, first.columns, first.samples)
    stack = MeasuredStack(
        [frame.slope for frame in frames],
        [frame.intercept for frame in frames],
        first.rows,
        first.columns * first.samples,
    )
    for (path, syntax), wanted in _by_file(frames).items():
        with open_planes(path, syntax) as planes:
            for number, plane in planes.read(wanted):
                for index in wanted[number]:
                    part = _cut(plane, frames[index], shape)
                    stack.put(index, part.reshape(first.rows, -1))
                    advance(1)
    return stack.finished().reshape(len(frames), *shape)


def _by_file(frames: Iterable[Frame]) -> Mapping[tuple[Path, str], Mapping[int, list[int]]]:
    """For each file, which frames (by their index in the volume) lie in which of its planes."""
    files: dict[tuple[Path, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, frame in enumerate(frames):
        files[frame.path, frame.transfer_syntax_uid][frame.number].append(index)
    return files


def _cut(plane: npt.NDArray[Any], frame: Frame, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """A frame's part of the plane in which it is stored, shape (rows, columns, channels)."""
    plane = plane[..., np.newaxis] if plane.ndim == 2 else plane
    row, column = (0, 0) if frame.tile is None else (frame.tile.first_row, frame.tile.first_column)
    part = plane[row : row + frame.rows, column : column + frame.columns]
    is_whole = frame.tile is not None or part.shape == plane.shape
    if min(row, column) < 0 or part.shape != shape or not is_whole:
        raise InputError(
            f"holds planes of {plane.shape[0]}x{plane.shape[1]} voxels, from which {shape[0]}x{shape[1]} at "
            f"row {row} and column {column} cannot be taken",
            where=frame.path,
            fix="scan the folder again, the file has changed",
        )
    return part


def _place_of(volume: DicomVolume) -> str:
    number = volume.series.number
    return f"{volume.series.modality} series{'' if number is None else f' {number}'}"
