"""Three planes through a volume, as a radiologist looks at them.

Everything here is in RAS orientation: array axis 0 runs to the patient's right, 1 to the front, 2 to the
head. On the screen the patient's right is left in axial and coronal planes, and the front is left in
sagittal ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Grid
from medseg.volume import Volume

__all__ = ["PLANES", "Plane", "best_slices", "first_channel", "intensity_window"]

_WINDOW_SAMPLES = 1_000_000
_WINDOW_PERCENTILES = (0.5, 99.5)
_STRUCTURE_PERCENTILES = (10.0, 90.0)
_LEAST_MARGIN = 0.3
_BOX_MARGIN = 0.15


@dataclass(frozen=True)
class Plane:
    """One way to look at a volume.

    Attributes:
        name: What radiologists call it.
        axis: The array axis that the plane cuts.
        across: The array axis that runs across the screen; it is shown against its direction.
        up: The array axis that runs up the screen.
        letters: The patient's directions at the screen's left, right, top and bottom edge.
    """

    name: str
    axis: int
    across: int
    up: int
    letters: tuple[str, str, str, str]

    def cut(self, array: npt.NDArray[Any], index: int) -> npt.NDArray[Any]:
        """The pixels of slice ``index``, top row first, left column first.

        Args:
            array: Shape (X, Y, Z), RAS.
            index: Along ``axis``.

        Returns:
            Shape (rows, columns); a view.
        """
        pixels = array[(slice(None),) * self.axis + (index,)]
        # What is left of the axes keeps its order: ``across`` comes before ``up`` in every plane.
        return pixels.T[::-1, ::-1]

    def size_mm(self, grid: Grid) -> tuple[float, float]:
        """Width and height of what is shown, in millimetres."""
        across, up = (grid.shape[axis] * grid.spacing_mm[axis] for axis in (self.across, self.up))
        return across, up


PLANES = (
    Plane("axial", axis=2, across=0, up=1, letters=("R", "L", "A", "P")),
    Plane("coronal", axis=1, across=0, up=2, letters=("R", "L", "S", "I")),
    Plane("sagittal", axis=0, across=1, up=2, letters=("A", "P", "S", "I")),
)


def best_slices(labels: npt.NDArray[Any]) -> tuple[int, int, int]:
    """Where to cut each axis so that most of the structures are seen, and well.

    A slice counts, for each class, the area that it shows of it as a part of the largest that any slice
    shows; the slice with the largest sum is taken, the middle one of several. Without a structure it is the
    middle of the volume.

    Args:
        labels: Class indices or values, 0 for the background; shape (X, Y, Z).

    Returns:
        An index for each axis.

    Example:
        >>> labels = np.zeros((5, 5, 5), int)
        >>> labels[3, 1:4, 2] = 1
        >>> best_slices(labels)
        (3, 2, 2)
    """
    present = np.unique(labels)
    middle = tuple(size // 2 for size in labels.shape)
    merit = [np.zeros(size) for size in labels.shape]
    for value in present[present != 0]:
        where = labels == value
        for axis in range(3):
            area = np.count_nonzero(where, axis=tuple(other for other in range(3) if other != axis))
            merit[axis] += area / area.max()
    chosen = []
    for axis in range(3):
        best = np.flatnonzero(merit[axis] >= merit[axis].max() * (1.0 - 1e-9))
        chosen.append(int(best[len(best) // 2]) if merit[axis].any() else middle[axis])
    return chosen[0], chosen[1], chosen[2]


def intensity_window(image: npt.NDArray[Any], labels: npt.NDArray[Any] | None = None) -> tuple[float, float]:
    """The intensities to show as black and as white.

    Percentiles leave out bright vessels and metal. Where there are structures, the window is drawn about
    their intensities, since the air about a patient would cost a CT its soft tissue contrast. Voxels that
    are NaN or infinite do not count.

    Args:
        image: Intensities, shape (X, Y, Z).
        labels: 0 for the background, same shape; without structures the whole image counts.

    Returns:
        The lower and the higher intensity; the second is always larger.

    Example:
        >>> intensity_window(np.full((2, 2, 2), 7.0))
        (7.0, 8.0)
    """
    if labels is None or not labels.any():
        return _percentiles(image, _WINDOW_PERCENTILES)
    box = _surroundings(labels)
    low, high = _percentiles(image[box], _WINDOW_PERCENTILES)
    inside = image[box][labels[box] != 0]
    darkest, brightest = _percentiles(inside.reshape(-1, 1, 1), _STRUCTURE_PERCENTILES)
    margin = max(1.5 * (brightest - darkest), _LEAST_MARGIN * (high - low))
    return max(low, darkest - margin), min(high, brightest + margin)


def _percentiles(image: npt.NDArray[Any], percents: tuple[float, float]) -> tuple[float, float]:
    step = max(1, round((image.size / _WINDOW_SAMPLES) ** (1.0 / 3.0)))
    sample = np.asarray(image[::step, ::step, ::step], dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(edge) for edge in np.percentile(sample, percents))
    return low, high if high > low else low + 1.0


def _surroundings(labels: npt.NDArray[Any]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero((labels != 0).any(axis=others))
        margin = int(np.ceil(_BOX_MARGIN * (inside[-1] - inside[0] + 1)))
        box.append(slice(max(inside[0] - margin, 0), inside[-1] + margin + 1))
    return tuple(box)


def first_channel(volume: Volume) -> npt.NDArray[Any]:
    """The first channel in RAS orientation, shape (X, Y, Z); a view."""
    channel: npt.NDArray[Any] = volume.reoriented("RAS").array[0]
    return channel
