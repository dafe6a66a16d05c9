"""Who made a segmentation, with what, when, and under which unique identifiers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from pydicom.uid import UID, generate_uid

from medseg import __version__

__all__ = ["MANUFACTURER", "UNICODE", "AlgorithmIdentification", "SeriesIdentity", "uid_maker"]

MANUFACTURER = "medseg"

UNICODE = "ISO_IR 192"
"""Character set of what is written: names of structures may be in any language, whatever the source uses."""

_UUID_ROOT = "2.25."
"""UIDs derived from a UUID (PS3.5 B.2)."""


@dataclass(frozen=True)
class AlgorithmIdentification:
    """What made the segmentation.

    Attributes:
        name: Such as the run or bundle.
        version: Of the model.
    """

    name: str = MANUFACTURER
    version: str = __version__


@dataclass(frozen=True)
class SeriesIdentity:
    """How the series that is written presents itself.

    Attributes:
        description: SeriesDescription: what a viewer's list shows.
        number: SeriesNumber.
        created: When; now by default.
        seed: If given, all unique identifiers follow from this text and the content, so that equal input
            gives an equal file (``created`` being equal too). Otherwise they are random.
    """

    description: str = "Segmentation"
    number: int = 300
    created: datetime | None = None
    seed: str | None = None

    @property
    def date_and_time(self) -> tuple[str, str]:
        """As DICOM writes them (DA and TM)."""
        moment = self.created or datetime.now()
        return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")


def uid_maker(seed: str | None, content: Iterable[bytes]) -> Callable[[str], UID]:
    """A function that gives a unique identifier for each role, such as ``"series"``.

    Args:
        seed: See ``SeriesIdentity``.
        content: What the object says; read only if there is a seed.

    Example:
        >>> uid_maker("a", [b"voxels"])("series") == uid_maker("a", [b"voxels"])("series")
        True
    """
    if seed is None:
        return lambda _role: generate_uid(prefix=None)
    digest = hashlib.sha256(seed.encode())
    for part in content:
        digest.update(hashlib.sha256(part).digest())
    base = digest.digest()

    def uid_of(role: str) -> UID:
        number = hashlib.sha256(base + role.encode()).digest()[:16]
        return UID(f"{_UUID_ROOT}{int.from_bytes(number, 'big')}")

    return uid_of
