"""What DICOM calls its colours (PS3.3 C.7.6.3.1.2), and which of them can be read."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["BRIGHTNESS_AND_COLOUR", "COLOUR_MODELS", "shown"]

BRIGHTNESS_AND_COLOUR: Final = frozenset({"YBR_FULL", "YBR_FULL_422"})
"""Brightness, then how blue and how red: converted by the equations of the standard."""

COLOUR_MODELS: Final = frozenset({"RGB", "YBR_ICT", "YBR_RCT", *BRIGHTNESS_AND_COLOUR})
"""Photometric interpretations that can be read. Those of JPEG 2000 (ICT, RCT) are its codec's affair. Not
among them: palettes, and those that the standard has retired."""


def shown(photometric: str) -> str:
    """A photometric interpretation for an error: as it is if it could be one, for a header may say anything.

    Example:
        >>> shown("PALETTE COLOR"), shown("Jane Doe")
        ('PALETTE COLOR', 'of no known kind')
    """
    return photometric if re.fullmatch("[A-Z0-9_ ]{1,16}", photometric) else "of no known kind"
