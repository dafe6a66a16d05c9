"""Cases that are volumes of DICOM folders."""

from __future__ import annotations

from pathlib import Path

from medseg.io.cases import Case
from medseg.io.dicom.names import volume_names
from medseg.io.dicom.scan import scan_dicom

__all__ = ["dicom_cases"]


def dicom_cases(path: Path) -> list[Case]:
    """A case for each volume of a folder or file, refused ones too; of copies of one volume, the first.

    They are named by hashed identifiers, as ``medseg convert`` names files.

    Args:
        path: A folder of DICOM files, or one such file.

    Returns:
        None where there is no DICOM volume.
    """
    volumes = scan_dicom(path).volumes
    names = volume_names([(volume,) for volume in volumes], keep_names=False)
    cases: dict[str, Case] = {}
    for name, volume in zip(names, volumes, strict=True):
        files = tuple(dict.fromkeys(frame.path for frame in volume.frames))
        cases.setdefault(name, Case(name, files, dicom=volume))
    return list(cases.values())
