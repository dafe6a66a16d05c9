"""Readers of DICOM folders that are libraries: each writes the volumes that it gives as NIfTI files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt


def by_simpleitk(source: Path, out: Path) -> None:
    """Every series below a folder, by ``ImageSeriesReader``, in the order that GDCM gives its files."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    folders = [str(folder) for folder in _folders(source)]
    for uid in sorted({uid for folder in folders for uid in reader.GetGDCMSeriesIDs(folder)}):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source), uid, recursive=True))
        image = reader.Execute()
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        array = sitk.GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            array = array[..., 0]
        _save(array.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, out)


def by_monai(source: Path, out: Path) -> None:
    """Every folder that holds DICOM files, by MONAI's ``PydicomReader``."""
    from monai.data import PydicomReader

    for folder in _folders(source):
        reader = PydicomReader(fname_regex=None)
        array, meta = reader.get_data(reader.read(str(folder)))
        _save(np.asarray(array), np.asarray(meta["affine"], dtype=np.float64), out)


def by_monai_itk(source: Path, out: Path) -> None:
    """Every folder that holds DICOM files, by MONAI's ``ITKReader``, its default for them."""
    from monai.data import ITKReader

    for folder in _folders(source):
        reader = ITKReader()
        array, meta = reader.get_data(reader.read(str(folder)))
        array = np.asarray(array)
        array = array[..., 0] if array.ndim == 4 and array.shape[-1] == 3 else array  # colours
        _save(array, np.asarray(meta["affine"], dtype=np.float64), out)


def _folders(source: Path) -> list[Path]:
    """The folder and those below it that hold DICOM files, as a caller who knows the libraries picks them."""
    from pydicom.misc import is_dicom

    inside = [path for path in source.rglob("*") if path.is_file() and path.name != "DICOMDIR"]
    return sorted({path.parent for path in inside if is_dicom(path)})


def _save(array: npt.NDArray[Any], affine: npt.NDArray[np.float64], out: Path) -> None:
    number = len(list(out.iterdir()))
    if array.dtype in (np.int64, np.uint64):
        array = array.astype(np.float64)
    nib.save(nib.Nifti1Image(array, affine), out / f"{number}.nii")
