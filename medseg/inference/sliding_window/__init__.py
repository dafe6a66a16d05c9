"""Networks that see a window at a time."""

from medseg.inference.sliding_window.inferer import SlidingWindowInferer

__all__ = ["SlidingWindowInferer"]
