"""Changing the intensities of one channel as a draw says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseg.transforms.augmentation.axis_maps import (
    apply_along_axes,
    blur_matrix,
    composed,
    ghosting_matrix,
    low_resolution_matrix,
    negligible,
)
from medseg.transforms.augmentation.draws import (
    BIAS_ORDER,
    BIAS_TERMS,
    BiasFieldDraw,
    GammaDraw,
    IntensityDraw,
    MotionDraw,
    NoiseDraw,
)
from medseg.transforms.augmentation.tensor_products import power_weights, tensor_product

__all__ = [
    "apply_bias_field",
    "apply_gamma",
    "change_contrast",
    "change_intensities",
    "move_in_acquisition",
    "noise",
]


def change_intensities(image: Tensor, draw: IntensityDraw) -> Tensor:
    """One channel (X, Y, Z) of floating point, changed; the same tensor if nothing was drawn."""
    if draw.motion is not None:
        image = move_in_acquisition(image, draw.motion)
    image = apply_along_axes(image, [_along(axis, image.shape[axis], draw) for axis in range(3)])
    if draw.bias_field is not None:
        image = apply_bias_field(image, draw.bias_field)
    if draw.noise is not None:
        image = image + noise(image, draw.noise)
    if draw.brightness is not None:
        image = image * draw.brightness
    if draw.contrast is not None:
        image = change_contrast(image, draw.contrast)
    if draw.gamma is not None:
        image = apply_gamma(image, draw.gamma)
    return image


def _along(axis: int, voxels: int, draw: IntensityDraw) -> Tensor | None:
    """All that is linear along one axis."""
    matrices = []
    if draw.ghosting is not None and draw.ghosting.axis == axis:
        matrices.append(ghosting_matrix(voxels, draw.ghosting.period, draw.ghosting.loss))
    if draw.blur_voxels is not None and not negligible(draw.blur_voxels[axis]):
        matrices.append(blur_matrix(voxels, draw.blur_voxels[axis]))
    if draw.low_resolution is not None and draw.low_resolution[axis] > 1.0:
        matrices.append(low_resolution_matrix(voxels, draw.low_resolution[axis]))
    return composed(matrices)


def move_in_acquisition(image: Tensor, draw: MotionDraw) -> Tensor:
    """Lines of k-space, each of the image shifted to where the patient lay when it was acquired.

    A shift turns the phases of a line. What the middle line sees, which holds the mean, stays in its place:
    the shifts of the others count from there.

    References:
        Shaw et al., MRI k-space motion artefact augmentation, MIDL 2019.
    """
    phase, readout = draw.phase_axis, draw.readout_axis
    lines, columns = image.shape[phase], image.shape[readout]
    spectrum = torch.fft.rfftn(image, dim=(phase, readout))
    # Acquired from the lowest frequency to the highest; the transform has frequency 0 first.
    frequency = torch.fft.fftfreq(lines, dtype=torch.float64)
    acquired = (frequency + 0.5) * lines
    epoch = torch.bucketize(
        (acquired + 0.5) / lines, torch.tensor(draw.times, dtype=torch.float64), right=True
    )
    shifts = torch.tensor(draw.voxels, dtype=torch.float64)[epoch]
    shifts = shifts - shifts[:1]
    turns = (
        frequency[:, None] * shifts[:, :1] + torch.fft.rfftfreq(columns, dtype=torch.float64) * shifts[:, 1:]
    )
    factor = torch.polar(torch.ones_like(turns), -2.0 * math.pi * turns).to(spectrum.device, spectrum.dtype)
    shape = [1, 1, 1]
    shape[phase], shape[readout] = factor.shape
    factor = factor if phase < readout else factor.T
    moved: Tensor = torch.fft.irfftn(
        spectrum * factor.reshape(shape), s=(lines, columns), dim=(phase, readout)
    )
    return moved.contiguous()


def apply_bias_field(image: Tensor, draw: BiasFieldDraw) -> Tensor:
    """What exceeds the smallest intensity, which stands for air, times a smooth field.

    References:
        Van Leemput et al., Automated model-based bias field correction of MR images of the brain, TMI 1999.
    """
    coefficients = torch.zeros((BIAS_ORDER + 1,) * 3)
    for (x, y, z), value in zip(BIAS_TERMS, draw.coefficients, strict=True):
        coefficients[x, y, z] = value
    powers = [power_weights(voxels, BIAS_ORDER).to(image) for voxels in image.shape]
    field = tensor_product(coefficients.to(image), *powers)
    low, high = torch.aminmax(field)
    field -= (low + high) / 2
    field *= 2 * draw.strength / (high - low).clamp(min=torch.finfo(field.dtype).tiny)
    floor = image.min()
    return (image - floor).mul_(field.exp_()).add_(floor)


def noise(image: Tensor, draw: NoiseDraw) -> Tensor:
    """Noise of the shape of ``image``, on its device."""
    generator = torch.Generator(image.device).manual_seed(draw.seed)
    normal = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return normal.mul_(draw.std)


def change_contrast(image: Tensor, factor: float) -> Tensor:
    """Distances to the mean times ``factor``, within the range of ``image``."""
    low, high = torch.aminmax(image)
    mean = _mean(image)
    return (image - mean).mul_(factor).add_(mean).clamp_(low, high)


def apply_gamma(image: Tensor, draw: GammaDraw) -> Tensor:
    """A power of ``image`` between its smallest and largest intensity, with its mean and deviation."""
    low, high = torch.aminmax(image)
    mean, deviation = _mean(image), _deviation(image)
    spread = (high - low).clamp(min=torch.finfo(image.dtype).tiny)
    unit = (high - image).div_(spread) if draw.inverted else (image - low).div_(spread)
    power = unit.log_().mul_(draw.exponent).exp_()
    if draw.inverted:
        power.neg_()
    power -= _mean(power)
    # Where there is one value alone, its deviation of 0 makes 0 of whatever stands here.
    return power.mul_(deviation / _deviation(power).clamp(min=torch.finfo(image.dtype).tiny)).add_(mean)


def _mean(image: Tensor) -> Tensor:
    # Slice by slice, so that the order of summation does not depend on the number of threads.
    return image.flatten(1).mean(1).mean()


def _deviation(image: Tensor) -> Tensor:
    """Standard deviation over all voxels."""
    centred = image - _mean(image)
    return centred.mul_(centred).flatten(1).mean(1).mean().sqrt()
