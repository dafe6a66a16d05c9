"""Ways to segment that are not networks, each fitted to labelled cases and loaded by the same two calls."""

from medseg.segmenters.methods.base import Method, Running, load_method, method_of, options_of

__all__ = ["Method", "Running", "load_method", "method_of", "options_of"]
