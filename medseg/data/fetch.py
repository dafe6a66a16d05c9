"""From a name in the catalogue to a dataset folder on disk."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from medseg.data.download import Retries, download, verify
from medseg.data.layouts import DATASET_JSON, read_dataset
from medseg.data.manifest import DatasetEntry
from medseg.data.phantoms import write_phantom_dataset
from medseg.data.unpack import unpack
from medseg.errors import ConfigError, InputError, explain_os_errors
from medseg.files import require_writable_folder
from medseg.progress import Progress, SilentProgress

__all__ = ["fetch_dataset", "fetched_folder", "is_fetched"]


def fetched_folder(entry: DatasetEntry, out: Path) -> Path:
    """Where ``fetch_dataset`` puts a dataset."""
    return out / entry.name


def is_fetched(entry: DatasetEntry, out: Path) -> bool:
    """Whether the dataset is there already; a folder appears only when it is whole."""
    return (fetched_folder(entry, out) / DATASET_JSON).is_file()


def fetch_dataset(
    entry: DatasetEntry,
    out: Path,
    *,
    keep_archive: bool = False,
    progress: Progress | None = None,
    retries: Retries | None = None,
) -> Path:
    """Download, verify and unpack a dataset; go on where an earlier call stopped.

    Args:
        entry: From ``load_manifest().entry(name)``.
        out: The folder to put it in.
        keep_archive: Leave the archive beside the unpacked folder.
        progress: Shows how far it is.
        retries: Patience with a failing connection.

    Returns:
        The dataset's folder, ``out`` / name. It appears when all is done, and not before.

    Raises:
        InputError: The server refuses, the checksum is wrong, or the archive is damaged or unsafe.
        ResourceError: No connection, no space, no permission.
    """
    target = fetched_folder(entry, out)
    if is_fetched(entry, out):
        return target
    if target.exists():
        raise InputError(
            f"exists but holds no {DATASET_JSON}", where=target, fix="remove it, or choose another --out"
        )
    require_writable_folder(out)
    shown = progress or SilentProgress()
    archive = None if entry.layout == "generated" else _fetch_archive(entry, out, shown, retries)
    with _staging_folder(target) as staging:
        if archive is None:
            write_phantom_dataset(staging, kind="ct" if entry.modality == "CT" else "mr")
            root = staging
        else:
            unpack(archive, staging, shown)
            root = _dataset_root(staging, archive)
        read_dataset(root)  # what cannot be read is not installed
        with explain_os_errors(target):
            root.rename(target)
    if archive is not None and not keep_archive:
        archive.unlink()
    return target


def _fetch_archive(entry: DatasetEntry, out: Path, progress: Progress, retries: Retries | None) -> Path:
    if entry.url is None or entry.checksum is None:
        raise ConfigError("has no archive", where=entry.name, fix="give it a url and a checksum")
    archive = out / PurePosixPath(urlsplit(entry.url).path).name
    if archive.is_file():
        verify(archive, entry.checksum, progress)
        return archive
    return download(
        entry.url,
        archive,
        size_bytes=entry.size_bytes,
        checksum=entry.checksum,
        progress=progress,
        retries=retries,
    )


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target``, gone in the end whatever happens."""
    staging = target.with_name(f".{secrets.token_hex(6)}.part.{target.name}")
    with explain_os_errors(staging):
        staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _dataset_root(folder: Path, archive: Path) -> Path:
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    for candidate in candidates:
        if (candidate / DATASET_JSON).is_file():
            return candidate
    raise InputError(f"holds no {DATASET_JSON}", where=archive, fix="check the address in the manifest")
