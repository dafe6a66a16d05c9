"""Which files make up a case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import InputError
from medseg.io.formats import SUFFIXES, split_suffix

if TYPE_CHECKING:
    from medseg.io.dicom.verdict import DicomVolume

__all__ = ["Case", "find_cases"]

_CHANNEL_SUFFIX = re.compile(r"(?P<id>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Case:
    """One subject's image and, where there are any, its label map and its instance map.

    Attributes:
        id: What results are named by; the image's name without suffix and channel number.
        images: One file that holds all channels, or one file per channel, in order; all files of a DICOM
            volume.
        label: The label map.
        instances: The instance map: a number of its own for each object, 0 where there is none.
        dicom: The volume that its image is, with the verdict on its geometry, where it is one of DICOM files.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    instances: Path | None = None
    dicom: DicomVolume | None = None


def find_cases(inputs: Sequence[Path], channels: int) -> list[Case]:
    """Group image files into cases, and find the volumes of DICOM folders. No voxel is read.

    Files may be named as nnU-Net names them, ``<case>_0000.nii.gz`` for channel 0 and so on. With more than
    one channel, a name that ends in four digits is one channel of a case, any other file holds all channels
    of one. With one channel, ``_0000`` is taken off if all images end in it; otherwise it is part of the
    name, since people number their patients too.

    A folder without image files, or a file of another name, is looked through for DICOM volumes, with all
    folders within. Each is a case of one channel, named by hashed identifiers; those whose geometry cannot be
    trusted are cases too, and refused when they are read.

    Args:
        inputs: Files, or folders whose image files are taken (not those of folders within; hidden files and
            other files are ignored); files and folders of DICOM.
        channels: How many channels a case has.

    Returns:
        Cases, sorted by name within a folder, in the order of ``inputs``, those of DICOM last.

    Raises:
        InputError: Nothing is found, an input does not exist or is no image, two cases have the same name,
            a channel is missing or too many, or DICOM volumes are given where more than one is needed.
    """
    if not inputs:
        raise InputError("no image is given", fix="name a file or a folder of images")
    files: list[Path] = []
    volumes: list[Case] = []
    for item in map(Path, dict.fromkeys(inputs)):
        found = _image_files(item)
        files += found
        volumes += [] if found else _dicom_volumes(item, channels)
    return [*_grouped(list(dict.fromkeys(files)), channels), *volumes]


def _grouped(files: list[Path], channels: int) -> list[Case]:
    named = [_case_and_channel(file) for file in files]
    if channels == 1 and not all(channel == 0 for _, channel in named):
        named = [(split_suffix(file)[0], None) for file in files]
    grouped: dict[str, dict[int | None, Path]] = {}
    for (case_id, channel), file in zip(named, files, strict=True):
        group = grouped.setdefault(case_id, {})
        if channel in group or (group and None in {channel, *group}):
            other = group.get(channel, next(iter(group.values())))
            raise InputError(
                f"has the same case name '{case_id}' as {other}", where=file, fix="rename one of them"
            )
        group[channel] = file
    return [_case(case_id, group, channels) for case_id, group in grouped.items()]


def _image_files(path: Path) -> list[Path]:
    """The image files that an input stands for; none where it may be DICOM."""
    if not path.exists():
        raise InputError("does not exist", where=path, fix="check the path")
    if not path.is_dir():
        return [path] if path.name.lower().endswith(SUFFIXES) else []
    return sorted(
        entry
        for entry in path.iterdir()
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
    )


def _dicom_volumes(path: Path, channels: int) -> list[Case]:
    from medseg.io.dicom.named import named_volumes  # takes pydicom, which other images do not need

    volumes = named_volumes(path)
    if not volumes:
        if not path.is_dir():
            split_suffix(path)  # says which suffixes there are
        raise InputError(
            f"holds no image ({', '.join(SUFFIXES)}) and no DICOM volume",
            where=path,
            fix="name the folder that holds them",
        )
    if channels > 1:
        raise InputError(
            f"which of its DICOM volumes are the {channels} channels of a case cannot be told",
            where=path,
            fix="use 'medseg convert', and name the files <case>_0000.nii.gz, <case>_0001.nii.gz, …",
        )
    return [
        Case(name, tuple(dict.fromkeys(frame.path for frame in volume.frames)), dicom=volume)
        for name, volume in volumes.items()
    ]


def _case_and_channel(file: Path) -> tuple[str, int | None]:
    stem, _ = split_suffix(file)
    match = _CHANNEL_SUFFIX.fullmatch(stem)
    return (stem, None) if match is None else (match["id"], int(match["channel"]))


def _case(case_id: str, group: dict[int | None, Path], channels: int) -> Case:
    if None in group:
        return Case(case_id, (group[None],))
    present = {channel: file for channel, file in group.items() if channel is not None}
    where = next(iter(present.values())).parent
    missing = [f"_{channel:04d}" for channel in range(channels) if channel not in present]
    if missing:
        raise InputError(
            f"case '{case_id}' lacks channel {', '.join(missing)}",
            where=where,
            fix="add the file, or, if one file holds all channels, do not let its name end in four digits",
        )
    extra = [f"_{channel:04d}" for channel in sorted(present) if channel >= channels]
    if extra:
        raise InputError(
            f"case '{case_id}' has channel {', '.join(extra)}, but {channels} channels are expected",
            where=where,
            fix="remove the file, or choose the model for these channels",
        )
    return Case(case_id, tuple(present[channel] for channel in range(channels)))
