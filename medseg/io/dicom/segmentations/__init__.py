"""DICOM SEG and RT Structure Sets, in and out.

Label maps go out through ``write_segmentation`` and ``write_contours``, probabilities through
``write_fractions``. All take the label map, its scheme and the files of the images that it was made on, in
any order. They read back what they wrote, and the file gets its name only if it says the same.
``read_segmentation`` and ``read_contours`` give a ``Segmentation``: label maps on a proven grid, several
where segments overlap, and the scheme that names them.
"""

from medseg.io.dicom.segmentations.concepts import concepts_of
from medseg.io.dicom.segmentations.forms import FORMS, write_object
from medseg.io.dicom.segmentations.identity import AlgorithmIdentification, SeriesIdentity
from medseg.io.dicom.segmentations.layers import Segmentation
from medseg.io.dicom.segmentations.read_contours import read_contours
from medseg.io.dicom.segmentations.read_seg import read_fractions, read_segmentation
from medseg.io.dicom.segmentations.write_contours import write_contours
from medseg.io.dicom.segmentations.write_seg import write_fractions, write_segmentation

__all__ = [
    "FORMS",
    "AlgorithmIdentification",
    "Segmentation",
    "SeriesIdentity",
    "concepts_of",
    "read_contours",
    "read_fractions",
    "read_segmentation",
    "write_contours",
    "write_fractions",
    "write_object",
    "write_segmentation",
]
