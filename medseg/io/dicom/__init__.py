"""DICOM: from what a scanner or an archive left in a folder to volumes whose geometry is proven, and back."""
