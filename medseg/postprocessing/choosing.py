"""Which postprocessing helps, class by class, as validation cases tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import component_sizes, connected_components
from medseg.labels import LabelScheme
from medseg.postprocessing.label_maps import postprocess
from medseg.runs.chosen_postprocess import PostprocessTrial
from medseg.runs.postprocess import PostprocessChoice

__all__ = [
    "Candidate",
    "candidate_dice",
    "candidates",
    "class_dice",
    "combined",
    "judge",
    "smallest_components_ml",
    "thresholds_ml",
]

FloatArray = npt.NDArray[np.float64]

_CUBIC_MM_PER_ML = 1000.0
_DIGITS = 3
_SAME = 1e-9


@dataclass(frozen=True)
class Candidate:
    """One way to clean one class.

    Attributes:
        of: The class.
        choice: The way; it touches that class alone.
    """

    of: str
    choice: PostprocessChoice


def smallest_components_ml(
    labels: npt.NDArray[Any], scheme: LabelScheme, spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Volume of the smallest component of each class that is there.

    Args:
        labels: Class indices, shape (X, Y, Z).
        scheme: The classes.
        spacing_mm: Distance between voxels along each axis.

    Example:
        >>> scheme = LabelScheme.from_names({1: "liver", 2: "tumour"})
        >>> smallest_components_ml(np.array([[[1, 1, 0, 1, 0]]]), scheme, (10.0, 10.0, 10.0))
        {'liver': 1.0}
    """
    voxel_ml = math.prod(spacing_mm) / _CUBIC_MM_PER_ML
    found = {}
    for index, box in enumerate(ndimage.find_objects(labels, len(scheme) - 1), start=1):
        if box is not None:
            numbers, count = connected_components(np.ascontiguousarray(labels[box] == index))
            found[scheme.names[index]] = float(component_sizes(numbers, count).min() * voxel_ml)
    return found


