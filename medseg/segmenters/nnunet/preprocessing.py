"""An image as nnU-Net v2 prepares it: axes, crop, normalisation, spacing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.errors import InputError
from medseg.geometry import axis_map
from medseg.runs.nnunet import IntensityProperties, NnunetConfiguration, NnunetPlans, ResamplingOptions
from medseg.segmenters.nnunet.resampling import resampled, resampled_shape
from medseg.volume import Volume

__all__ = ["NORMALIZATIONS", "READERS", "Prepared", "prepare"]

Array = npt.NDArray[np.float32]

_TINY = 1e-8
_RGB_LARGEST = 255

READERS = {"SimpleITKIO": None, "NibabelIO": None, "NibabelIOWithReorient": "RAS"}
"""How nnU-Net's readers orient an image: as stored, or in these axes."""


@dataclass(frozen=True)
class Prepared:
    """An image as the network sees it, and the way back.

    Axes are nnU-Net's: those of the volume in reverse, then in the order of ``transpose_forward``.

    Attributes:
        array: (C, Z', Y', X'), single precision.
        image: The volume that it was made from.
        axcodes: In which its axes were turned before; ``None``: as stored.
        transposed: Order of the axes.
        whole_shape: Of the image, in these axes.
        crop: Where the image is not 0, in these axes.
        before_mm: Spacing of the image.
        after_mm: Spacing that the network sees.
    """

    array: Array
    image: Volume
    axcodes: str | None
    transposed: tuple[int, int, int]
    whole_shape: tuple[int, ...]
    crop: tuple[slice, ...]
    before_mm: tuple[float, ...]
    after_mm: tuple[float, ...]

    def restored(
        self, scores: npt.NDArray[np.floating], how: ResamplingOptions, outside: Sequence[float]
    ) -> npt.NDArray[np.float32]:
        """Class scores on the image's own grid.

        Args:
            scores: (K, Z', Y', X').
            how: The resampling of scores.
            outside: Scores of the voxels that were cropped away.

        Returns:
            (K, X, Y, Z).
        """
        shape = [stop.stop - stop.start for stop in self.crop]
        back = resampled(scores, shape, self.after_mm, self.before_mm, how)
        whole = np.empty((len(back), *self.whole_shape), np.float32)
        whole[:] = np.asarray(outside, np.float32)[:, None, None, None]
        whole[(slice(None), *self.crop)] = back
        turned = whole.transpose(0, *(1 + int(axis) for axis in np.argsort(self.transposed)))
        volume_order = turned.transpose(0, 3, 2, 1)
        if self.axcodes is None:
            return np.ascontiguousarray(volume_order)
        way_back = axis_map(self.axcodes, self.image.grid.axcodes)
        return np.ascontiguousarray(way_back.apply(volume_order))


def prepare(image: Volume, plans: NnunetPlans, configuration: NnunetConfiguration) -> Prepared:
    """Prepare an image.

    Raises:
        InputError: A channel suits not its normalisation.
    """
    axcodes = READERS[plans.image_reader_writer]
    seen = image if axcodes is None else image.reoriented(axcodes)
    # A copy in the order in which nnU-Net holds it, so that sums come to the same last digit.
    stored = np.array(seen.array.transpose(0, 3, 2, 1), dtype=np.float32, order="C")
    spacing = seen.grid.spacing_mm[::-1]
    order = plans.transpose_forward
    array = stored.transpose(0, *(1 + axis for axis in order))
    before = tuple(float(spacing[axis]) for axis in order)
    after = tuple(configuration.spacing)
    if len(after) < len(before):  # a network of planes leaves the distance between them
        after = (before[0], *after)
    mask = _body(array)
    crop = _box(mask)
    cropped, inside = array[(slice(None), *crop)], mask[crop]
    for channel, scheme in enumerate(configuration.normalization_schemes):
        facts = plans.foreground_intensity_properties_per_channel.get(str(channel))
        within = inside if configuration.use_mask_for_norm[channel] else None
        NORMALIZATIONS[scheme](cropped[channel], within, facts)
    shape = resampled_shape(cropped.shape[1:], before, after)
    found = resampled(cropped, shape, before, after, configuration.resampling_fn_data_kwargs)
    return Prepared(found, image, axcodes, order, array.shape[1:], crop, before, after)


def _body(array: Array) -> npt.NDArray[np.bool_]:
    """Voxels of which a channel is not 0, holes filled."""
    mask: npt.NDArray[np.bool_] = ndimage.binary_fill_holes((array != 0).any(axis=0))
    return mask


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box around a mask; all, if it is empty."""
    found = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        found.append(slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(0, mask.shape[axis]))
    return tuple(found)


def _zscore(values: Array, inside: npt.NDArray[np.bool_] | None, _: IntensityProperties | None) -> None:
    if inside is None:
        mean, std = values.mean(), values.std()
        values -= mean
        values /= max(std, _TINY)
        return
    chosen = values[inside]
    values[inside] = (chosen - chosen.mean()) / max(chosen.std(), _TINY)


def _ct(values: Array, _: npt.NDArray[np.bool_] | None, facts: IntensityProperties | None) -> None:
    if facts is None:
        raise InputError("plans.json tells of no intensities for CT", fix="copy the model again")
    np.clip(values, facts.percentile_00_5, facts.percentile_99_5, out=values)
    values -= facts.mean
    values /= max(facts.std, _TINY)


def _none(values: Array, inside: npt.NDArray[np.bool_] | None, facts: IntensityProperties | None) -> None:
    """Leave them as they are."""


def _rescale(values: Array, _: npt.NDArray[np.bool_] | None, __: IntensityProperties | None) -> None:
    values -= values.min()
    values /= max(values.max(), _TINY)


def _rgb(values: Array, _: npt.NDArray[np.bool_] | None, __: IntensityProperties | None) -> None:
    if values.min() < 0 or values.max() > _RGB_LARGEST:
        raise InputError("has values beyond 0 to 255, the model is for colours", fix="give colour images")
    values /= _RGB_LARGEST


NORMALIZATIONS: dict[
    str, Callable[[Array, npt.NDArray[np.bool_] | None, IntensityProperties | None], None]
] = {
    "ZScoreNormalization": _zscore,
    "CTNormalization": _ct,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _rescale,
    "RGBTo01Normalization": _rgb,
}
"""nnU-Net's schemes by name, each in place on one channel."""
