"""Names for volumes: from hashed identifiers, or from what people wrote into the header."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from medseg.files import sha256_of
from medseg.io.dicom import DicomVolume

__all__ = ["REPORT_STEM", "volume_digest", "volume_label", "volume_names"]

REPORT_STEM = "conversion"
"""Of the report of all volumes; no volume is called so."""

_DIGITS = 12
_DIGITS_TO_TELL_APART = 6
_LONGEST = 64


def volume_names(groups: Sequence[Sequence[DicomVolume]], *, keep_names: bool) -> list[str]:
    """A name for each group of volumes that goes into one file.

    The same files give the same names wherever they lie; volumes that are copies of each other share one.

    Args:
        groups: The volumes of each file; more than one where they are stacked.
        keep_names: Whether names are made of series numbers and descriptions.

    Returns:
        12 hexadecimal digits, or such as ``"004_T1_axial"``.
    """
    names = [_kept(group[0]) if keep_names else volume_digest(group) for group in groups]
    taken = Counter((*names, REPORT_STEM))
    return [
        name if taken[name] == 1 else f"{name}_{volume_digest(group, by_files=True)[:_DIGITS_TO_TELL_APART]}"
        for name, group in zip(names, groups, strict=True)
    ]


def volume_digest(group: Sequence[DicomVolume], *, by_files: bool = False) -> str:
    """12 hexadecimal digits that stand for a series and what tells its volumes apart.

    Args:
        group: The volumes of one file.
        by_files: Whether what their files hold counts too, where nothing else tells two volumes apart: one
            series may lie in a folder twice, in different transfer syntaxes.
    """
    told: list[object] = [[v.series.uid, sorted((k, repr(x)) for k, x in v.traits.items())] for v in group]
    if by_files:
        hashes = {
            path: sha256_of(path) for path in {frame.path for volume in group for frame in volume.frames}
        }
        told += [[(hashes[frame.path], frame.number) for frame in volume.frames] for volume in group]
    return hashlib.sha256(json.dumps(told).encode("utf-8")).hexdigest()[:_DIGITS]


def volume_label(volume: DicomVolume) -> str:
    """Series number and description, as they stand in the header."""
    number = "" if volume.series.number is None else str(volume.series.number)
    return f"{number} {volume.series.description}".strip()


def _kept(volume: DicomVolume) -> str:
    number = "" if volume.series.number is None else f"{volume.series.number:03d}"
    plain = unicodedata.normalize("NFKD", volume.series.description).encode("ascii", "ignore").decode("ascii")
    safe = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:_LONGEST]
    return "_".join(part for part in (number, safe) if part) or volume_digest([volume])
