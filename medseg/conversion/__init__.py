"""From DICOM folders, and between volume formats, to files that were read back and compared."""

from medseg.conversion.convert import convert
from medseg.conversion.report import ConversionReport, ConvertedVolume, Outcome

__all__ = ["ConversionReport", "ConvertedVolume", "Outcome", "convert"]
