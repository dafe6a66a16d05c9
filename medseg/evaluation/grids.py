"""A prediction must lie on its reference's grid, or be brought onto it in so many words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform

from medseg.errors import GeometryError, InputError
from medseg.evaluation.pairs import Pair
from medseg.geometry import Grid
from medseg.io import VolumeHeader, read_header
from medseg.volume import Volume

__all__ = ["check_pairs", "coverage", "onto_grid"]

_POINTS_PER_AXIS = 32


def check_pairs(pairs: Sequence[Pair], *, resample_prediction: bool = False) -> tuple[int, ...]:
    """Compare the headers of all pairs; no voxel is read.

    Args:
        pairs: What is to be compared.
        resample_prediction: Accept a prediction on another grid: it will be resampled.

    Returns:
        The number of voxels of each reference: what the work will be.

    Raises:
        GeometryError: The grids of a pair differ by more than ``medseg.geometry.GRID_TOLERANCE_VOXELS``; or,
            if that is accepted, the prediction lies somewhere else altogether.
        InputError: A file is damaged, or has several channels.
    """
    return tuple(_checked_size(pair, resample_prediction) for pair in pairs)


def _checked_size(pair: Pair, resample_prediction: bool) -> int:
    grid = _header_of_label_map(pair.reference).grid
    if pair.prediction is None:
        return grid.voxel_count
    other = _header_of_label_map(pair.prediction).grid
    difference = grid.difference(other)
    if difference is not None and not resample_prediction:
        raise GeometryError(
            f"lies on another grid than its reference {pair.reference}: {difference}",
            where=pair.prediction,
            fix="segment the image that the reference was drawn on, or give --resample-prediction",
        )
    if difference is not None and coverage(other, grid) == 0.0:
        raise GeometryError(
            f"shows another part of space than its reference {pair.reference}",
            where=pair.prediction,
            fix="check which belongs to which, and their affines",
        )
    return grid.voxel_count


def _header_of_label_map(path: Path) -> VolumeHeader:
    header = read_header(path)
    if header.channels != 1:
        raise InputError(
            f"has {header.channels} channels, a label map has one", where=path, fix="check the path"
        )
    return header


def coverage(source: Grid, target: Grid) -> float:
    """How much of ``target`` lies within ``source``, 0 to 1, as some thousand of its voxels tell.

    Example:
        >>> near = Grid((10, 10, 10), np.eye(4))
        >>> coverage(near.cropped((5, 0, 0), (10, 10, 10)), near)
        0.5
    """
    axes = [np.unique(np.linspace(0, size - 1, min(size, _POINTS_PER_AXIS)).round()) for size in target.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    indices = source.to_index(target.to_world(points))
    return float(((indices > -0.5) & (indices < np.array(source.shape) - 0.5)).all(axis=1).mean())


def onto_grid(labels: Volume, grid: Grid) -> Volume:
    """Resample a label map by nearest neighbour; what lies outside it is background.

    Args:
        labels: Label values, (1, X, Y, Z), on a grid of any orientation.
        grid: Where they shall lie.

    Example:
        >>> coarse = Volume(np.array([1, 2], np.uint8).reshape(1, 2, 1, 1), Grid((2, 1, 1), np.eye(4)))
        >>> affine = np.diag([0.5, 1.0, 1.0, 1.0])
        >>> affine[0, 3] = -0.25
        >>> onto_grid(coarse, Grid((5, 1, 1), affine)).array.ravel()
        array([1, 1, 2, 2, 0], dtype=uint8)
    """
    to_source = np.linalg.inv(labels.grid.affine) @ grid.affine
    array = affine_transform(
        labels.array[0],
        to_source[:3, :3],
        offset=to_source[:3, 3],
        output_shape=grid.shape,
        order=0,
        # "constant" would call the outer half of the outermost voxels outside.
        mode="grid-constant",
        cval=0,
    )
    return Volume(array[None], grid)
