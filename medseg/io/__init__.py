"""Reading and writing volumes: NIfTI, NRRD and MetaImage behind one contract."""

from medseg.io.cases import Case, find_cases
from medseg.io.contract import StoredVoxels, VolumeFormat, VolumeHeader
from medseg.io.formats import SUFFIXES, read_header, read_volume, split_suffix, write_slices, write_volume
from medseg.io.label_sink import LabelSink
from medseg.io.stored import StoredVolume, open_volume
from medseg.io.values import require_finite

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
    "split_suffix",
    "write_slices",
    "write_volume",
]
