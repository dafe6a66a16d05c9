"""The volumes of a DICOM folder by name, each once."""

from __future__ import annotations

from pathlib import Path

from medseg.io.dicom.names import volume_names
from medseg.io.dicom.scan import scan_dicom
from medseg.io.dicom.verdict import DicomVolume

__all__ = ["named_volumes"]


def named_volumes(path: Path) -> dict[str, DicomVolume]:
    """The volumes of a folder or file, refused ones too; of copies of one volume, the first.

    They are named by hashed identifiers, as ``medseg convert`` names files.

    Args:
        path: A folder of DICOM files, or one such file.
    """
    volumes = scan_dicom(path).volumes
    names = volume_names([(volume,) for volume in volumes], keep_names=False)
    found: dict[str, DicomVolume] = {}
    for name, volume in zip(names, volumes, strict=True):
        found.setdefault(name, volume)
    return found
