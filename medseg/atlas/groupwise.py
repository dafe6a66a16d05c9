"""The mean of many images: a template that all of them are brought onto, and that is made of them.

S. Joshi, B. Davis, M. Jomier and G. Gerig, "Unbiased diffeomorphic atlas construction for computational
anatomy", NeuroImage 23, 2004, in a simple form: register all images onto the template, average them there,
take the mean of the transforms out, and begin again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.linalg import expm, logm

from medseg.atlas.cache import TransformCache
from medseg.atlas.choices import AffineChoice, DeformableChoice, RegistrationChoice
from medseg.atlas.register import Pair, register, register_pairs
from medseg.atlas.transform import Transform
from medseg.geometry import Grid
from medseg.progress import Progress, SilentProgress
from medseg.volume import Volume

__all__ = ["Template", "build_template", "mean_matrix", "onto_template", "structure_region"]

FloatArray = npt.NDArray[np.float32]
_LIKELY = 0.05
_AROUND_MM = 5.0


@dataclass(frozen=True, eq=False)
class Template:
    """The mean of a group of images.

    Attributes:
        image: (1, X, Y, Z), the mean of their standardised intensities.
        transforms: From the template to each image, in order.
    """

    image: Volume
    transforms: tuple[Transform, ...]


def build_template(
    images: Sequence[Volume],
    choice: RegistrationChoice,
    *,
    affine_rounds: int = 2,
    deformable_rounds: int = 0,
    seed: int = 0,
    cache: TransformCache | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Template:
    """Build the mean template of images, in rounds.

    The first mean is that of the images laid upon each other by their centres, on a grid of their median
    size and spacing. The order of the images does not matter but for rounding.

    Args:
        images: (1, X, Y, Z), as ``standardized`` gives them, on grids of their own.
        choice: How images are registered onto the template.
        affine_rounds: Rounds in which they are laid onto it alone.
        deformable_rounds: Rounds after these, in which they are bent as well.
        seed: Of what is drawn.
        cache: Of the transforms.
        workers: Processes.
        progress: Shows how far it is.

    Returns:
        The template, and the transforms of the last round, by which its image is the mean of the images.
    """
    grid = _common_grid(images)
    transforms = [Transform(grid, _laid_by_centres(grid, image.grid)) for image in images]
    template = _mean(images, transforms)
    rigid = choice.model_copy(update={"deformable": DeformableChoice(method="none")})
    kinds = [rigid] * affine_rounds + [choice] * deformable_rounds
    shown = progress or SilentProgress()
    for number, kind in enumerate(kinds, start=1):
        pairs = [
            Pair(template, image, initial=transform.matrix)
            for image, transform in zip(images, transforms, strict=True)
        ]
        transforms = register_pairs(
            pairs,
            kind,
            seed=seed,
            cache=cache,
            workers=workers,
            description=f"template, round {number} of {len(kinds)}",
            progress=shown,
        )
        transforms = _centred(transforms)
        template = _mean(images, transforms)
    return Template(template, tuple(transforms))


def onto_template(
    image: Volume,
    template: Volume,
    region: npt.NDArray[np.bool_],
    choice: AffineChoice,
    *,
    seed: int = 0,
    cache: TransformCache | None = None,
) -> tuple[Transform, npt.NDArray[np.float64]]:
    """Lay an image onto a template, by what lies in a region of the template.

    Args:
        image: (1, X, Y, Z), as ``standardized`` gives it.
        template: (1, X, Y, Z).
        region: Of the template, where the structures are: what surrounds them varies in ways of its own.
        choice: How.
        seed: Of what is drawn.
        cache: Of the transform.

    Returns:
        The transform that brings the image to the template's grid, and the 4x4 from points of the image to
        points of the template.
    """
    stiff = RegistrationChoice(affine=choice, deformable=DeformableChoice(method="none"))
    found = register(Pair(template, image, fixed_mask=region), stiff, seed=seed, cache=cache)
    return found, np.asarray(np.linalg.inv(found.matrix), dtype=np.float64)


def structure_region(foreground: npt.NDArray[np.floating], grid: Grid) -> npt.NDArray[np.bool_]:
    """Where foreground is likely, and a few millimetres around; everywhere where there is none.

    Args:
        foreground: Its probability, (X, Y, Z).
        grid: Its grid.
    """
    likely = foreground > _LIKELY
    if not likely.any():
        return np.ones(grid.shape, bool)
    distance = ndimage.distance_transform_edt(~likely, sampling=grid.spacing_mm)
    around: npt.NDArray[np.bool_] = np.asarray(distance) <= _AROUND_MM
    return around


def mean_matrix(matrices: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """The mean of affine maps: of their logarithms, so that a map and its inverse have none between them.

    V. Arsigny et al., "A fast and log-Euclidean polyaffine framework for locally linear registration", 2006.

    Example:
        >>> twice, half = np.diag([2.0, 1.0, 1.0, 1.0]), np.diag([0.5, 1.0, 1.0, 1.0])
        >>> np.round(mean_matrix([twice, half]), 6).tolist() == np.eye(4).tolist()
        True
    """
    logs = [np.real(logm(matrix)) for matrix in matrices]
    return np.asarray(expm(np.mean(logs, axis=0)))


def _centred(transforms: Sequence[Transform]) -> list[Transform]:
    """Take the mean out of transforms: the template gets the mean place and shape of the images."""
    grid = transforms[0].grid
    # World coordinates of scanners may lie far off: about the template's middle, the mean stays small.
    middle = np.eye(4)
    middle[:3, 3] = grid.corners_mm().mean(axis=0)
    back = np.linalg.inv(middle)
    mean = middle @ mean_matrix([back @ transform.matrix @ middle for transform in transforms]) @ back
    undo = np.linalg.inv(mean)
    fields = [t.displacement_mm for t in transforms if t.displacement_mm is not None]
    bias = np.mean(fields, axis=0, dtype=np.float32) if fields else None
    return [
        Transform(
            grid,
            transform.matrix @ undo,
            None if transform.displacement_mm is None or bias is None else transform.displacement_mm - bias,
        )
        for transform in transforms
    ]


def _mean(images: Sequence[Volume], transforms: Sequence[Transform]) -> Volume:
    """The mean of images on the template; outside an image it has no say."""
    grid = transforms[0].grid
    total = np.zeros((1, *grid.shape), np.float32)
    count = np.zeros(grid.shape, np.float32)
    for image, transform in zip(images, transforms, strict=True):
        inside = transform.covers(image.grid)
        total += np.where(inside, transform.apply(image).array, 0.0)
        count += inside
    return Volume((total / np.maximum(count, 1.0)).astype(np.float32), grid)


def _common_grid(images: Sequence[Volume]) -> Grid:
    """A grid along the patient's axes, of the images' median size and spacing."""
    upright = [image.grid.reoriented("RAS") for image in images]
    spacing = np.median([grid.spacing_mm for grid in upright], axis=0)
    length = np.median([np.multiply(grid.shape, grid.spacing_mm) for grid in upright], axis=0)
    shape = tuple(int(size) for size in np.maximum(np.round(length / spacing), 1))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.median([grid.corners_mm().mean(axis=0) for grid in upright], axis=0)
    affine[:3, 3] -= spacing * (np.asarray(shape) - 1.0) / 2.0
    return Grid(shape, affine)  # type: ignore[arg-type]


def _laid_by_centres(fixed: Grid, moving: Grid) -> npt.NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = moving.corners_mm().mean(axis=0) - fixed.corners_mm().mean(axis=0)
    return matrix
