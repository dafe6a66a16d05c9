"""Pictures of volumes, their label maps and trainings (needs matplotlib: the extra ``report``)."""

from __future__ import annotations

from medseg.pictures.curves import Curve, draw_curves
from medseg.pictures.error_maps import draw_error_maps
from medseg.pictures.figures import can_draw
from medseg.pictures.overlay import overlay
from medseg.pictures.plan import PlanExample, plan_picture

__all__ = ["Curve", "PlanExample", "can_draw", "draw_curves", "draw_error_maps", "overlay", "plan_picture"]
