"""A network as a graph of layers, each with the range of slices that it needs along every axis."""

from medseg.network_graph.capture import capture
from medseg.network_graph.graph import Graph, Node

__all__ = ["Graph", "Node", "capture"]
