"""Files made by hand, so that a header can say anything."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

MakeNifti = Callable[..., Path]


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
