"""Files that are whole or not there: atomic writing, and hashes of contents."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.errors import InputError, ResourceError, explain_os_errors

__all__ = [
    "atomic_path",
    "output_folder",
    "read_json",
    "remove_partial_files",
    "remove_partials_of",
    "require_writable_folder",
    "sha256_of",
    "write_json",
    "write_text",
]

_HASH_CHUNK_BYTES = 1 << 20
_PARTIAL = re.compile(r"\.[0-9a-f]{12}\.part\..+")


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Write to a temporary name beside ``target``; rename onto it only when all went well.

    The temporary name keeps the suffixes of ``target``, since writers choose the format by them. The file
    is synchronised to disk before the rename, and the folder after it: a reader, also after a power
    failure, sees the old file or the new one.

    Args:
        target: The final path. Its folder is created.

    Yields:
        The path to write to.

    Raises:
        ResourceError: No permission, or the disk is full. Nothing is left behind.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as path:
        ...     _ = path.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    final = Path(target)
    temporary = final.with_name(f".{secrets.token_hex(6)}.part.{final.name}")
    with explain_os_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("r+b") as handle:  # Windows synchronises only what may be written
                os.fsync(handle.fileno())
            temporary.replace(final)
            _synchronise_folder(final.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _synchronise_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: str | os.PathLike[str]) -> None:
    """Remove what ``atomic_path`` leaves in a folder, or below it, when its process is killed.

    Only for a folder that no other process is writing to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / ".0123456789ab.part.a.txt").touch()
        >>> remove_partial_files(folder)
        >>> list(folder.iterdir())
        []
    """
    for path in Path(folder).rglob(".*.part.*"):
        if _PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def remove_partials_of(target: str | os.PathLike[str]) -> None:
    """Remove what is left beside a file or folder whose writer was killed, under ``atomic_path``'s names.

    Nobody else may be writing the same.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in (".0123456789ab.part.a.txt", ".0123456789ab.part.b.txt"):
        ...     (folder / name).touch()
        >>> (folder / ".ba9876543210.part.a.txt").mkdir()
        >>> remove_partials_of(folder / "a.txt")
        >>> [path.name for path in folder.iterdir()]
        ['.0123456789ab.part.b.txt']
    """
    final = Path(target)
    with explain_os_errors(final.parent):
        for path in final.parent.glob(".*.part.*"):
            if not _PARTIAL.fullmatch(path.name) or path.name.split(".part.", 1)[1] != final.name:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | os.PathLike[str]) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are refused: JSON has neither."""
    write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", path)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        InputError: The file does not exist or is not JSON in UTF-8.
    """
    with explain_os_errors(path):
        content = Path(path).read_bytes()
    try:
        return json.loads(content.decode("utf-8"))
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}: {error.msg}"
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except RecursionError:
        reason = "nested too deeply"
    raise InputError(f"is not valid JSON ({reason})", where=path, fix="correct the file")


def require_writable_folder(folder: str | os.PathLike[str]) -> Path:
    """Make ``folder`` if need be and prove that a file can be written there, before work starts.

    Raises:
        ResourceError: No permission, or no space. What was made is taken away again.
    """
    with output_folder(folder) as path:
        return path


def _prove_writable(path: Path) -> None:
    probe = path / f".{secrets.token_hex(6)}.part"
    with explain_os_errors(path):
        if path.exists() and not path.is_dir():
            raise ResourceError("is a file, a folder is needed", where=path, fix="choose another name")
        path.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"medseg")
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def output_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder for results and prove that it can be written; if the work fails, leave no trace of it.

    A folder that was there before stays as it is.

    Args:
        folder: Where results go. Its parents are made too.

    Yields:
        The folder.

    Raises:
        ResourceError: No permission, or no space.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "new" / "out"
        >>> with output_folder(out):
        ...     raise InputError("nothing to do")
        Traceback (most recent call last):
        medseg.errors.InputError: nothing to do
        >>> out.parent.exists()
        False
    """
    path = Path(folder)
    with explain_os_errors(path):
        new = [place for place in (path, *path.parents) if not place.exists()]
    try:
        _prove_writable(path)
        yield path
    except BaseException:
        for place in new:
            if place == path:
                shutil.rmtree(place, ignore_errors=True)
            elif place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        raise


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with explain_os_errors(path), Path(path).open("rb") as handle:
        while chunk := handle.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
