"""Pictures of volumes, their label maps and trainings (needs matplotlib: the extra ``report``)."""

from __future__ import annotations

from medseg.pictures.curves import Curve, draw_curves
from medseg.pictures.figures import can_draw
from medseg.pictures.overlay import overlay

__all__ = ["Curve", "can_draw", "draw_curves", "overlay"]
