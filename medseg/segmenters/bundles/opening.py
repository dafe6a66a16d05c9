"""Bundles where they lie, or out of an archive."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from medseg.data.unpack import unpack
from medseg.errors import BundleError, InputError, explain_os_errors
from medseg.runs.bundle import ARCHIVE, BundleFolder

__all__ = ["open_bundle", "told_path"]

_ALWAYS_ALLOWED_BYTES = 1 << 30
_LARGEST_RATIO = 20
"""Weights hardly get smaller in an archive; what grows more than this in unpacking is no bundle."""

_unpacked: dict[tuple[str, int, int], Path] = {}


def open_bundle(path: str | os.PathLike[str]) -> BundleFolder:
    """A bundle in a folder, or in a ``.zip``, which is unpacked into a temporary folder once a process.

    Nothing in it is executed. Members of an archive that would leave the folder, links, and contents that are
    out of proportion to it are refused.

    Raises:
        InputError: There is no bundle.
        BundleError: The archive is damaged or unsafe.
        ResourceError: The disk does not suffice.
    """
    place = Path(path)
    if place.is_dir() or place.suffix.lower() != ARCHIVE:
        return BundleFolder.open(place)
    with explain_os_errors(place):
        status = place.stat()
    key = str(place.resolve()), status.st_mtime_ns, status.st_size
    if key not in _unpacked:
        _unpacked[key] = _unpack(place, status.st_size)
    return BundleFolder.open(_root(_unpacked[key]), str(place))


def told_path(path: Path) -> str:
    """What a file is called in reports: of one that was unpacked here, the archive and the name within it."""
    for (archive, *_), folder in _unpacked.items():
        if path.is_relative_to(folder):
            return f"{archive}/{path.relative_to(_root(folder)).as_posix()}"
    return str(path.resolve())


def _unpack(archive: Path, size_bytes: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="medseg-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        unpack(archive, folder, limit_bytes=max(_ALWAYS_ALLOWED_BYTES, _LARGEST_RATIO * size_bytes))
    except InputError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BundleError(error.what, where=archive, fix=error.fix) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _root(folder: Path) -> Path:
    """The bundle itself: archives often hold it as their only folder."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
