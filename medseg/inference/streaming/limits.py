"""What a stream cannot compute, told before work starts."""

from __future__ import annotations

from medseg.errors import ConfigError
from medseg.network_graph import Graph

__all__ = ["require_streamable"]


def require_streamable(graph: Graph) -> None:
    """Refuse a network that no stream gives whole.

    Args:
        graph: Of the network in evaluation mode.

    Raises:
        ConfigError: The network gives several outputs; or a layer looks at the whole image, or computes its
            weights anew each time. The error names the layer.

    Example:
        >>> from torch import nn
        >>> from medseg.network_graph import capture
        >>> require_streamable(capture(nn.InstanceNorm2d(1), (1, 1, 8, 8)))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        medseg.errors.ConfigError: layer 'instance_norm' (instance_norm) looks at the whole image...
    """
    if len(graph.outputs) != 1:
        raise ConfigError(
            f"the network gives {len(graph.outputs)} outputs in evaluation, of which a stream computes one",
            fix="wrap it in a module whose forward returns the scores alone",
        )
    for node in graph.whole():
        raise ConfigError(
            f"layer '{node.title}' ({node.kind}) looks at the whole image, which a stream never holds",
            fix="run the network on sliding windows, or build it with norm='batch'",
        )
    for node in graph.ancestors(graph.outputs[0]):
        if node.derived:
            raise ConfigError(
                f"layer '{node.title}' ({node.kind}) computes its {node.derived[0]} anew each time",
                fix="keep the weights that it has now, by torch.nn.utils.parametrize.remove_parametrizations",
            )
