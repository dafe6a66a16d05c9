"""Pictures of volumes and their label maps (needs matplotlib: the extra ``report``)."""

from __future__ import annotations

from medseg.pictures.overlay import overlay

__all__ = ["overlay"]
