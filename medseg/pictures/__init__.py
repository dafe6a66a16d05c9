"""Pictures of volumes and their label maps (needs matplotlib: the extra ``report``)."""

from __future__ import annotations

from medseg.pictures.overlay import overlay
from medseg.pictures.plan import PlanExample, plan_picture

__all__ = ["PlanExample", "overlay", "plan_picture"]
