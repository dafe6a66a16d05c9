"""``medseg inspect`` on a folder of DICOM files: a row for each volume, with a verdict on its geometry."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cli.console import bars, output, print_json, print_table

if TYPE_CHECKING:
    from medseg.io.dicom import DicomScan, DicomVolume, Finding

__all__ = ["show_dicom"]

_COLUMNS = (
    "volume",
    "series",
    "modality",
    "size",
    "spacing mm",
    "axes",
    "status",
    "reasons",
    "told apart by",
)
_MOST_FILES_SHOWN = 5
_FINDING_COLUMNS = ("volume", "effect", "reason", "what", "what to do, or what is done")


def show_dicom(path: Path, as_json: bool) -> None:
    """Show what a folder, or one file, holds.

    Raises:
        InputError: It holds no DICOM file.
    """
    from medseg.errors import InputError
    from medseg.io.dicom import scan_dicom

    with bars() as progress:
        scan = scan_dicom(path, progress=progress)
    if not scan.volumes and all(entry.kind == "not DICOM" for entry in scan.set_aside):
        what = "is no DICOM file" if path.is_file() else "holds no run (no plan.json) and no DICOM file"
        raise InputError(
            what, where=path, fix="give a folder of DICOM files, or the --out folder of a training"
        )
    if as_json:
        print_json(_as_dict(scan))
    else:
        _show(scan, path)


def _show(scan: DicomScan, root: Path) -> None:
    folders = [_folder(volume, root) for volume in scan.volumes]
    several = len(set(folders)) > 1
    described = output.is_terminal and any(volume.series.description for volume in scan.volumes)
    rows = [
        [
            str(index),
            "" if volume.series.number is None else str(volume.series.number),
            volume.series.modality,
            *_geometry(volume),
            volume.verdict.status.value,
            ", ".join(dict.fromkeys(finding.reason.value for finding in volume.verdict.findings)),
            _traits(volume),
            *([folder] if several else []),
            # Descriptions may hold names: they are for the eyes of whoever sits at the terminal.
            *([volume.series.description] if described else []),
        ]
        for index, (volume, folder) in enumerate(zip(scan.volumes, folders, strict=True), 1)
    ]
    more = ["folder"] * several + ["description"] * described
    text_columns = (2, 5, 6, 7, 8, 9, 10)
    if rows:
        print_table("Volumes", [*_COLUMNS, *more], rows, text_columns)
    details = [
        [str(index), finding.status.value, finding.reason.value, _what(volume, finding), finding.fix]
        for index, volume in enumerate(scan.volumes, 1)
        for finding in volume.verdict.findings
    ]
    if details:
        print_table("Findings", _FINDING_COLUMNS, details, (1, 2, 3, 4))
    if scan.set_aside:
        print_table("Set aside", ["kind", "files", "why"], _set_aside(scan), (0, 2))
    if scan.warnings:
        print_table("Warnings", [""], [[warning] for warning in scan.warnings])


def _what(volume: DicomVolume, finding: Finding) -> str:
    """A finding in words; files that are to be copied again are named."""
    if finding.reason.value != "truncated":
        return finding.what
    files = sorted({str(frame.path) for frame in volume.frames if frame.missing_bytes})
    shown = ", ".join(files[:_MOST_FILES_SHOWN]) + (", …" if len(files) > _MOST_FILES_SHOWN else "")
    return f"{finding.what}: {shown}"


def _geometry(volume: DicomVolume) -> tuple[str, str, str]:
    """Size, spacing and axes of the grid; where it is refused, the stored size alone."""
    grid = volume.grid
    if grid is None:
        first = volume.frames[0]
        return f"{first.columns} x {first.rows} x {len(volume.frames)}", "", ""
    return (
        " x ".join(map(str, grid.shape)),
        " x ".join(f"{length:.4g}" for length in grid.spacing_mm),
        grid.axcodes,
    )


def _folder(volume: DicomVolume, root: Path) -> str:
    """The folder that holds all files of a volume, from the one that was asked for."""
    common = Path(os.path.commonpath({frame.path.parent for frame in volume.frames}))
    return str(common.relative_to(root)) if common.is_relative_to(root) else str(common)


def _traits(volume: DicomVolume) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in volume.traits.items())


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _set_aside(scan: DicomScan) -> list[list[str]]:
    counted = Counter((entry.kind, entry.what) for entry in scan.set_aside)
    return [[kind, str(count), what] for (kind, what), count in sorted(counted.items())]


def _as_dict(scan: DicomScan) -> dict[str, Any]:
    return {
        "volumes": [_volume_as_dict(volume) for volume in scan.volumes],
        "set_aside": [
            {"path": entry.path, "kind": entry.kind, "what": entry.what} for entry in scan.set_aside
        ],
        "warnings": list(scan.warnings),
    }


def _volume_as_dict(volume: DicomVolume) -> dict[str, Any]:
    grid, stored = volume.grid, volume.stored_affine
    return {
        "series_number": volume.series.number,
        "modality": volume.series.modality,
        "slices": len(volume.frames),
        "files": len({frame.path for frame in volume.frames}),
        "first_file": str(volume.frames[0].path),
        "traits": {name: list(x) if isinstance(x, tuple) else x for name, x in volume.traits.items()},
        "status": volume.verdict.status.value,
        "findings": [
            {
                "reason": finding.reason.value,
                "status": finding.status.value,
                "what": finding.what,
                "fix": finding.fix,
                "figures": dict(finding.figures),
            }
            for finding in volume.verdict.findings
        ],
        "shape": None if grid is None else list(grid.shape),
        "spacing_mm": None if grid is None else list(grid.spacing_mm),
        "axcodes": None if grid is None else grid.axcodes,
        "affine": None if grid is None else grid.affine.tolist(),
        "stored_affine": None if stored is None else stored.tolist(),
        "positions_mm": list(volume.positions_mm),
    }
