"""What all pictures share: matplotlib, where it is installed, and colours."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from medseg.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BACKGROUND", "FAINT", "TEXT", "can_draw", "figure_type"]

BACKGROUND = "#101418"
TEXT = "#e8eaed"
FAINT = "#9aa4ae"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def figure_type() -> type[Figure]:
    """Figures that no window shows and no global state knows of.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "pictures need matplotlib, which is not installed", fix="pip install 'medseg[report]'"
        ) from error
    return Figure
