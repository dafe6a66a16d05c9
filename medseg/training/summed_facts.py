"""What all cases together say about one channel, or about one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from medseg.labels import LabelScheme
from medseg.runs.fingerprint import ChannelFacts, ClassFacts, Histogram
from medseg.training.case_facts import CaseFacts, ConstantValue, is_ct

__all__ = ["CONSTANT_BACKGROUND", "HISTOGRAM_BINS", "channel_facts", "class_facts", "intensity_of"]

CONSTANT_BACKGROUND = 0.25
"""Part of an image that one value must fill, on average, to be no measurement but a background."""

HISTOGRAM_BINS = 64
_LOW_PERCENTILE, _HIGH_PERCENTILE = 0.5, 99.5
_DIGITS = 6

_Numbers = npt.NDArray[np.float64]


def intensity_of(samples: _Numbers) -> dict[str, float]:
    """Percentiles 0.5 and 99.5; mean and standard deviation of what is clipped to them."""
    lower, upper = np.percentile(samples, [_LOW_PERCENTILE, _HIGH_PERCENTILE])
    clipped = np.clip(samples, lower, upper)
    return {
        "lower": float(lower),
        "upper": float(upper),
        "mean": float(clipped.mean()),
        "std": float(clipped.std()),
    }


def channel_facts(facts: Sequence[CaseFacts], channel: int, name: str) -> ChannelFacts:
    """Sum up a channel.

    A constant background that fills ``CONSTANT_BACKGROUND`` of the images is left out of the histogram. Of
    channels without a unit, each case counts in its own deviations from its own mean.
    """
    background, fraction = _background([fact.constants[channel] for fact in facts])
    pairs = [
        (fact.whole[channel].astype(np.float64), fact.foreground[channel].astype(np.float64))
        for fact in facts
    ]
    median = float(np.median(np.concatenate([inside for _, inside in pairs])))
    left_out = background if fraction >= CONSTANT_BACKGROUND else None
    if left_out is not None:
        pairs = [(whole[whole != left_out], inside) for whole, inside in pairs]
    if not is_ct(name):
        pairs = [_standardized(*pair) for pair in pairs]
    whole, inside = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return ChannelFacts(
        background=background,
        background_fraction=round(fraction, _DIGITS),
        foreground_median=median,
        histogram=_histogram(
            whole if whole.size else inside, inside, "stored" if is_ct(name) else "deviations"
        ),
    )


def _background(constants: Sequence[ConstantValue]) -> tuple[float, float]:
    """The value out of 0 and the lowest ones that fills most of the images, and how much of them."""
    at_lowest: dict[float, float] = {}
    for constant in constants:
        at_lowest[constant.lowest] = at_lowest.get(constant.lowest, 0.0) + constant.at_lowest
    filled = at_lowest | {0.0: sum(constant.at_zero for constant in constants)}
    value = max(filled, key=lambda candidate: (filled[candidate], candidate == 0.0))
    return value, filled[value] / len(constants)


def _standardized(whole: _Numbers, inside: _Numbers) -> tuple[_Numbers, _Numbers]:
    mean, std = (whole.mean(), whole.std()) if whole.size else (0.0, 0.0)
    scale = std if std > 0.0 else 1.0
    return (whole - mean) / scale, (inside - mean) / scale


def _histogram(
    whole: _Numbers,
    inside: _Numbers,
    unit: Literal["stored", "deviations"],
) -> Histogram:
    both = np.concatenate([whole, inside])
    lower, upper = np.percentile(both, [_LOW_PERCENTILE, _HIGH_PERCENTILE])
    if not lower < upper:
        lower, upper = lower - 0.5, upper + 0.5
    parts = [
        np.histogram(values.clip(lower, upper), bins=HISTOGRAM_BINS, range=(lower, upper))[0]
        / max(values.size, 1)
        for values in (whole, inside)
    ]
    shares = [tuple(round(float(share), _DIGITS) for share in part) for part in parts]
    return Histogram(unit=unit, lower=float(lower), upper=float(upper), whole=shares[0], foreground=shares[1])


def class_facts(facts: Sequence[CaseFacts], index: int, labels: LabelScheme) -> ClassFacts:
    """Sum up a class, not the background."""
    volumes = np.concatenate([fact.component_ml[index - 1] for fact in facts])
    partner = labels.partner_index(index)
    sizes = (volumes.min(), np.median(volumes), volumes.max()) if volumes.size else (0.0, 0.0, 0.0)
    smallest, median, largest = (float(f"{size:.{_DIGITS}g}") for size in sizes)
    return ClassFacts(
        cases=sum(bool(fact.class_voxels[index]) for fact in facts),
        components=len(volumes),
        smallest_ml=smallest,
        median_ml=median,
        largest_ml=largest,
        partner=None if partner is None else labels.names[partner],
    )
