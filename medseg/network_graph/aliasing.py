"""Whether a call that works in place changes a tensor that is read under another name."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import fx

__all__ = ["changes_what_others_read"]

_VIEWS = {
    "narrow", "slice", "select", "chunk", "split", "split_with_sizes", "unbind", "view", "reshape", "flatten",
    "unflatten", "expand", "squeeze", "unsqueeze", "permute", "transpose", "detach", "alias",
}  # fmt: skip
_CUTS = {"chunk", "split", "split_with_sizes", "unbind"}


def changes_what_others_read(node: fx.Node) -> bool:
    """Whether a view of what ``node`` overwrites, or what it is a view of, is read after it.

    ``torch.export`` follows a tensor that is overwritten as a whole, but not its views.
    """
    target = node.args[0]
    if not isinstance(target, fx.Node):
        return False
    # fx.Node compares by its place in the graph.
    return any(user > node for relative in _relatives(target) for user in relative.users)


def _relatives(target: fx.Node) -> Iterator[fx.Node]:
    """Other names of memory that ``target`` may share."""
    below: fx.Node = target
    yield from _views_of(target)
    while _is_view(below):
        above: Any = below.args[0]
        yield above
        # The pieces of one cut do not overlap.
        if not _is_cut(above):
            yield from _views_of(above, but=below)
        below = above


def _views_of(node: fx.Node, but: fx.Node | None = None) -> Iterator[fx.Node]:
    for user in node.users:
        if user is not but and _is_view(user):
            yield user
            yield from _views_of(user)


def _is_view(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and _is_view(source)
    return node.op == "call_function" and _name(node) in _VIEWS


def _is_cut(node: fx.Node) -> bool:
    return node.op == "call_function" and _name(node) in _CUTS


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[-1] if schema is not None else ""
