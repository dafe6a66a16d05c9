"""A bundle's checksums, and the bundle as one file that is the same byte for byte each time."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medseg.files import atomic_path, sha256_of, write_text

__all__ = ["CHECKSUMS", "write_archive", "write_checksums"]

CHECKSUMS = "docs/checksums.sha256"
"""As ``sha256sum --check`` reads it, from within the bundle's folder."""

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o644 << 16


def write_checksums(bundle: Path) -> None:
    """Write the hash of every file of a bundle into it."""
    lines = [f"{sha256_of(bundle / name)}  {name}" for name in _files(bundle) if name != CHECKSUMS]
    write_text("\n".join(lines) + "\n", bundle / CHECKSUMS)


def write_archive(bundle: Path, path: Path, name: str) -> None:
    """Pack a bundle, and write the archive's hash beside it.

    Files come in the order of their names, with one and the same time and the same permissions.

    Args:
        bundle: Its folder.
        path: The archive.
        name: The folder's name within it.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _files(bundle):
            entry = zipfile.ZipInfo(f"{name}/{file}", _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = _READABLE
            entry.create_system = 3  # Unix, wherever it is written
            archive.writestr(entry, (bundle / file).read_bytes())
    write_text(f"{sha256_of(path)}  {path.name}\n", path.with_name(f"{path.name}.sha256"))


def _files(bundle: Path) -> list[str]:
    found = (path for path in bundle.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(bundle).as_posix() for path in found)
