"""From a folder, as a scanner or an archive left it, to volumes with verdicts; no voxel is read."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medseg.errors import ConfigError, InputError, explain_os_errors
from medseg.io.dicom.frames import Frame
from medseg.io.dicom.gate import judge
from medseg.io.dicom.grouping import group_frames
from medseg.io.dicom.headers import read_frames
from medseg.io.dicom.verdict import DicomVolume, Repairs, SetAside
from medseg.progress import Progress, SilentProgress
from medseg.workers import available_cores, for_each

__all__ = ["DicomScan", "scan_dicom"]

_FILES_WORTH_A_PROCESS: Final = 2000
"""So many headers take longer to read than a process takes to start, a second and more."""

_FILES_A_TASK: Final = 100


@dataclass(frozen=True)
class DicomScan:
    """What a folder holds.

    Attributes:
        volumes: In the order of study, series number and traits, refused ones too.
        set_aside: Files that hold no volume, by path.
        warnings: What else the user should know.
    """

    volumes: tuple[DicomVolume, ...]
    set_aside: tuple[SetAside, ...]
    warnings: tuple[str, ...] = ()


def scan_dicom(
    folder: str | os.PathLike[str],
    *,
    repairs: Repairs | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> DicomScan:
    """Find all volumes in a folder and those below it, from the headers of its files.

    What a file is is told by what it holds, never by its name. Links to folders are followed once.

    Args:
        folder: A folder, or one file.
        repairs: What may be mended. By default a tilted gantry alone is.
        processes: That read headers; by default as many as there are cores, as far as the number of files is
            worth their start. A script that asks for more than one has to start its work under
            ``if __name__ == "__main__":``.
        progress: Shows how far it is.

    Returns:
        The volumes with their verdicts, and the files that hold none; the same for the same files, whatever
        the number of processes.

    Raises:
        InputError: The folder does not exist.
        ResourceError: It may not be read.
        ConfigError: ``processes`` is below 1.
    """
    root = Path(folder)
    files, unreadable = _files(root)
    tasks = [files[start : start + _FILES_A_TASK] for start in range(0, len(files), _FILES_A_TASK)]
    read = for_each(
        _read_headers,
        tasks,
        workers=min(_workers(len(files), processes), max(len(tasks), 1)),
        description="headers",
        progress=progress or SilentProgress(),
    )
    found = [entry for task in read for entry in task]
    frames = [frame for entry in found if not isinstance(entry, SetAside) for frame in entry]
    aside = tuple(entry for entry in found if isinstance(entry, SetAside))
    volumes = tuple(judge(group.frames, repairs, group.traits) for group in group_frames(frames))
    return DicomScan(volumes, aside, (*unreadable, *_warnings(aside, volumes)))


def _read_headers(files: Sequence[Path]) -> list[list[Frame] | SetAside]:
    return [read_frames(file) for file in files]


def _workers(files: int, processes: int | None) -> int:
    if processes is not None:
        if processes < 1:
            raise ConfigError(f"{processes} processes cannot work", where="processes", fix="give 1 or more")
        return processes
    return max(min(available_cores(), files // _FILES_WORTH_A_PROCESS), 1)


def _files(root: Path) -> tuple[list[Path], list[str]]:
    """All regular files, sorted, each once however many links lead to it; and folders that cannot be read."""
    with explain_os_errors(root):
        mode = root.stat().st_mode
    if stat.S_ISREG(mode):
        return [root], []
    if not stat.S_ISDIR(mode):
        raise InputError("is neither a file nor a folder", where=root, fix="check the path")
    with explain_os_errors(root), os.scandir(root):
        pass
    found: list[Path] = []
    unreadable: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(f"the folder {folder} cannot be read ({error.strerror})")
            continue
        folders = []
        for entry in entries:
            try:
                about = entry.stat()
            except OSError:  # a link to nowhere, or one that leads to itself
                continue
            identity = (about.st_dev, about.st_ino)
            if identity in seen:
                continue
            # A pipe or a device would be waited for without end.
            if stat.S_ISDIR(about.st_mode):
                folders.append(Path(entry.path))
                seen.add(identity)
            elif stat.S_ISREG(about.st_mode):
                found.append(Path(entry.path))
                seen.add(identity)
        waiting += reversed(folders)
    return sorted(found), unreadable


def _warnings(aside: Sequence[SetAside], volumes: Sequence[DicomVolume]) -> list[str]:
    """What was set aside may have been the first or last slices of a volume, which nothing else shows."""
    beside = {frame.path.parent for volume in volumes for frame in volume.frames}
    lost = Counter(
        entry.kind
        for entry in aside
        if entry.kind in {"damaged", "unreadable"} and Path(entry.path).parent in beside
    )
    return [
        f"{count} {kind} {'file lies' if count == 1 else 'files lie'} beside the slices of a volume, "
        "which may lack its first or last slices"
        for kind, count in sorted(lost.items())
    ]
