"""What a conversion made of each volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medseg.errors import GeometryError, MedsegError

__all__ = ["ConversionReport", "ConvertedVolume", "Outcome"]


class Outcome(StrEnum):
    """What became of a volume."""

    WRITTEN = "written"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class ConvertedVolume:
    """One volume of a conversion, or several that were stacked as channels.

    Attributes:
        name: Of the files that were written, without suffix; also of one that could not be.
        outcome: What became of it.
        modality: ``"CT"``, ``"MR"``, …; empty where the source was no DICOM.
        status: The verdict on its geometry: ``"OK"``, ``"REPAIRED"``, ``"REFUSED"``.
        reasons: Codes of all findings.
        shape: Of the grid; empty where there is none.
        spacing_mm: Of the grid; empty where there is none.
        channels: How many.
        file: The name of the file in the output folder; empty if none was written.
        notes: What else the user should know.
        error: Why it was refused, or failed.
        label: Series number and description, for the eyes of whoever sits at the terminal.
    """

    name: str
    outcome: Outcome
    modality: str = ""
    status: str = "OK"
    reasons: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    channels: int = 1
    file: str = ""
    notes: tuple[str, ...] = ()
    error: MedsegError | None = None
    label: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON. The error goes without the path it names, which may hold a patient's name."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "modality": self.modality,
            "status": self.status,
            "reasons": list(self.reasons),
            "shape": list(self.shape),
            "spacing_mm": list(self.spacing_mm),
            "channels": self.channels,
            "file": self.file,
            "notes": list(self.notes),
            "error": None
            if self.error is None
            else str(type(self.error)(self.error.what, fix=self.error.fix)),
        }


@dataclass(frozen=True)
class ConversionReport:
    """All volumes of a conversion.

    Attributes:
        volumes: In the order in which they were found.
        set_aside: How many files hold no volume, by what they are.
        warnings: Of the scan; they name paths, and are for the terminal.
    """

    volumes: tuple[ConvertedVolume, ...]
    set_aside: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), repr=False)

    @property
    def exit_code(self) -> int:
        """0 if all volumes are there; else that of a geometry that was refused, or of the first error."""
        codes = [volume.error.exit_code for volume in self.volumes if volume.error is not None]
        if GeometryError.exit_code in codes:
            return GeometryError.exit_code
        return codes[0] if codes else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; no path, no identifier."""
        return {
            "volumes": [volume.as_dict() for volume in self.volumes],
            "set_aside": dict(self.set_aside),
        }
