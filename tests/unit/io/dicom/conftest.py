"""Slices written by hand, so that a header can say anything."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openjpeg.utils
import pytest
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

MakeSlice = Callable[..., Path]

_ENCODERS = {JPEGLSLossless: "pyjpegls", RLELossless: "pydicom"}


@pytest.fixture
def make_slice(tmp_path: Path) -> MakeSlice:
    """Write planes as one DICOM file; ``elements`` overrule what its header says."""

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
        elif syntax in _ENCODERS:
            dataset.compress(syntax, encoding_plugin=_ENCODERS[syntax], generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return make
