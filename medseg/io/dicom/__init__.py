"""DICOM: from what a scanner or an archive left in a folder to volumes whose geometry is proven, and back."""

from medseg.io.dicom.scan import DicomScan, scan_dicom
from medseg.io.dicom.verdict import DicomVolume, Finding, Reason, Repairs, SetAside, Status, Verdict

__all__ = [
    "DicomScan",
    "DicomVolume",
    "Finding",
    "Reason",
    "Repairs",
    "SetAside",
    "Status",
    "Verdict",
    "scan_dicom",
]