def thresholds_ml(smallest: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Volumes below which components may be dropped, to be tried, from what references hold.

    They are the least of the cases' smallest components and half of it, the tenth percentile of them, and
    half their median: references have specks of their own, and a predicted structure may be smaller than any
    drawn one. Each is rounded down, so that a component of just that size stays.

    Args:
        smallest: ``smallest_components_ml`` of each training case.

    Example:
        >>> thresholds_ml([{"liver": 1.0}, {"liver": 2.0}, {"liver": 3.0}])
        {'liver': (0.5, 1.0, 1.2)}
    """
    by_class: dict[str, list[float]] = {}
    for case in smallest:
        for name, volume in case.items():
            by_class.setdefault(name, []).append(volume)
    tried = {}
    for name, volumes in by_class.items():
        least, median = min(volumes), float(np.median(volumes))
        chosen = (least / 2.0, least, float(np.percentile(volumes, 10.0)), median / 2.0)
        tried[name] = tuple(sorted({_rounded_down(volume) for volume in chosen}))
    return tried


def _rounded_down(volume: float) -> float:
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(volume)))
    return float(f"{math.floor(volume * scale * (1.0 + _SAME)) / scale:.{_DIGITS}g}")


def candidates(scheme: LabelScheme, thresholds: Mapping[str, Sequence[float]]) -> list[Candidate]:
    """All that is tried: of each class smallest volumes, the largest component, and holes filled beside.

    Args:
        scheme: The classes.
        thresholds: Smallest volumes to try, by class.

    Returns:
        For each class, the simpler ways before those that do more.
    """
    tried = []
    for name in scheme.names[1:]:
        drops: list[dict[str, Any]] = [{"smallest_volume_ml": {name: ml}} for ml in thresholds.get(name, ())]
        drops.append({"largest_component": (name,)})
        ways = [*drops, {"fill_holes": (name,)}, *({**drop, "fill_holes": (name,)} for drop in drops)]
        tried += [Candidate(name, PostprocessChoice.model_validate(way)) for way in ways]
    return tried


def class_dice(
    predicted: npt.NDArray[Any], reference: npt.NDArray[Any], scheme: LabelScheme
) -> dict[str, float]:
    """Dice of each class; 1 where neither holds it, so that a false structure dropped counts as a gain.

    Args:
        predicted: Class indices, shape (X, Y, Z).
        reference: The same of the reference.
        scheme: The classes.

    Example:
        >>> scheme = LabelScheme.from_names({1: "liver", 2: "tumour"})
        >>> class_dice(np.array([1, 1, 0]), np.array([1, 0, 0]), scheme)
        {'liver': 0.6666666666666666, 'tumour': 1.0}
    """
    size = len(scheme)
    both = np.bincount(predicted[predicted == reference].ravel(), minlength=size)
    sizes = [np.bincount(array.ravel(), minlength=size) for array in (predicted, reference)]
    return {
        name: _dice(int(both[index]), int(sizes[0][index]), int(sizes[1][index]))
        for index, name in enumerate(scheme.names)
        if index > 0
    }


def _dice(both: int, predicted: int, reference: int) -> float:
    return 1.0 if predicted + reference == 0 else 2.0 * both / (predicted + reference)


def candidate_dice(
    predicted: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    scheme: LabelScheme,
    spacing_mm: Sequence[float],
    tried: Sequence[Candidate],
) -> FloatArray:
    """Dice of each candidate's class after it, each tried alone.

    Work is done within the box of the class, where ``postprocess`` gives what it gives in the whole image.

    Args:
        predicted: Class indices, shape (X, Y, Z).
        reference: The same of the reference.
        scheme: The classes.
        spacing_mm: Distance between voxels along each axis.
        tried: The candidates.

    Returns:
        One number per candidate.
    """
    own = LabelScheme.from_names(dict(enumerate(scheme.names)))  # indices are its values
    boxes = ndimage.find_objects(predicted, len(scheme) - 1)
    in_reference = np.bincount(reference.ravel(), minlength=len(scheme))
    found = np.empty(len(tried))
    for place, candidate in enumerate(tried):
        index = scheme.names.index(candidate.of)
        box = boxes[index - 1]
        if box is None:
            found[place] = _dice(0, 0, int(in_reference[index]))
            continue
        cleaned = postprocess(predicted[box], own, spacing_mm, candidate.choice) == index
        both = int(np.count_nonzero(cleaned & (reference[box] == index)))
        found[place] = _dice(both, int(np.count_nonzero(cleaned)), int(in_reference[index]))
    return found


def judge(candidate: Candidate, before: FloatArray, after: FloatArray) -> PostprocessTrial:
    """Whether a candidate raises its class's Dice beyond chance.

    It does where the mean gain over the cases is above its own standard error (which one changed case never
    is) and more cases become better than worse.

    Args:
        candidate: What was tried.
        before: Dice of the class in each case.
        after: The same with the candidate.

    Example:
        >>> way = Candidate("liver", PostprocessChoice(largest_component=("liver",)))
        >>> one = judge(way, np.array([0.5, 0.5, 0.5]), np.array([0.9, 0.5, 0.5]))
        >>> two = judge(way, np.array([0.5, 0.5, 0.5]), np.array([0.9, 0.9, 0.5]))
        >>> one.helps, two.helps
        (False, True)
    """
    gains = after - before
    better, worse = int((gains > _SAME).sum()), int((gains < -_SAME).sum())
    mean = float(gains.mean())
    error = float(gains.std(ddof=1) / math.sqrt(gains.size)) if gains.size > 1 else None
    beyond = error is not None and mean > error * (1.0 + _SAME) + _SAME
    return PostprocessTrial(
        of=candidate.of,
        choice=candidate.choice,
        mean_gain=mean,
        standard_error=error,
        better=better,
        worse=worse,
        helps=beyond and better > worse,
    )


def combined(trials: Sequence[PostprocessTrial], *, with_holes: bool = True) -> PostprocessChoice:
    """For each class what helps it most, of equals the simplest, as one choice.

    Args:
        trials: All that was tried.
        with_holes: Whether holes may be filled: that alone can take something from another class.
    """
    best: dict[str, PostprocessTrial] = {}
    for trial in trials:
        if trial.helps and (with_holes or not trial.choice.fill_holes):
            before = best.get(trial.of)
            if before is None or trial.mean_gain > before.mean_gain + _SAME:
                best[trial.of] = trial
    chosen = [trial.choice for trial in best.values()]
    return PostprocessChoice(
        smallest_volume_ml={name: ml for way in chosen for name, ml in way.smallest_volume_ml.items()},
        largest_component=tuple(name for way in chosen for name in way.largest_component),
        fill_holes=tuple(name for way in chosen for name in way.fill_holes),
    )
