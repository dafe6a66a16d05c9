"""Arrays on disk, as fitted models keep them: compressed, whole or not there, and nothing to execute."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import BundleError, explain_os_errors
from medseg.files import atomic_path

__all__ = ["REFIT", "read_arrays", "write_arrays"]

REFIT = "fit it anew"


def write_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write arrays into one compressed ``.npz``, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    """Read arrays that ``write_arrays`` wrote; nothing in the file is executed.

    Raises:
        BundleError: The file is missing or damaged, lacks an array, or holds numbers that are not finite.
    """
    if not path.is_file():
        raise BundleError("is missing", where=path, fix=REFIT)
    try:
        with explain_os_errors(path), np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError("is damaged", where=path, fix=REFIT) from error
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise BundleError("holds numbers that are not finite", where=path, fix=REFIT)
    return arrays
