"""Networks of local layers, computed slab by slab."""

from medseg.inference.streaming.inferer import StreamingInferer

__all__ = ["StreamingInferer"]
