"""Affine registration, by SimpleITK."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medseg.atlas.choices import AffineChoice
from medseg.atlas.transform import Transform
from medseg.errors import InputError
from medseg.io.sitk import itk_image, to_lps, to_ras
from medseg.volume import Volume

__all__ = ["register_affine", "use_metric"]

Matrix = npt.NDArray[np.float64]
_HISTOGRAM_BINS = 32
_FIRST_STEP_MM = 1.0
_LAST_STEP_MM = 1e-3
_SHORTER = 0.6
_DECIMALS = 9
_STARTS = {
    "centre": sitk.CenteredTransformInitializerFilter.GEOMETRY,
    "moments": sitk.CenteredTransformInitializerFilter.MOMENTS,
}


def register_affine(
    fixed: Volume,
    moving: Volume,
    choice: AffineChoice,
    *,
    initial: Matrix | None = None,
    fixed_mask: npt.NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Matrix:
    """The affine map that lays the moving image onto the fixed one.

    Args:
        fixed: (1, X, Y, Z).
        moving: (1, X, Y, Z), on a grid of its own.
        choice: Metric and levels.
        initial: Where to begin; chosen by ``choice.initial`` if left out.
        fixed_mask: Where the metric looks; everywhere if left out.
        seed: Of the voxels that the metric samples.

    Returns:
        4x4, from points of the fixed image to points of the moving one, in RAS+ millimetres.

    Raises:
        InputError: The images cannot be laid onto each other, as where they do not overlap.
    """
    itk_fixed, itk_moving = itk_image(fixed), itk_image(moving)
    start = sitk.AffineTransform(3)
    if initial is None:
        start = sitk.AffineTransform(
            sitk.CenteredTransformInitializer(itk_fixed, itk_moving, start, _STARTS[choice.initial])
        )
    else:
        # Rotations about the image's centre hardly move it: steps along all parameters stay comparable.
        start.SetCenter(_centre_of(itk_fixed))
        _set_matrix(start, to_lps(initial))
    if not Transform(fixed.grid, to_ras(_matrix_of(start))).covers(moving.grid).any():
        raise InputError(
            "the images cannot be laid onto each other: they do not overlap",
            fix="let it start from their centres",
        )
    method = _method(choice, seed)
    if fixed_mask is not None:
        method.SetMetricFixedMask(itk_image(Volume(fixed_mask[np.newaxis], fixed.grid), np.uint8))
    method.SetInitialTransform(start, inPlace=True)
    try:
        method.Execute(itk_fixed, itk_moving)
    except RuntimeError as error:
        what = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            f"the images cannot be laid onto each other ({what})", fix="start from their 'moments'"
        ) from error
    # ITK's last digits change with where memory lies: what is built on the map shall not.
    return np.round(to_ras(_matrix_of(start)), _DECIMALS)


def use_metric(method: sitk.ImageRegistrationMethod, metric: str) -> None:
    """Let a registration compare images by a metric of ``choices.Metric``."""
    if metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(_HISTOGRAM_BINS)


def _method(choice: AffineChoice, seed: int) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums over threads differ from run to run in their last digits
    use_metric(method, choice.metric)
    if choice.sampling < 1.0:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(choice.sampling, seed + 1)  # 0 would mean: by the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        _FIRST_STEP_MM, _LAST_STEP_MM, choice.iterations, _SHORTER, 1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(choice.shrink)
    method.SetSmoothingSigmasPerLevel(choice.smoothing_mm)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method


def _centre_of(image: Any) -> list[float]:
    middle = [(size - 1) / 2.0 for size in image.GetSize()]
    return list(image.TransformContinuousIndexToPhysicalPoint(middle))


def _set_matrix(transform: sitk.AffineTransform, matrix: Matrix) -> None:
    centre = np.asarray(transform.GetCenter())
    turn = matrix[:3, :3]
    transform.SetMatrix(turn.ravel().tolist())
    transform.SetTranslation((matrix[:3, 3] + turn @ centre - centre).tolist())


def _matrix_of(transform: sitk.AffineTransform) -> Matrix:
    matrix = np.eye(4)
    centre, turn = np.asarray(transform.GetCenter()), np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, :3] = turn
    matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - turn @ centre
    return matrix
