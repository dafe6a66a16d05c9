"""Starting from another network's weights, as far as they fit: matched by name and shape, classes by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.errors import BundleError, ConfigError, InputError
from medseg.networks import build_network
from medseg.runs import Plan, Recipe
from medseg.runs.bundle import is_bundle
from medseg.segmenters.bundles.opening import open_bundle, told_path
from medseg.segmenters.weights import named_like, read_any_weights
from medseg.training.handover import EncoderSource

__all__ = ["Match", "Mismatch", "Origin", "load_matching", "match_weights"]

_SHOWN = 10


@dataclass(frozen=True)
class Origin:
    """The weights that a recipe's ``init_from`` names.

    Attributes:
        weights: The file.
        class_names: What each of its classes is called, by index, where that is known.
    """

    weights: Path
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, recipe: Recipe, fold: int) -> Origin | None:
        """Where a fold starts from: a run's last weights, a bundle's, or a file; ``None`` if at random.

        Raises:
            InputError: There is no run, bundle or file.
            BundleError: The run or bundle is damaged or unsafe, or nothing in it is trained.
            ConfigError: Several folds of the run are trained, but not this one.
        """
        if recipe.init_from is None:
            return None
        source = EncoderSource.of(recipe)
        if source is not None:
            return cls(source.weights(fold), source.plan.labels.names)
        path = Path(recipe.init_from)
        if is_bundle(path):
            bundle = open_bundle(path)
            return cls(bundle.only_weights(), bundle.class_names())
        if path.is_file():
            return cls(path)
        raise InputError(
            "holds neither a run nor a bundle" if path.is_dir() else "is not there",
            where=path,
            fix="give --init-from a run's folder, a MONAI bundle's, or a file of weights",
        )


@dataclass(frozen=True)
class Mismatch:
    """A tensor that one side has alone, or in another shape.

    Attributes:
        name: In its own network.
        why: In a few words.
    """

    name: str
    why: str


@dataclass(frozen=True)
class Match:
    """Which tensors of a network are loaded from others.

    Attributes:
        whole: Names of those that are loaded as they are.
        classes: Names of those of which some classes are loaded, along which axes.
        shared: Pairs of class indices, here and there, that have the same name.
        not_loaded: Tensors that stay as they are, wholly or in part.
        not_used: Tensors there that are not needed here.
        loaded_weights: How many single weights are loaded, running statistics of batch norms included.
        weights: How many there are.
    """

    whole: tuple[str, ...]
    classes: dict[str, tuple[int, ...]]
    shared: tuple[tuple[int, int], ...]
    not_loaded: tuple[Mismatch, ...]
    not_used: tuple[Mismatch, ...]
    loaded_weights: int
    weights: int

    def summary(self, origin: Origin) -> str:
        """What was matched, and the first of what was not, for people."""
        share = self.loaded_weights / self.weights
        lines = [
            f"Starts from {told_path(origin.weights)}: {self.loaded_weights:,} of {self.weights:,} weights "
            f"({share:.1%}), in {len(self.whole) + len(self.classes)} tensors"
        ]
        lines += [f"  not loaded: {entry.name}: {entry.why}" for entry in self.not_loaded[:_SHOWN]]
        lines += [f"  not used: {entry.name}: {entry.why}" for entry in self.not_used[:_SHOWN]]
        if max(len(self.not_loaded), len(self.not_used)) > _SHOWN:
            lines.append("  … and more: see init_from.json in the run")
        return "\n".join(lines)

    def to_json(self, origin: Origin) -> dict[str, Any]:
        """All of it, for ``init_from.json``."""
        return {
            "weights": told_path(origin.weights),
            "loaded_weights": self.loaded_weights,
            "all_weights": self.weights,
            "loaded": [*self.whole, *self.classes],
            "not_loaded": {entry.name: entry.why for entry in self.not_loaded},
            "not_used": {entry.name: entry.why for entry in self.not_used},
        }


def match_weights(plan: Plan, origin: Origin) -> Match:
    """Find out which weights a plan's network can start from; nothing is computed.

    A tensor is matched if both networks have one of its name and shape. Tensors with one entry a class, as a
    network's head has them, are matched class by class where both sides' classes are known by name: which
    number a class has matters not, and a class that is new stays as it is.

    Args:
        plan: Network and labels.
        origin: Where the weights are.

    Raises:
        ConfigError: Nothing matches.
        BundleError: The file is damaged, holds no weights, or one that matches is NaN or infinite.
    """
    here = _shapes(plan, len(plan.labels))
    there = named_like(here, read_any_weights(origin.weights))
    shared = _shared_classes(plan.labels.names, origin.class_names)
    axes = {} if shared is None else _class_axes(plan, here)
    whole: list[str] = []
    classes: dict[str, tuple[int, ...]] = {}
    reasons: dict[str, str] = {}
    unused = {name: "missing here" for name in there if name not in here}
    for name, tensor in here.items():
        if name not in there:
            reasons[name] = "missing there"
        elif name in axes and shared is not None and plan.labels.names != origin.class_names:
            counts = (len(plan.labels), len(origin.class_names or ()))
            why = _why_not_by_class(tensor, there[name], axes[name], counts)
            if why is None and shared:
                classes[name] = axes[name]
                reasons |= _left_out(
                    name, "new classes at random", plan.labels.names, [pair[0] for pair in shared]
                )
                unused |= _left_out(
                    name, "other classes", origin.class_names or (), [pair[1] for pair in shared]
                )
            else:
                reasons[name] = unused[name] = why or "no class of the same name"
        elif there[name].shape != tensor.shape:
            reasons[name] = unused[name] = _other_shape(tensor, there[name])
        else:
            whole.append(name)
    _require_sound(origin, there, (*whole, *classes), here)
    return Match(
        tuple(whole),
        classes,
        shared or (),
        tuple(Mismatch(*entry) for entry in reasons.items()),
        tuple(Mismatch(*entry) for entry in unused.items()),
        _size(here, whole) + sum(_part(here[name], axes, shared or ()) for name, axes in classes.items()),
        _size(here, here),
    )


@torch.no_grad()
def load_matching(network: nn.Module, plan: Plan, origin: Origin) -> Match:
    """Load what matches into a plan's network; errors as ``match_weights``'s."""
    match = match_weights(plan, origin)
    own = network.state_dict()
    there = named_like(own, read_any_weights(origin.weights))
    for name in match.whole:
        own[name].copy_(there[name])
    ours, theirs = (np.array(side) for side in zip(*match.shared, strict=True)) if match.shared else ((), ())
    for name, axes in match.classes.items():
        target, source = own[name], there[name]
        source = source[_entries(source, axes, theirs)].to(target)
        target[_entries(target, axes, ours)] = source
    return match


def _shapes(plan: Plan, classes: int) -> dict[str, Tensor]:
    options = plan.network.options | {"out_channels": classes}
    with torch.device("meta"):
        return dict(build_network(plan.network.name, **options).state_dict())


def _class_axes(plan: Plan, here: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Along which axes a tensor has one entry a class: those that grow with the number of classes."""
    classes = len(plan.labels)
    grown = _shapes(plan, classes + 1)
    axes = {}
    for name, tensor in here.items():
        sizes = zip(tensor.shape, grown[name].shape, strict=True)
        along = tuple(axis for axis, size in enumerate(sizes) if size == (classes, classes + 1))
        if along:
            axes[name] = along
    return axes


