"""Label maps to DICOM objects that refer to their images, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.conversion.report import ConversionReport, ConvertedVolume, Outcome
from medseg.conversion.sidecar import sidecar_path
from medseg.conversion.writing import write_and_compare
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.files import read_json, remove_partials_of, require_writable_folder, sha256_of, write_json
from medseg.io import SUFFIXES, read_volume
from medseg.io.dicom import DicomVolume, Reason, SetAside, Status, scan_dicom
from medseg.io.dicom.headers import read_frames
from medseg.io.dicom.segmentations import (
    Segmentation,
    read_contours,
    read_segmentation,
    write_object,
)
from medseg.io.dicom.segmentations.nearest import nearest_on
from medseg.io.dicom.segmentations.source import RESAMPLED_NOTE
from medseg.io.dicom.volumes import require_accepted
from medseg.labels import LabelScheme
from medseg.volume import Volume

__all__ = ["OBJECT_SUFFIX", "convert_label_map", "convert_object", "object_kind"]

OBJECT_SUFFIX = ".dcm"

_SEGMENTATION, _CONTOURS = "segmentation", "contours"
_DIGITS = 12
_UPRIGHT_NOTE = "the gantry was tilted: labels were brought onto the resampled grid by nearest neighbour"


def object_kind(path: Path) -> str | None:
    """``"segmentation"`` for a DICOM SEG, ``"contours"`` for an RT Structure Set, ``None`` for all else."""
    found = read_frames(path)
    is_object = isinstance(found, SetAside) and found.kind in (_SEGMENTATION, _CONTOURS)
    return found.kind if isinstance(found, SetAside) and is_object else None


def convert_label_map(
    source: Path, out: Path, *, series: Path | None, labels: Path | None, form: str
) -> ConversionReport:
    """Write a label map as a DICOM object; it is read back and compared before it gets its name.

    Args:
        source: The label map, one channel, on the grid of the images.
        out: The file to write.
        series: The folder of the DICOM images that the label map was made on.
        labels: A ``dataset.json``, or a folder that holds one, which names the classes, and may give their
            concepts; or the JSON file beside label maps that came from an object. Without it they are called
            "label 1" and so on.
        form: One of ``medseg.io.dicom.segmentations.FORMS``.

    Raises:
        InputError: No series is given or it holds no volume, or a label value is not declared.
        GeometryError: The label map is on another grid than the images.
        ConfigError: There is no such form, or highdicom is not installed.
    """
    _require_free(out)
    if series is None:
        raise InputError("needs the images that it was made on", where=out, fix="name them by --source")
    label_map = read_volume(source)
    volume, notes = _volume_of(label_map, _accepted_in(series), series)
    scheme = _numbered(label_map, source) if labels is None else _declared(labels)
    images = write_object(form, label_map, scheme, volume, out)
    if images.resampled is not None:
        notes = (*notes, RESAMPLED_NOTE)
    return ConversionReport((_written(label_map, out, volume.series.modality, notes),))


def convert_object(source: Path, out: Path, *, kind: str, series: Path | None) -> ConversionReport:
    """Write a DICOM object's structures as label maps, several where structures overlap.

    Beside them goes a JSON file with value, name, colour and concept of each structure, and the file that
    holds it.

    Args:
        source: DICOM SEG or RT Structure Set.
        out: A folder; or a file, if no structures overlap.
        kind: Of ``object_kind``.
        series: The folder of the DICOM images that it was made on. A SEG without it gets the grid of its own
            frames, which begins and ends with the structures; contours need it.

    Raises:
        InputError: The object is damaged, or structures overlap and ``out`` is one file.
        GeometryError: It does not lie on the images' planes.
    """
    found = _read(source, kind, series)
    into_file = out.name.lower().endswith(SUFFIXES)
    if into_file and len(found.label_maps) > 1:
        raise InputError(
            f"structures overlap: they need {len(found.label_maps)} label maps",
            where=out,
            fix="name a folder",
        )
    files = [out] if into_file else _files_in(out, source, len(found.label_maps))
    sidecar = sidecar_path(out) if into_file else out / f"{sha256_of(source)[:_DIGITS]}.json"
    for file in (*files, sidecar):
        _require_free(file)
    if not into_file:
        require_writable_folder(out)
    for label_map, file in zip(found.label_maps, files, strict=True):
        write_and_compare(label_map, file)
    write_json(_described(found, source, files), sidecar)
    written = [
        _written(label_map, file, notes=found.notes)
        for label_map, file in zip(found.label_maps, files, strict=True)
    ]
    return ConversionReport(tuple(written))


def _read(source: Path, kind: str, series: Path | None) -> Segmentation:
    if series is None:
        if kind == _CONTOURS:
            raise InputError(
                "contours need the images they were drawn on", where=source, fix="name them by --source"
            )
        return read_segmentation(source)
    errors = []
    for volume in _accepted_in(series):
        try:
            if kind == _CONTOURS:
                return read_contours(source, require_accepted(volume))
            return _on_grid_of(volume, read_segmentation(source, volume))
        except GeometryError as error:
            errors.append(error)
    raise errors[0]


def _on_grid_of(volume: DicomVolume, found: Segmentation) -> Segmentation:
    """Label maps on the grid of the volume as it is read: of a tilted gantry, its slices are resampled."""
    if all(finding.reason is not Reason.GANTRY_TILT for finding in volume.verdict.findings):
        return found
    grid = require_accepted(volume)
    label_maps = tuple(nearest_on(label_map, grid) for label_map in found.label_maps)
    return replace(found, label_maps=label_maps, notes=(*found.notes, _UPRIGHT_NOTE))


def _accepted_in(series: Path) -> list[DicomVolume]:
    """The volumes of a folder or file that can be referred to; at least one.

    Raises:
        InputError: There is none.
        GeometryError: The only one is refused.
    """
    volumes = scan_dicom(series).volumes
    if not volumes:
        raise InputError(
            "holds no DICOM volume",
            where=series,
            fix="give the folder of one volume; 'medseg inspect' shows what a folder holds",
        )
    accepted = [volume for volume in volumes if volume.verdict.status is not Status.REFUSED]
    if not accepted:
        require_accepted(volumes[0])
    return accepted


def _volume_of(
    label_map: Volume, volumes: Sequence[DicomVolume], series: Path
) -> tuple[DicomVolume, tuple[str, ...]]:
    """The volume on whose grid a label map lies, and what is to be said where there are several."""
    if len(volumes) == 1:
        return volumes[0], ()
    fitting = [volume for volume in volumes if _lies_on(label_map, volume)]
    if not fitting:
        raise GeometryError(
            f"lies on the grid of none of the {len(volumes)} volumes",
            where=series,
            fix="give the series that it was made on; 'medseg inspect' shows the grids",
        )
    if len(fitting) == 1:
        return fitting[0], ()
    return fitting[0], (f"{len(fitting)} volumes have this grid: it refers to the first of them",)


def _lies_on(label_map: Volume, volume: DicomVolume) -> bool:
    grid = require_accepted(volume)
    return grid.difference(label_map.reoriented(grid.axcodes).grid) is None


def _declared(labels: Path) -> LabelScheme:
    """The classes of a ``dataset.json``, or of what lies beside label maps that were read from an object."""
    path = labels / "dataset.json" if labels.is_dir() else labels
    described = read_json(path)
    if not isinstance(described, dict) or "labels" not in described:
        raise InputError("declares no labels", where=path, fix="give a dataset.json with the key 'labels'")
    try:
        if isinstance(described["labels"], list):
            return LabelScheme.from_entries(described["labels"])
        return LabelScheme.from_dataset_json(described["labels"]).with_concepts(described.get("concepts"))
    except ConfigError as error:
        raise InputError(error.what, where=path, fix=error.fix) from error


def _numbered(label_map: Volume, source: Path) -> LabelScheme:
    values = np.unique(label_map.array)
    if values[0] < 0 or (values != np.round(values)).any():
        raise InputError("is no label map", where=source, fix="give whole numbers from 0")
    return LabelScheme.from_names({int(value): f"label {int(value)}" for value in values if value})


def _files_in(folder: Path, source: Path, count: int) -> list[Path]:
    stem = sha256_of(source)[:_DIGITS]
    names = [stem] if count == 1 else [f"{stem}_{number}" for number in range(1, count + 1)]
    return [folder / f"{name}.nii.gz" for name in names]


def _require_free(path: Path) -> None:
    """Check that no file has this name, and take away what a conversion that was killed left of it."""
    if path.exists():
        raise InputError("is there already", where=path, fix="choose another name, or move it away")
    remove_partials_of(path)


def _written(label_map: Volume, file: Path, modality: str = "", notes: Sequence[str] = ()) -> ConvertedVolume:
    return ConvertedVolume(
        name=file.name.removesuffix(".gz").rpartition(".")[0],
        outcome=Outcome.WRITTEN,
        modality=modality,
        shape=label_map.grid.shape,
        spacing_mm=label_map.grid.spacing_mm,
        file=file.name,
        notes=tuple(notes),
    )


def _described(found: Segmentation, source: Path, files: Sequence[Path]) -> dict[str, Any]:
    return {
        "medseg_version": __version__,
        "source_sha256": sha256_of(source),
        "labels": [
            {
                "value": entry.value,
                "name": entry.name,
                "color": list(entry.color),
                "concept": None if entry.concept is None else asdict(entry.concept),
                "file": files[found.layer_of[entry.value]].name,
            }
            for entry in found.scheme.foreground
        ],
        "notes": list(found.notes),
    }
