"""Reading and writing volumes: NIfTI, NRRD and MetaImage behind one contract; volumes in DICOM folders."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from medseg.io.cases import Case, find_cases
from medseg.io.contract import StoredVoxels, VolumeFormat, VolumeHeader
from medseg.io.formats import SUFFIXES, read_header, read_volume, split_suffix, write_slices, write_volume
from medseg.io.label_sink import LabelSink
from medseg.io.stored import StoredVolume, open_volume
from medseg.io.values import require_finite

if TYPE_CHECKING:
    from medseg.io.dicom import scan_dicom

__all__ = [
    "SUFFIXES",
    "Case",
    "LabelSink",
    "StoredVolume",
    "StoredVoxels",
    "VolumeFormat",
    "VolumeHeader",
    "find_cases",
    "open_volume",
    "read_header",
    "read_volume",
    "require_finite",
    "scan_dicom",
    "split_suffix",
    "write_slices",
    "write_volume",
]

# Imported when asked for: most images are no DICOM files.
_LATER = {"scan_dicom": "medseg.io.dicom"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_LATER[name]), name)
