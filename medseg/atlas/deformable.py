"""Registration that bends: demons and B-splines, by SimpleITK."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medseg.atlas.affine import use_metric
from medseg.atlas.choices import DeformableChoice
from medseg.atlas.transform import Transform
from medseg.errors import ConfigError, InputError
from medseg.geometry import Grid
from medseg.io.sitk import itk_image, ras_displacements
from medseg.volume import Volume

__all__ = ["register_deformable"]

_BINS, _QUANTILES = 64, 7
_LBFGS_CORRECTIONS = 5
_FILTERS = {
    "demons": sitk.FastSymmetricForcesDemonsRegistrationFilter,
    "diffeomorphic_demons": sitk.DiffeomorphicDemonsRegistrationFilter,
}


def register_deformable(
    fixed: Volume, moving: Volume, matrix: npt.NDArray[np.float64], choice: DeformableChoice
) -> Transform:
    """Bend a moving image that an affine map has laid onto the fixed one.

    Args:
        fixed: (1, X, Y, Z).
        moving: (1, X, Y, Z), on a grid of its own.
        matrix: 4x4, from points of the fixed image to points of the moving one, in RAS+ millimetres.
        choice: Method and levels.

    Raises:
        InputError: An image is smaller than what the method needs.
        ConfigError: Levels shrink the image to less than four voxels along an axis.
    """
    affine = Transform(fixed.grid, matrix)
    if choice.method == "none":
        return affine
    _require_size(fixed.grid, choice)
    laid = affine.apply(moving)
    # Where the moving image says nothing, nothing shall pull.
    array = np.where(affine.covers(moving.grid), laid.array, fixed.array)
    itk_fixed, itk_laid = itk_image(fixed), itk_image(Volume(array, fixed.grid))
    try:
        if choice.method == "bspline":
            field = _bspline(itk_fixed, itk_laid, choice)
        else:
            field = _demons(itk_fixed, itk_laid, choice)
    except RuntimeError as error:
        what = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            f"the images cannot be registered ({what})", fix="choose 'deformable: {method: none}'"
        ) from error
    return Transform(fixed.grid, matrix, ras_displacements(field))


def _require_size(grid: Grid, choice: DeformableChoice) -> None:
    smallest = min(grid.shape) // max(choice.shrink)
    if smallest < 4:
        raise ConfigError(
            f"an image of {' x '.join(map(str, grid.shape))} voxels, shrunk {max(choice.shrink)} times, "
            f"is {smallest} voxels thick",
            where="deformable.shrink",
            fix="shrink less",
        )


def _demons(fixed: sitk.Image, moving: sitk.Image, choice: DeformableChoice) -> sitk.Image:
    if choice.match_histograms:
        moving = sitk.HistogramMatching(moving, fixed, _BINS, _QUANTILES, True)
    field: sitk.Image | None = None
    for shrink, iterations in zip(choice.shrink, choice.iterations, strict=True):
        demons = _FILTERS[choice.method]()
        demons.SetNumberOfThreads(1)
        demons.SetNumberOfIterations(iterations)
        demons.SmoothDisplacementFieldOn()
        demons.SetStandardDeviations(choice.field_smoothing_voxels)
        small_fixed, small_moving = _shrunk(fixed, shrink), _shrunk(moving, shrink)
        if field is None:
            field = demons.Execute(small_fixed, small_moving)
        else:
            field = demons.Execute(small_fixed, small_moving, _on_grid_of(small_fixed, field))
    return _on_grid_of(fixed, field)


def _bspline(fixed: sitk.Image, moving: sitk.Image, choice: DeformableChoice) -> sitk.Image:
    sizes_mm = [size * spacing for size, spacing in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    mesh = [max(1, round(length / choice.control_spacing_mm)) for length in sizes_mm]
    transform = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    for shrink, iterations in zip(choice.shrink, choice.iterations, strict=True):
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        use_metric(method, choice.metric)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsLBFGSB(1e-5, iterations, _LBFGS_CORRECTIONS, 2 * iterations)
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(_shrunk(fixed, shrink), _shrunk(moving, shrink))
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetNumberOfThreads(1)
    to_field.SetReferenceImage(fixed)
    return to_field.Execute(transform)


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    """Smoothed, and looked at every ``factor`` voxels; the image's extent stays the same."""
    if factor == 1:
        return image
    sizes = image.GetSize()
    small = [max(1, size // factor) for size in sizes]
    steps = [size / new for size, new in zip(sizes, small, strict=True)]
    array = sitk.GetArrayFromImage(image)
    smooth = sitk.GetImageFromArray(ndimage.gaussian_filter(array, factor / 2.0, mode="nearest"))
    smooth.CopyInformation(image)
    resample = sitk.ResampleImageFilter()
    resample.SetNumberOfThreads(1)
    resample.SetSize(small)
    resample.SetOutputSpacing([step * mm for step, mm in zip(steps, image.GetSpacing(), strict=True)])
    first = [(step - 1.0) / 2.0 for step in steps]
    resample.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    resample.SetOutputDirection(image.GetDirection())
    resample.SetUseNearestNeighborExtrapolator(True)
    return resample.Execute(smooth)


def _on_grid_of(image: sitk.Image, field: sitk.Image) -> sitk.Image:
    resample = sitk.ResampleImageFilter()
    resample.SetNumberOfThreads(1)
    resample.SetReferenceImage(image)
    resample.SetUseNearestNeighborExtrapolator(True)
    return resample.Execute(field)
