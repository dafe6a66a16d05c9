"""Verdicts: whether a volume's geometry can be trusted, by reason codes that programs can rely on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Grid
from medseg.io.dicom.frames import Frame, Series

__all__ = ["DicomVolume", "Finding", "Reason", "Repairs", "SetAside", "Status", "Verdict"]

Figure = float | int | str | list[float]


class Status(StrEnum):
    """What becomes of a volume."""

    OK = "OK"
    REPAIRED = "REPAIRED"
    REFUSED = "REFUSED"


class Reason(StrEnum):
    """Why; the codes are part of the command line's contract and never change their meaning."""

    GANTRY_TILT = "gantry-tilt"
    SHEARED = "sheared"
    UNEVEN_SPACING = "uneven-spacing"
    MISSING_SLICES = "missing-slices"
    DUPLICATE_POSITIONS = "duplicate-positions"
    MIXED_ORIENTATIONS = "mixed-orientations"
    MIXED_SIZES = "mixed-sizes"
    NO_POSITION = "no-position"
    NO_ORIENTATION = "no-orientation"
    NO_SPACING = "no-spacing"
    NO_SLICE_SPACING = "no-slice-spacing"
    BAD_ORIENTATION = "bad-orientation"
    BAD_SPACING = "bad-spacing"
    LONG_TEXT = "long-text"
    COLOURS = "colours"
    TRUNCATED = "truncated"
    NO_CODEC = "no-codec"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        reason: Its code.
        status: What it does to the volume; ``OK`` is a remark.
        what: In words, with the figures: "3 slices are missing, between z = 12.0 and 24.0 mm".
        fix: What the user can do, or what was done.
        figures: The same figures for programs, such as ``{"tilt_degrees": 18.5}``.
    """

    reason: Reason
    status: Status
    what: str
    fix: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """All findings of a volume."""

    findings: tuple[Finding, ...] = ()

    @property
    def status(self) -> Status:
        """The worst of all findings."""
        order = list(Status)
        return max((finding.status for finding in self.findings), key=order.index, default=Status.OK)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "status": self.status.value,
            "findings": [
                {
                    "reason": finding.reason.value,
                    "status": finding.status.value,
                    "what": finding.what,
                    "fix": finding.fix,
                    "figures": {name: _plain(figure) for name, figure in finding.figures.items()},
                }
                for finding in self.findings
            ],
        }


def _plain(figure: Figure) -> Figure | None:
    """JSON has no infinity, and no number that is none."""
    return None if isinstance(figure, float) and not math.isfinite(figure) else figure


@dataclass(frozen=True)
class Repairs:
    """What may be mended without asking again.

    Attributes:
        tilt: Resample the slices of a tilted gantry onto an orthogonal grid.
        uneven: Resample unevenly spaced slices onto even ones.
        missing: Interpolate missing slices from their neighbours.
    """

    tilt: bool = True
    uneven: bool = False
    missing: bool = False


@dataclass(frozen=True)
class DicomVolume:
    """Frames that make one volume, in the order of their positions along the slice normal.

    Attributes:
        series: Where they come from.
        frames: Sorted where the geometry allows it.
        verdict: Whether they make a volume.
        positions_mm: Of each frame along the normal, from the first; empty where frames have none.
        stored_affine: From (column, row, slice) of the frames as they are stored to RAS+ millimetres, (4, 4);
            sheared where the gantry was tilted; ``None`` where slices are not even.
        grid: The grid that reading gives, shape (columns, rows, slices): that of the stored frames, or after
            a repair an orthogonal and even one; ``None`` where refused.
        traits: Those that tell it from other volumes of its series.
    """

    series: Series
    frames: tuple[Frame, ...]
    verdict: Verdict
    positions_mm: tuple[float, ...] = ()
    stored_affine: npt.NDArray[np.float64] | None = None
    grid: Grid | None = None
    traits: Mapping[str, object] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """How many reading gives: 3 of colours, else 1."""
        return self.frames[0].samples if self.frames else 1


@dataclass(frozen=True)
class SetAside:
    """A file that holds no volume.

    Attributes:
        path: The file.
        kind: ``"report"``, ``"secondary capture"``, ``"localizer"``, ``"segmentation"``, ``"contours"``,
            ``"directory"``, ``"not DICOM"``, ``"damaged"``, …
        what: Why, where that needs words.
    """

    path: str
    kind: str
    what: str = ""
