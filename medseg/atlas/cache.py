"""Transforms on disk, found again by what they were made of."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.atlas.transform import Transform
from medseg.errors import explain_os_errors
from medseg.files import atomic_path
from medseg.geometry import Grid
from medseg.runs.part import Part
from medseg.volume import Volume

__all__ = ["TransformCache", "content_key"]

_FORM = "1"
"""Changes with the code, where the same images and options no longer give the same transform."""


def content_key(fixed: Volume, moving: Volume, choice: Part, *more: npt.NDArray[Any] | str) -> str:
    """A hash of two images, their grids, the options and whatever else a transform depends on.

    Args:
        fixed: The image that is registered onto.
        moving: The other.
        choice: The options.
        more: Such as the affine map to begin with.
    """
    digest = hashlib.sha256(_FORM.encode())
    for volume in (fixed, moving):
        array = np.ascontiguousarray(volume.array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
        digest.update(volume.grid.affine.tobytes())
    digest.update(choice.model_dump_json().encode())
    for part in more:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


class TransformCache:
    """A folder of transforms. What is damaged counts as not there, and is made anew.

    Args:
        folder: Made when the first transform is kept. Nothing is ever removed from it: whoever names a folder
            says by that how long to keep it.

    Example:
        >>> import tempfile
        >>> cache, grid = TransformCache(tempfile.mkdtemp()), Grid((1, 1, 1), np.eye(4))
        >>> cache.save("00", Transform(grid, np.diag([2.0, 1.0, 1.0, 1.0])))
        >>> cache.load("00", grid).matrix.diagonal().tolist(), cache.load("01", grid)
        ([2.0, 1.0, 1.0, 1.0], None)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()

    def load(self, key: str, grid: Grid) -> Transform | None:
        """The transform of a key, if it is there and lies on ``grid``."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with explain_os_errors(path), np.load(path, allow_pickle=False) as arrays:
                field = arrays.get("displacement_mm")
                return Transform(grid, arrays["matrix"], field)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, key: str, transform: Transform) -> None:
        """Keep a transform.

        Raises:
            ResourceError: The disk is full, or may not be written.
        """
        arrays: dict[str, npt.NDArray[Any]] = {"matrix": transform.matrix}
        if transform.displacement_mm is not None:
            arrays["displacement_mm"] = transform.displacement_mm
        path = self._path(key)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"