def _shared_classes(here: Sequence[str], there: Sequence[str] | None) -> tuple[tuple[int, int], ...] | None:
    if there is None:
        return None
    numbers = {name.casefold(): number for number, name in enumerate(there)}
    return tuple(
        (index, numbers[name.casefold()]) for index, name in enumerate(here) if name.casefold() in numbers
    )


def _why_not_by_class(
    here: Tensor, there: Tensor, axes: Sequence[int], counts: tuple[int, int]
) -> str | None:
    wanted = [counts[1] if axis in axes else size for axis, size in enumerate(here.shape)]
    return None if list(there.shape) == wanted else _other_shape(here, there)


def _left_out(tensor: str, what: str, classes: Sequence[str], shared: Sequence[int]) -> dict[str, str]:
    alone = [name for index, name in enumerate(classes) if index not in shared]
    return {tensor: f"{what}: {', '.join(alone)}"} if alone else {}


def _other_shape(here: Tensor, there: Tensor) -> str:
    return f"shape {tuple(here.shape)} here, {tuple(there.shape)} there"


def _require_sound(
    origin: Origin, there: dict[str, Tensor], names: Sequence[str], here: dict[str, Tensor]
) -> None:
    if not any(there[name].is_floating_point() for name in names):
        raise ConfigError(
            f"nothing in it fits the network, which has '{next(iter(here))}', …; there is "
            f"'{next(iter(there))}', …",
            where=origin.weights,
            fix="choose the network, and its options, that these weights are of",
        )
    broken = [name for name in names if not there[name].isfinite().all()]
    if broken:
        raise BundleError(
            f"'{broken[0]}' is NaN or infinite", where=origin.weights, fix="start from other weights"
        )


def _size(tensors: dict[str, Tensor], names: Any) -> int:
    return sum(tensors[name].numel() for name in names if tensors[name].is_floating_point())


def _part(tensor: Tensor, axes: Sequence[int], shared: Sequence[tuple[int, int]]) -> int:
    sizes = [len(shared) if axis in axes else size for axis, size in enumerate(tensor.shape)]
    return int(np.prod(sizes))


def _entries(tensor: Tensor, axes: Sequence[int], chosen: Any) -> tuple[Tensor, ...]:
    """Where the chosen classes are, for indexing."""
    along = [chosen if axis in axes else np.arange(size) for axis, size in enumerate(tensor.shape)]
    return tuple(torch.from_numpy(index) for index in np.ix_(*along))
