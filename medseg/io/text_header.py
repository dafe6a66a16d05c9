"""The text headers of NRRD and MetaImage files: what is checked before SimpleITK sees the file.

SimpleITK interprets the geometry; here stands how the voxels lie in the file, and whether the header says
enough: both formats may leave out where the volume lies, and ITK then assumes something.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import GeometryError, InputError

__all__ = ["TextHeader", "parse_metaimage", "parse_nrrd"]

_LARGEST_HEADER_BYTES = 1 << 20
_ANATOMICAL_SPACES = frozenset(
    name + time
    for name in (
        *("left-posterior-superior", "right-anterior-superior", "left-anterior-superior"),
        *("lps", "ras", "las"),
    )
    for time in ("", "-time", "t")
)
_MM_PER_UNIT = {"mm": 1.0, "?": 1.0, "": 1.0, "um": 1e-3, "µm": 1e-3, "cm": 10.0, "m": 1000.0}
_METAIMAGE_GEOMETRY = (
    ("TransformMatrix", "Orientation", "Rotation"),
    ("Offset", "Position", "Origin"),
    ("ElementSpacing", "ElementSize"),
)
_DEFLATED = {"raw": False, "gzip": True, "gz": True}


@dataclass(frozen=True)
class TextHeader:
    """How the voxels lie in a file, and the unit of its geometry.

    Attributes:
        sizes: Length of each axis, fastest first, channels included.
        channel_axis: Which of them is that of the channels, if any.
        big_endian: Byte order of the voxels.
        deflated: Whether they are compressed.
        data_path: The file that holds them.
        data_offset: Where they start in it.
        mm_per_unit: Millimetres per unit of length of the header.
    """

    sizes: tuple[int, ...]
    channel_axis: int | None
    big_endian: bool
    deflated: bool
    data_path: Path
    data_offset: int
    mm_per_unit: float


def parse_nrrd(path: Path) -> TextHeader:
    """Parse the header of a ``.nrrd`` file, voxels attached or in a file beside it.

    Raises:
        InputError: The file is no NRRD, damaged, or stores its voxels in a rare way.
        GeometryError: It does not say where the volume lies in the patient.
    """
    start = _read_start(path)
    if not start.startswith(b"NRRD"):
        raise InputError("is no NRRD file", where=path, fix="check where it comes from, or its suffix")
    end = re.search(rb"\r?\n\r?\n", start)
    head = start if end is None else start[: end.start()]
    lines = (line for line in _decoded(head).splitlines()[1:] if not line.startswith("#"))
    pairs = (line.split(":", 1) for line in lines if ":" in line and ":=" not in line)
    fields = {key.strip().lower(): value.strip() for key, value in pairs}
    if fields.get("space", "").lower() not in _ANATOMICAL_SPACES:
        raise _no_place(path, "space: left-posterior-superior")
    for name in ("space directions", "space origin"):
        _require_numbers(fields, (name,), path)
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) or {"mm"}
    encoding = fields.get("encoding", "").lower()
    if encoding not in _DEFLATED:
        raise _rare(path, f"voxels are encoded as '{encoding}'")
    data_name = fields.get("data file", fields.get("datafile"))
    if data_name is None and end is None:
        raise InputError("ends within its header", where=path, fix="copy or export it again")
    if {"line skip", "lineskip", "byte skip", "byteskip"} & fields.keys():
        raise _rare(path, "voxels start at a skip")
    directions = re.findall(r"none|\([^)]*\)", fields["space directions"])
    return TextHeader(
        sizes=_integers(fields.get("sizes", ""), path),
        channel_axis=directions.index("none") if "none" in directions else None,
        big_endian=fields.get("endian", "little").lower() == "big",
        deflated=_DEFLATED[encoding],
        data_path=path if data_name is None else _beside(path, data_name),
        data_offset=end.end() if end is not None and data_name is None else 0,
        mm_per_unit=_mm_per_unit(units, path),
    )


def parse_metaimage(path: Path) -> TextHeader:
    """Parse the header of a ``.mha`` file, or of a ``.mhd`` file whose voxels lie in a file beside it.

    Raises:
        InputError: The file is no MetaImage, damaged, or stores its voxels in a rare way.
        GeometryError: It does not say where the volume lies in the patient.
    """
    start = _read_start(path)
    end = re.search(rb"ElementDataFile[ \t]*=([^\r\n]*)\r?\n?", start)
    if end is None or b"NDims" not in start[: end.start()]:
        raise InputError(
            "is no MetaImage file, or ends within its header",
            where=path,
            fix="check where it comes from, or copy it again",
        )
    pairs = (line.split("=", 1) for line in _decoded(start[: end.start()]).splitlines() if "=" in line)
    fields = {key.strip(): value.strip() for key, value in pairs}
    for names in _METAIMAGE_GEOMETRY:
        _require_numbers(fields, names, path)
    if not _is_true(fields.get("BinaryData", "True")) or fields.get("HeaderSize", "0") != "0":
        raise _rare(path, "voxels are stored as text, or behind a header of their own")
    channels = _integers(fields.get("ElementNumberOfChannels", "1"), path)
    data_name = _decoded(end[1]).strip()
    attached = data_name.upper() == "LOCAL"
    order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    sizes = _integers(fields.get("DimSize", ""), path)
    return TextHeader(
        sizes=sizes if channels == (1,) else (*channels, *sizes),
        channel_axis=None if channels == (1,) else 0,
        big_endian=_is_true(order),
        deflated=_is_true(fields.get("CompressedData", "False")),
        data_path=path if attached else _beside(path, data_name),
        data_offset=end.end() if attached else 0,
        mm_per_unit=_mm_per_unit({fields.get("DistanceUnits", "mm").lower()}, path),
    )


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_LARGEST_HEADER_BYTES)
    if not start:
        raise InputError("is empty", where=path, fix="copy or export it again")
    return start


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", errors="replace")


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")


def _integers(text: str, path: Path) -> tuple[int, ...]:
    words = text.split()
    if not words or not all(re.fullmatch(r"0*[1-9][0-9]{0,18}", word) for word in words):
        raise InputError(f"the header's sizes '{text}' are not valid", where=path, fix="export it again")
    return tuple(int(word) for word in words)


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names; a header may not reach out of its folder."""
    if Path(name).name != name or name in ("", ".", "..") or name.upper().startswith("LIST") or "%" in name:
        raise _rare(path, f"voxels are in '{name}', not in one file beside it")
    return path.with_name(name)


