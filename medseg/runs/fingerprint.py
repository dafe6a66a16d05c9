"""What training data is like: the facts that a plan rests on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.runs.part import Part

__all__ = ["AxisSpread", "ChannelFacts", "ClassFacts", "Fingerprint", "Histogram"]

_Triple = tuple[float, float, float]


class AxisSpread(Part):
    """How much cases differ along each axis.

    Attributes:
        smallest: Of all cases.
        tenth_percentile: A tenth of the cases lie below.
        largest: Of all cases.
    """

    smallest: _Triple
    tenth_percentile: _Triple
    largest: _Triple


class Histogram(Part):
    """How often intensities occur, in bins of equal width; what lies beyond the ends counts at the ends.

    Attributes:
        unit: ``"stored"``: as in the files, of CT Hounsfield units. ``"deviations"``: each case's own
            standard deviations from its own mean, since units and gains differ from image to image.
        lower: Lower end of the first bin.
        upper: Upper end of the last bin.
        whole: Part of the image's voxels in each bin.
        foreground: Part of the voxels of labelled structures in each bin; without labels of the body.
    """

    unit: Literal["stored", "deviations"]
    lower: float
    upper: float
    whole: tuple[float, ...]
    foreground: tuple[float, ...]


class ChannelFacts(Part):
    """What one channel's intensities are like.

    Attributes:
        background: The value that most voxels of one value have, out of 0 and the images' lowest one.
        background_fraction: Part of an image's voxels that have exactly this value; mean of the cases.
        foreground_median: Of the intensities that ``Fingerprint.foreground_intensity`` sums up.
        histogram: Of whole images and of their foreground.
    """

    background: float
    background_fraction: float = Field(ge=0.0, le=1.0)
    foreground_median: float
    histogram: Histogram


class ClassFacts(Part):
    """What one structure is like.

    Attributes:
        cases: How many cases hold it.
        components: Its connected components (that share faces), of all cases.
        smallest_ml: Volume of the smallest of them, in millilitres; 0 without any.
        median_ml: Their median volume.
        largest_ml: Volume of the largest.
        partner: Name of the same structure on the other side of the body.
    """

    cases: int
    components: int
    smallest_ml: float
    median_ml: float
    largest_ml: float
    partner: str | None = None


class Fingerprint(Part):
    """What the training data is like, on grids oriented as the network sees them.

    Attributes:
        cases: Number of training cases.
        median_shape: Median number of voxels per axis.
        largest_shape: Largest number of voxels per axis.
        median_spacing_mm: Median spacing per axis.
        foreground_intensity: Per channel: percentiles 0.5 and 99.5, mean and standard deviation of the
            intensities within labelled structures; without labels, within the body where a channel is CT,
            else within the whole image.
        class_voxels: Number of voxels of each class, background first; empty without labels.
        shape: How much the numbers of voxels differ.
        spacing_mm: How much the spacings differ.
        channels: One per channel.
        classes: One per class but the background; empty without labels.
    """

    cases: int
    median_shape: tuple[int, int, int]
    largest_shape: tuple[int, int, int]
    median_spacing_mm: tuple[float, float, float]
    foreground_intensity: tuple[dict[str, float], ...]
    class_voxels: tuple[int, ...]
    shape: AxisSpread | None = None
    spacing_mm: AxisSpread | None = None
    channels: tuple[ChannelFacts, ...] = ()
    classes: tuple[ClassFacts, ...] = ()
