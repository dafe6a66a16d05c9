"""One call for every conversion: a DICOM folder to volumes, or a volume to another format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from medseg.conversion.dicom_tree import convert_to_file, convert_to_folder, scan_volumes
from medseg.conversion.report import ConversionReport, ConvertedVolume, Outcome
from medseg.conversion.writing import write_and_compare
from medseg.errors import ConfigError, InputError
from medseg.io import SUFFIXES, read_volume, split_suffix
from medseg.io.dicom import Repairs
from medseg.progress import Progress, SilentProgress

__all__ = ["convert"]


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    repairs: Repairs | None = None,
    keep_names: bool = False,
    channels: Literal["apart", "stacked"] = "apart",
    processes: int | None = None,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert a DICOM folder or file to volumes, or a volume to another format.

    Every DICOM volume that its verdict does not refuse becomes ``NAME.nii.gz``, with qform and sform, and
    ``NAME.json``: modality, spacing, traits, verdict with what was repaired, hashes of the source's files. A
    report of all volumes, ``conversion.json``, lies beside them. Names are made of hashed identifiers, and
    no file tells who the patient is. What is written is read back and compared before it gets its name; what
    is there already is left alone if it is the same volume, and never overwritten otherwise.

    Args:
        source: A folder of DICOM files, one DICOM file, or a volume (NIfTI, NRRD, MetaImage).
        out: A folder; or a file, such as ``"ct.nii.gz"``, for a volume or a source that holds one volume.
        repairs: What may be mended. By default a tilted gantry alone is.
        keep_names: Whether names are made of series numbers and descriptions, and sidecars keep them and the
            series' identifiers.
        channels: Whether the volumes of a series go into files of their own, or ``"stacked"`` as channels of
            one where they lie on one grid.
        processes: That read DICOM headers; by default as many as is worth while.
        progress: Shows how far it is.

    Returns:
        What became of each volume: one that is refused or fails leaves the others alone.

    Raises:
        InputError: The source does not exist or holds no volume, or one file is named for several volumes.
        GeometryError: ``out`` is a file, and the only volume is refused.
        ResourceError: ``out`` cannot be written.
        ConfigError: ``channels`` is neither ``"apart"`` nor ``"stacked"``.
    """
    if channels not in ("apart", "stacked"):
        raise ConfigError(f"'{channels}' is no way to write channels", fix="choose 'apart' or 'stacked'")
    place, target, shown = Path(source), Path(out), progress or SilentProgress()
    if place.is_file() and _is_volume(place):
        return _convert_file(place, target)
    scan = scan_volumes(place, repairs or Repairs(), processes, shown)
    write = convert_to_file if _is_volume(target) else convert_to_folder
    return write(scan, target, keep_names=keep_names, stack=channels == "stacked", progress=shown)


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.is_dir()


def _convert_file(source: Path, out: Path) -> ConversionReport:
    """Write a volume in another format, with the same values."""
    name, _ = split_suffix(out)
    if out.exists():
        raise InputError("is there already", where=out, fix="choose another name, or move it away")
    image = read_volume(source)
    write_and_compare(image, out)
    converted = ConvertedVolume(
        name=name,
        outcome=Outcome.WRITTEN,
        shape=image.grid.shape,
        spacing_mm=image.grid.spacing_mm,
        channels=image.channels,
        file=out.name,
    )
    return ConversionReport((converted,))
