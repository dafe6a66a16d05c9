"""DICOM: from what a scanner or an archive left in a folder to volumes whose geometry is proven, and back."""

from medseg.io.dicom.scan import DicomScan, scan_dicom
from medseg.io.dicom.verdict import DicomVolume, Reason, Repairs, SetAside, Status

__all__ = ["DicomScan", "DicomVolume", "Reason", "Repairs", "SetAside", "Status", "scan_dicom"]
