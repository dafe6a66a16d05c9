"""How a bundle is made, and what was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.formats import FormatReport
from medseg.bundle.metadata import Statement
from medseg.bundle.verification import CaseAgreement, as_json
from medseg.io import Case

__all__ = ["ExportOptions", "Exported"]


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is made.

    Attributes:
        folds: Which folds take part; all that are trained if left out.
        checkpoint: Weights of the ``"last"`` step, or the ``"best"`` validated.
        formats: Of ``medseg.bundle.FORMATS``, beside the weights.
        archive: Whether to write it as one file too.
        cases: Images that the bundle is proven on; a run's first validation case if left out.
        python: The interpreter that runs it; this one's, without medseg, if left out.
        scores: What ``medseg evaluate`` wrote; if left out, the last validation of the training, or what an
            earlier bundle says.
        statement: What a person says about it; what an earlier bundle says if left out.
        license_file: Text of the licence; that of an earlier bundle, or medseg's own if left out.
        trust: Whether a bundle that was not made here may execute code of its own.
    """

    folds: tuple[int, ...] | None = None
    checkpoint: str = "last"
    formats: tuple[str, ...] = ()
    archive: bool = False
    cases: tuple[Case, ...] = ()
    python: str | None = None
    scores: Path | None = None
    statement: Statement | None = None
    license_file: Path | None = None
    trust: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        bundle: The folder.
        archive: The bundle as one file, if asked for.
        cases: How it agrees with medseg, on each case.
        formats: How each format agrees with the network.
    """

    bundle: Path
    archive: Path | None
    cases: tuple[CaseAgreement, ...]
    formats: tuple[FormatReport, ...]

    def cases_as_json(self) -> list[dict[str, Any]]:
        """As ``docs/verification.json`` holds them."""
        return as_json(self.cases)