def _mm_per_unit(units: set[str], path: Path) -> float:
    if len(units) != 1 or not units <= _MM_PER_UNIT.keys():
        raise GeometryError(
            f"unit of length {', '.join(sorted(units))} is not known", where=path, fix="convert it to mm"
        )
    return _MM_PER_UNIT[next(iter(units))]


def _require_numbers(fields: dict[str, str], names: tuple[str, ...], path: Path) -> None:
    """One of ``names`` has to be there, and hold finite numbers; ITK reads 0 for others."""
    present = [name for name in names if name in fields]
    if not present:
        raise _no_place(path, names[0])
    for name in present:
        words = re.findall(r"[^\s(),]+", fields[name].replace("none", ""))
        try:
            valid = all(math.isfinite(float(word)) for word in words)
        except ValueError:
            valid = False
        if not words or not valid:
            raise GeometryError(
                f"'{name}' is {fields[name]!r}, finite numbers are needed",
                where=path,
                fix="repair the header from the scanner's own files",
            )


def _no_place(path: Path, missing: str) -> GeometryError:
    return GeometryError(
        f"does not say where the volume lies in the patient (no '{missing}'), and it is not guessed",
        where=path,
        fix="convert it again from the source, or, if you know it, add it to the header",
    )


def _rare(path: Path, what: str) -> InputError:
    return InputError(
        f"{what}, which is not supported",
        where=path,
        fix="write it anew, in one file (.nrrd, .mha or .nii.gz)",
    )
