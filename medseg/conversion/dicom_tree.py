"""All volumes of a DICOM folder, each to a file of its own or stacked as channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.conversion.report import ConversionReport, ConvertedVolume, Outcome
from medseg.conversion.sidecar import describe, is_same_volume, sidecar_path, source_of
from medseg.conversion.writing import write_and_compare
from medseg.errors import GeometryError, InputError, MedsegError
from medseg.files import remove_partials_of, require_writable_folder, sha256_of, write_json
from medseg.io.dicom import DicomScan, DicomVolume, Repairs, Status, scan_dicom
from medseg.io.dicom.names import REPORT_STEM, volume_label, volume_names
from medseg.io.dicom.volumes import read_dicom_volume, require_accepted
from medseg.progress import Progress, track
from medseg.volume import Volume

__all__ = ["convert_to_file", "convert_to_folder", "scan_volumes"]

Group = tuple[DicomVolume, ...]


def scan_volumes(source: Path, repairs: Repairs, processes: int | None, progress: Progress) -> DicomScan:
    """Scan a folder or file that has to hold a volume.

    Raises:
        InputError: It holds none.
    """
    scan = scan_dicom(source, repairs=repairs, processes=processes, progress=progress)
    if scan.volumes:
        return scan
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(_set_aside(scan).items()))
    raise InputError(
        f"holds no DICOM volume ({counted or 'no file at all'})",
        where=source,
        fix="give a folder of DICOM files, or a volume",
    )


def convert_to_file(
    scan: DicomScan, out: Path, *, keep_names: bool, stack: bool, progress: Progress
) -> ConversionReport:
    """Write the one volume of a scan as ``out``, with its sidecar beside it.

    Raises:
        InputError: There are several volumes that would go into several files; ``out`` is something else.
        GeometryError: The volume is refused.
    """
    groups, notes = _groups(scan.volumes, stack=stack)
    accepted = [group for group in groups if group[0].verdict.status is not Status.REFUSED]
    if not accepted:
        require_accepted(scan.volumes[0])
    if len(groups) > 1:
        fix = "name a folder" if stack else "name a folder, or stack the volumes of one series"
        raise InputError(f"is one file for {len(groups)} volumes", where=out, fix=fix)
    name = sidecar_path(out).stem
    converted = _convert(groups[0], name, out, notes.get(0, ()), keep_names=keep_names, progress=progress)
    if converted.error is not None:
        raise converted.error
    return _report(scan, [converted])


def convert_to_folder(
    scan: DicomScan, out: Path, *, keep_names: bool, stack: bool, progress: Progress
) -> ConversionReport:
    """Write every volume of a scan that is not refused; one that fails leaves the others alone.

    Raises:
        ResourceError: The folder cannot be written.
    """
    groups, notes = _groups(scan.volumes, stack=stack)
    names = volume_names(groups, keep_names=keep_names)
    require_writable_folder(out)
    converted = [
        _convert(
            group,
            name,
            out / f"{name}.nii.gz",
            notes.get(index, ()),
            keep_names=keep_names,
            progress=progress,
        )
        for index, (group, name) in enumerate(zip(track(groups, "volumes", progress), names, strict=True))
    ]
    report = _report(scan, converted)
    remove_partials_of(out / f"{REPORT_STEM}.json")
    write_json(report.as_dict(), out / f"{REPORT_STEM}.json")
    return report


def _report(scan: DicomScan, converted: Sequence[ConvertedVolume]) -> ConversionReport:
    return ConversionReport(tuple(converted), _set_aside(scan), scan.warnings)


def _set_aside(scan: DicomScan) -> dict[str, int]:
    return dict(sorted(Counter(entry.kind for entry in scan.set_aside).items()))


def _groups(volumes: Sequence[DicomVolume], *, stack: bool) -> tuple[list[Group], dict[int, tuple[str, ...]]]:
    """Which volumes go into one file, and, by its index, what is to be said of a file."""
    if not stack:
        return [(volume,) for volume in volumes], {}
    groups: list[Group] = []
    notes: dict[int, tuple[str, ...]] = {}
    for uid in {volume.series.uid: None for volume in volumes}:
        mine = [volume for volume in volumes if volume.series.uid == uid]
        accepted = [volume for volume in mine if volume.verdict.status is not Status.REFUSED]
        why = _why_not_stacked(accepted)
        parts = [(volume,) for volume in mine] if why else [tuple(accepted)]
        if not why:
            parts += [(volume,) for volume in mine if volume not in accepted]
        for part in filter(None, parts):
            if why and len(accepted) > 1:
                notes[len(groups)] = (f"not stacked: {why}",)
            groups.append(part)
    return groups, notes


def _why_not_stacked(volumes: Sequence[DicomVolume]) -> str | None:
    if len({volume.channels for volume in volumes}) > 1:
        return "some hold colours, others intensities"
    grids = [volume.grid for volume in volumes if volume.grid is not None]
    differences = (grids[0].difference(grid) for grid in grids[1:])
    return next((found for found in differences if found is not None), None)


def _convert(
    group: Group, name: str, out: Path, notes: tuple[str, ...], *, keep_names: bool, progress: Progress
) -> ConvertedVolume:
    """Convert one file's volumes; what goes wrong is told in the result."""
    findings = [finding for volume in group for finding in volume.verdict.findings]
    grid = group[0].grid
    about = ConvertedVolume(
        name=name,
        outcome=Outcome.WRITTEN,
        modality=group[0].series.modality,
        status=max((volume.verdict.status for volume in group), key=list(Status).index).value,
        reasons=tuple(dict.fromkeys(finding.reason.value for finding in findings)),
        shape=() if grid is None else grid.shape,
        spacing_mm=() if grid is None else grid.spacing_mm,
        channels=sum(volume.channels for volume in group),
        file=out.name,
        notes=notes,
        label=volume_label(group[0]),
    )
    try:
        for volume in group:
            require_accepted(volume)
        source = source_of(group)
        if is_same_volume(out, source):
            return replace(about, outcome=Outcome.SKIPPED)
        _write(_read(group, progress), group, source, out, keep_names=keep_names)
    except GeometryError as error:
        return replace(about, outcome=Outcome.REFUSED, error=error, file="")
    except MedsegError as error:
        return replace(about, outcome=Outcome.FAILED, error=error, file="")
    return about


def _read(group: Group, progress: Progress) -> Volume:
    """The volumes of a group as channels of one."""
    first = read_dicom_volume(group[0], progress=progress)
    if len(group) == 1:
        return first
    others = [read_dicom_volume(volume, progress=progress) for volume in group[1:]]
    arrays = [channel for volume in (first, *others) for channel in volume.array]
    dtype = np.result_type(*arrays)
    # Channels slowest, columns fastest, as each volume and the file have them.
    stacked = np.empty((len(arrays), *first.grid.shape[::-1]), dtype).transpose(0, 3, 2, 1)
    for place, array in zip(stacked, arrays, strict=True):
        place[...] = array
    return Volume(stacked, first.grid)


def _write(image: Volume, group: Group, source: list[dict[str, Any]], out: Path, *, keep_names: bool) -> None:
    def write_sidecar(written: Path) -> None:
        remove_partials_of(sidecar_path(out))
        told = describe(image, group, source, sha256_of(written), keep_names=keep_names)
        write_json(told, sidecar_path(out))

    write_and_compare(image, out, write_sidecar)
