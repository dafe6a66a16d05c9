"""MONAI bundles of runs: all that MONAI needs to run them without medseg, and the proof that it does."""

from medseg.bundle.content import channels_of
from medseg.bundle.export import export_bundle
from medseg.bundle.formats import FORMATS, FormatReport
from medseg.bundle.metadata import Statement, statement_of
from medseg.bundle.options import Exported, ExportOptions
from medseg.bundle.verification import CaseAgreement

__all__ = [
    "FORMATS",
    "CaseAgreement",
    "ExportOptions",
    "Exported",
    "FormatReport",
    "Statement",
    "channels_of",
    "export_bundle",
    "statement_of",
]
