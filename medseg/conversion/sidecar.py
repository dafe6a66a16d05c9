"""The JSON beside a converted volume: what it is, how it was judged and made, and of which files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.errors import InputError
from medseg.files import read_json, sha256_of
from medseg.io.dicom import DicomVolume
from medseg.io.dicom.traits import TECHNICAL_TRAITS
from medseg.volume import Volume

__all__ = ["describe", "is_same_volume", "sidecar_path", "source_of"]

_SOURCE = "source"
_IMAGE_HASH = "image_sha256"


def sidecar_path(image: Path) -> Path:
    """Where the sidecar of an image lies.

    Example:
        >>> sidecar_path(Path("out/case.nii.gz")).name
        'case.json'
    """
    name = image.name[: -len(".gz")] if image.name.lower().endswith(".gz") else image.name
    return image.with_name(f"{Path(name).stem}.json")


def source_of(group: Sequence[DicomVolume]) -> list[dict[str, Any]]:
    """What an image is made of: for each channel its verdict, and the hashes of its files."""
    hashes: dict[Path, str] = {}
    for path in {frame.path: None for volume in group for frame in volume.frames}:
        hashes[path] = sha256_of(path)
    return [
        {
            "traits": {key: _plain(value) for key, value in volume.traits.items() if key in TECHNICAL_TRAITS},
            **volume.verdict.as_dict(),
            "slices": len(volume.frames),
            "padding": _padding(volume),
            "sha256": [hashes[path] for path in {frame.path: None for frame in volume.frames}],
        }
        for volume in group
    ]


def describe(
    image: Volume,
    group: Sequence[DicomVolume],
    source: list[dict[str, Any]],
    image_sha256: str,
    *,
    keep_names: bool,
) -> dict[str, Any]:
    """The sidecar of an image.

    It holds no name, number, date, place, description or unique identifier of the header.

    Args:
        image: What was written.
        group: The volumes that it is made of.
        source: Of ``source_of``.
        image_sha256: Of the file.
        keep_names: Whether the series' number, description and identifiers are kept.
    """
    grid, series = image.grid, group[0].series
    names = {
        "series_number": series.number,
        "series_description": series.description,
        "series_instance_uid": series.uid,
        "study_instance_uid": series.study_uid,
    }
    return {
        "medseg_version": __version__,
        "modality": series.modality,
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing_mm),
        "axcodes": grid.axcodes,
        "affine": grid.affine.tolist(),
        "channels": image.channels,
        "dtype": image.dtype.name,
        **({"names": names} if keep_names else {}),
        _SOURCE: source,
        _IMAGE_HASH: image_sha256,
    }


def is_same_volume(image: Path, source: list[dict[str, Any]]) -> bool:
    """Whether an image is there already, whole and made of the same files in the same way.

    Raises:
        InputError: Something else is there under this name.
    """
    sidecar = sidecar_path(image)
    if not image.exists() and not sidecar.exists():
        return False
    found = _read(sidecar)
    if found.get(_SOURCE) != source:
        raise InputError(
            "is there already, and is not known to be the same volume",
            where=image if image.exists() else sidecar,
            fix="choose another output folder, or move it away",
        )
    # A sidecar alone is what a conversion leaves that was killed just before its end.
    return image.exists() and found.get(_IMAGE_HASH) == sha256_of(image)


def _read(sidecar: Path) -> dict[str, Any]:
    if not sidecar.exists():
        return {}
    found = read_json(sidecar)
    return found if isinstance(found, dict) else {}


def _padding(volume: DicomVolume) -> dict[str, Any] | None:
    """Values that stand for "no voxel here" stay in the image, rescaled like all others."""
    found = sorted(
        {(frame.padding, frame.slope, frame.intercept) for frame in volume.frames if frame.padding}
    )
    if not found:
        return None
    measured = [slope * end + intercept for ends, slope, intercept in found for end in ends or ()]
    return {"smallest": _plain(min(measured)), "largest": _plain(max(measured)), "kept": True}


def _plain(value: object) -> Any:
    """A value that JSON has: tuples become lists, what is no finite number becomes null."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)
