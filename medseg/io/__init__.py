"""Reading and writing volumes: NIfTI, NRRD and MetaImage behind one contract."""

from medseg.io.cases import Case, find_cases
from medseg.io.contract import VolumeFormat, VolumeHeader
from medseg.io.formats import SUFFIXES, read_header, read_volume, split_suffix, write_volume
from medseg.io.values import require_finite

__all__ = [
    "SUFFIXES",
    "Case",
    "VolumeFormat",
    "VolumeHeader",
    "find_cases",
    "read_header",
    "read_volume",
    "require_finite",
    "split_suffix",
    "write_volume",
]
