"""Files made by hand, so that a header can say anything."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

MakeNifti = Callable[..., Path]
MakeSlice = Callable[..., Path]


@pytest.fixture
def make_nifti(tmp_path: Path) -> MakeNifti:
    """Write a NIfTI file around ``array``; ``fields`` overrule what its header says."""

    def make(
        array: np.ndarray[Any, Any],
        affine: np.ndarray[Any, Any] | None = None,
        name: str = "made.nii",
        endian: str = "<",
        version: int = 1,
        **fields: Any,
    ) -> Path:
        affine = np.diag([-2.0, 2.0, 3.0, 1.0]) if affine is None else affine
        header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=endian)
        header.set_data_dtype(array.dtype.newbyteorder(endian))
        header.set_data_shape(array.shape)
        header.set_qform(affine, code=0)
        header.set_sform(affine, code=2)
        header["vox_offset"] = int(header["sizeof_hdr"]) + 4
        for field, value in fields.items():
            header[field] = value
        content = (
            header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(endian)).tobytes(order="F")
        )
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return make


@pytest.fixture
def make_slice(tmp_path: Path) -> MakeSlice:
    """Write planes as one DICOM file; ``elements`` overrule what its header says."""
    import openjpeg.utils
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        CTImageStorage,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLSLossless,
        RLELossless,
    )

    encoders = {JPEGLSLossless: "pyjpegls", RLELossless: "pydicom"}

    def make(
        planes: np.ndarray[Any, Any],
        name: str = "slice.dcm",
        syntax: str = ExplicitVRLittleEndian,
        **elements: Any,
    ) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        big = syntax == ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax if big else ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"1.2.3.{zlib.crc32(name.encode())}"
        dataset.PatientName = "Somebody^Real"
        dataset.Rows, dataset.Columns = planes.shape[-2:]
        if planes.ndim == 3:
            dataset.NumberOfFrames = len(planes)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        bits = 8 * planes.dtype.itemsize
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
        dataset.PixelRepresentation = int(planes.dtype.kind == "i")
        stored = planes.astype(planes.dtype.newbyteorder(">" if big else "<")).tobytes()
        dataset.PixelData = stored + bytes(len(stored) % 2)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if syntax == JPEG2000Lossless:
            frames = planes.reshape(-1, *planes.shape[-2:])
            dataset.PixelData = encapsulate([openjpeg.utils.encode_array(frame) for frame in frames])
            dataset["PixelData"].VR = "OB"
        elif syntax in encoders:
            dataset.compress(syntax, encoding_plugin=encoders[syntax], generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return make
