"""Archives from strangers: unpacked into a folder that nothing in them can leave."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from medseg.errors import InputError, MedsegError, ResourceError, explain_os_errors
from medseg.io.sizes import format_bytes
from medseg.progress import Progress, SilentProgress

__all__ = ["unpack"]

_CHUNK_BYTES = 1 << 20
_LARGEST_SHARE_OF_FREE_DISK = 0.95
_MOST_MEMBERS = 1_000_000
# OSError is what bz2 and gzip raise, without an error number, for bytes that they cannot make sense of.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    OSError,
)


@dataclass(frozen=True)
class _Member:
    name: str
    is_folder: bool
    refused_as: str | None
    open: Callable[[], IO[bytes] | None]


def unpack(
    archive: Path, folder: Path, progress: Progress | None = None, *, limit_bytes: int | None = None
) -> None:
    """Unpack a tar (plain or compressed) or zip archive.

    Only folders and plain files are made, each within ``folder``. Refused are absolute names, ``..``, links,
    devices, names that occur twice, more than a million members, and contents that would fill more than 95 %
    of the free disk (counted as they are written: headers can lie). Hidden twins and settings that macOS adds
    are left out. On an error the caller throws ``folder`` away.

    Args:
        archive: The file; its kind is recognised by content.
        folder: An empty folder.
        progress: Counts members.
        limit_bytes: Of all contents together, where less is known to do than the disk would hold.

    Raises:
        InputError: Damaged, no archive, a member is refused, or contents go beyond the limit.
        ResourceError: The disk does not suffice.
    """
    budget = int(shutil.disk_usage(folder).free * _LARGEST_SHARE_OF_FREE_DISK)
    too_large: MedsegError = ResourceError(
        "unpacks to more than the free disk holds", where=archive, fix="free some space, or beware"
    )
    if limit_bytes is not None and limit_bytes < budget:
        budget = limit_bytes
        what = f"unpacks to more than {format_bytes(limit_bytes)}, far beyond its own size"
        too_large = InputError(what, where=archive, fix="do not trust this archive")
    count = 0
    with (
        _explain_damage(archive),
        _members(archive) as members,
        (progress or SilentProgress()).task(f"unpack {archive.name} (files)") as advance,
    ):
        for member in members:
            count += 1
            if count > _MOST_MEMBERS:
                raise InputError(
                    f"holds more than {_MOST_MEMBERS} members", where=archive, fix="do not trust it"
                )
            relative = _safe_path(member, archive)
            if _is_macos_extra(relative):
                continue
            target = folder / relative
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
            else:
                budget -= _write(member, target, budget, too_large)
            advance(1)


def _write(member: _Member, target: Path, budget: int, too_large: MedsegError) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    source = member.open()
    if source is None:
        what = f"member '{member.name}' has no content"
        raise InputError(what, where=too_large.where, fix="do not trust it")
    with source, explain_os_errors(target), target.open("xb") as handle:
        while chunk := source.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > budget:
                raise too_large
            handle.write(chunk)
    return written


def _safe_path(member: _Member, archive: Path) -> PurePosixPath:
    path, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    reason = member.refused_as
    if path.is_absolute() or windows.is_absolute() or windows.drive:
        reason = "an absolute path"
    elif ".." in path.parts or ".." in windows.parts:
        reason = "a path that leads out of the folder"
    elif "\0" in member.name:
        reason = "an invalid name"
    if reason is not None:
        raise InputError(
            f"member {member.name!r} is {reason}", where=archive, fix="do not trust this archive"
        )
    return path


def _is_macos_extra(path: PurePosixPath) -> bool:
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name == ".DS_Store"


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    with explain_os_errors(archive):
        is_tar, is_zip = tarfile.is_tarfile(archive), zipfile.is_zipfile(archive)
    if is_tar:
        with tarfile.open(archive, "r:*") as tar:
            yield (_tar_member(tar, info) for info in tar)
    elif is_zip:
        with zipfile.ZipFile(archive) as zipped:
            yield (_zip_member(zipped, info) for info in zipped.infolist())
    else:
        raise InputError("is neither a tar nor a zip archive", where=archive, fix="download or copy it again")


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    refused_as = None
    if info.issym() or info.islnk():
        refused_as = f"a link (to {info.linkname!r})"
    elif not (info.isreg() or info.isdir()):
        refused_as = "no plain file"
    return _Member(info.name, info.isdir(), refused_as, lambda: tar.extractfile(info))


def _zip_member(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    refused_as = None
    if kind == stat.S_IFLNK:
        refused_as = "a link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        refused_as = "no plain file"
    elif info.flag_bits & 0x1:
        refused_as = "encrypted"
    return _Member(info.filename, info.is_dir(), refused_as, lambda: zipped.open(info))


@contextmanager
def _explain_damage(archive: Path) -> Iterator[None]:
    try:
        with explain_os_errors(archive):
            yield
    except _DAMAGE as error:
        raise InputError(f"is a damaged archive ({error})", where=archive, fix="fetch it again") from error
