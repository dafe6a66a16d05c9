"""Grids in space: where each voxel lies, and how one grid maps onto another.

An affine takes voxel indices (i, j, k) to RAS+ millimetres: +x to the patient's right, +y to the front,
+z to the head. Index order follows the affine's columns, as in nibabel and MONAI. See
``docs/coordinates.md``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from medseg.errors import ConfigError, GeometryError

__all__ = [
    "GRID_TOLERANCE_VOXELS",
    "SHEAR_TOLERANCE",
    "AxisMap",
    "Grid",
    "SlabMap",
    "axis_map",
    "parse_axcodes",
    "slab_maps",
]

GRID_TOLERANCE_VOXELS = 0.01
"""Two grids are the same if no corner is displaced by more than this part of the smallest spacing.

File formats round affines to single precision, quaternions or text; over 512 voxels that moves a corner by
some 1e-4 voxels. A hundredth is far above such rounding and far below anything a score could notice.
"""

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes that still counts as a right angle (0.06 degrees)."""

_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}

FloatArray = npt.NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


def parse_axcodes(text: str) -> str:
    """Check axis codes such as ``"RAS"``: three letters, one of each pair L/R, A/P, S/I.

    Raises:
        ConfigError: The codes do not name each anatomical axis once.

    Example:
        >>> parse_axcodes("lps")
        'LPS'
    """
    codes = text.upper()
    axes = {frozenset((code, _OPPOSITE.get(code, code))) for code in codes}
    if len(codes) != 3 or len(axes) != 3 or any(code not in _OPPOSITE for code in codes):
        raise ConfigError(f"'{text}' is not an orientation", fix="name each axis once, as in RAS, LPS or PIR")
    return codes


@dataclass(frozen=True)
class AxisMap:
    """A permutation of the three spatial axes, followed by flips.

    Attributes:
        axes: Output axis ``i`` is input axis ``axes[i]``.
        flips: Whether output axis ``i`` runs against the input axis that it comes from.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Reorder the last three axes of ``array``; the result is a view.

        Args:
            array: Shape (..., X, Y, Z).

        Example:
            >>> AxisMap((1, 0, 2), (True, False, False)).apply(np.array([[[1], [2]], [[3], [4]]]))[..., 0]
            array([[2, 4],
                   [1, 3]])
        """
        leading = array.ndim - 3
        order = [*range(leading), *(leading + axis for axis in self.axes)]
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        mapped: npt.NDArray[Scalar] = array.transpose(order)[(..., *steps)]  # type: ignore[arg-type]
        return mapped

    def inverse(self) -> AxisMap:
        """The map that undoes this one."""
        axes = tuple(self.axes.index(axis) for axis in range(3))
        flips = tuple(self.flips[position] for position in axes)
        return AxisMap(axes, flips)  # type: ignore[arg-type]

    def index_affine(self, shape: Sequence[int]) -> FloatArray:
        """The 4x4 matrix from output indices to input indices.

        Args:
            shape: The **input's** shape (X, Y, Z).
        """
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1.0
        for output_axis, (input_axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[input_axis, output_axis] = -1.0 if flip else 1.0
            matrix[input_axis, 3] = shape[input_axis] - 1 if flip else 0.0
        return matrix


def axis_map(source_axcodes: str, target_axcodes: str) -> AxisMap:
    """How axes must be permuted and flipped to go from one orientation to another.

    Example:
        >>> axis_map("LPS", "RAS")
        AxisMap(axes=(0, 1, 2), flips=(True, True, False))
        >>> axis_map("PIR", "RAS")
        AxisMap(axes=(2, 0, 1), flips=(False, True, True))
    """
    source, target = parse_axcodes(source_axcodes), parse_axcodes(target_axcodes)
    axes, flips = [], []
    for code in target:
        flip = code not in source
        axes.append(source.index(_OPPOSITE[code] if flip else code))
        flips.append(flip)
    return AxisMap(tuple(axes), tuple(flips))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centres in the patient.

    Attributes:
        shape: Number of voxels (X, Y, Z).
        affine: 4x4, voxel index to RAS+ millimetres; stored in double precision, read-only.

    Raises:
        GeometryError: A size below one, an affine that is not finite, not invertible, or whose last row is
            not 0 0 0 1.

    Example:
        >>> grid = Grid((4, 5, 6), np.diag([-2.0, 2.0, 3.0, 1.0]))
        >>> grid.axcodes, grid.spacing_mm
        ('LAS', (2.0, 2.0, 3.0))
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"shape {shape} is not three positive sizes", fix="check the header")
        affine = np.array(self.affine, dtype=np.float64) + 0.0  # -0.0 would equal 0.0 but hash otherwise
        if affine.shape != (4, 4):
            raise GeometryError(f"affine has shape {affine.shape}, 4x4 is needed")
        if not np.isfinite(affine).all():
            raise GeometryError("affine or spacing is NaN or infinite", fix="repair the header")
        if not np.array_equal(affine[3], [0.0, 0.0, 0.0, 1.0]):
            raise GeometryError("the affine's last row is not 0 0 0 1", fix="repair the header")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if lengths.min() <= 0.0:
            raise GeometryError(f"spacing {_format_mm(lengths)} mm has a zero", fix="repair the header")
        if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
            raise GeometryError("the affine's axes lie in one plane", fix="repair the header")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        """Exact equality; ``difference`` compares within a tolerance."""
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def __reduce__(self) -> tuple[object, ...]:
        # An unpickled or deep-copied array would be writable, and a grid's hash must not change.
        return Grid, (self.shape, self.affine)

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each index axis, in millimetres."""
        return tuple(float(x) for x in np.linalg.norm(self.affine[:3, :3], axis=0))  # type: ignore[return-value]

    @cached_property
    def axcodes(self) -> str:
        """The anatomical direction nearest to each index axis, such as ``"RAS"``."""
        return "".join(aff2axcodes(self.affine))

    @property
    def origin_mm(self) -> FloatArray:
        """Centre of voxel (0, 0, 0) in RAS+ millimetres."""
        return self.affine[:3, 3]

    @cached_property
    def directions(self) -> FloatArray:
        """3x3, unit vectors of the index axes as columns."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.spacing_mm), dtype=np.float64)

    @cached_property
    def is_orthogonal(self) -> bool:
        """Whether the index axes are at right angles (no shear, as a tilted gantry leaves it)."""
        cosines = self.directions.T @ self.directions - np.eye(3)
        return bool(np.abs(cosines).max() <= SHEAR_TOLERANCE)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (exact for sheared grids too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def to_world(self, indices: npt.ArrayLike) -> FloatArray:
        """Indices (..., 3) to RAS+ millimetres (..., 3)."""
        return np.asarray(apply_affine(self.affine, indices), dtype=np.float64)

    def to_index(self, positions_mm: npt.ArrayLike) -> FloatArray:
        """RAS+ millimetres (..., 3) to (fractional) indices (..., 3)."""
        return np.asarray(apply_affine(np.linalg.inv(self.affine), positions_mm), dtype=np.float64)

    def corners_mm(self) -> FloatArray:
        """Centres of the eight corner voxels, (8, 3), in RAS+ millimetres."""
        ends = [(0, size - 1) for size in self.shape]
        return self.to_world(np.array(list(itertools.product(*ends))))

    def mapped(self, axes: AxisMap) -> Grid:
        """The grid of an array to which ``axes`` was applied."""
        shape = tuple(self.shape[axis] for axis in axes.axes)
        return Grid(shape, self.affine @ axes.index_affine(self.shape))  # type: ignore[arg-type]

    def reoriented(self, axcodes: str) -> Grid:
        """The same voxels, indexed in the orientation ``axcodes``."""
        return self.mapped(axis_map(self.axcodes, axcodes))

    def cropped(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """The part of this grid from index ``start`` to before ``stop``."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(np.asarray(start))
        return Grid(tuple(b - a for a, b in zip(start, stop, strict=True)), affine)  # type: ignore[arg-type]

    def resampled(self, spacing_mm: Sequence[float]) -> Grid:
        """A grid of the given spacing that encloses every voxel centre of this one.

        The axes' directions and the centre stay. The outermost new centres lie on or outside the outermost
        old ones (or inside by less than ``GRID_TOLERANCE_VOXELS``, where another voxel would serve nothing),
        so that what was computed on the new grid reaches every old voxel by interpolation alone; at most half
        a new voxel is added on either side. An axis that has the spacing already (within
        ``GRID_TOLERANCE_VOXELS`` over its length) is left as it is; a single slice keeps its thickness.

        Raises:
            ConfigError: A spacing is not positive.

        Example:
            >>> Grid((10, 10, 5), np.diag([1.0, 1.0, 4.0, 1.0])).resampled((2.0, 1.0, 2.0)).shape
            (6, 10, 9)
        """
        target = np.asarray(spacing_mm, dtype=np.float64)
        if target.shape != (3,) or not np.isfinite(target).all() or target.min() <= 0.0:
            raise ConfigError(f"spacing {tuple(spacing_mm)} mm is not three positive lengths")
        old = np.asarray(self.spacing_mm)
        intervals = np.asarray(self.shape) - 1
        exact = intervals * old / target
        new_intervals = np.ceil(exact - GRID_TOLERANCE_VOXELS).astype(int)
        unchanged = (new_intervals == intervals) & (np.abs(exact - intervals) <= GRID_TOLERANCE_VOXELS)
        spacing = np.where(unchanged, old, target)
        affine = self.affine.copy()
        affine[:3, :3] = self.directions * spacing
        affine[:3, 3] = self.to_world(intervals / 2) - affine[:3, :3] @ (new_intervals / 2)
        shape = tuple(int(n) + 1 for n in np.where(unchanged, intervals, new_intervals))
        if unchanged.all():
            return self
        return Grid(shape, affine)  # type: ignore[arg-type]

    def difference(self, other: Grid) -> str | None:
        """Say how ``other`` differs from this grid, or ``None`` if they agree within the tolerance.

        Example:
            >>> one = Grid((2, 2, 2), np.eye(4))
            >>> one.difference(Grid((2, 2, 2), np.diag([-1.0, 1.0, 1.0, 1.0])))
            'orientation LAS instead of RAS'
        """
        if self.shape != other.shape:
            return f"shape {_format_shape(other.shape)} instead of {_format_shape(self.shape)}"
        # Along an axis of one slice, the place of a second one tells thickness and direction.
        ends = np.array(list(itertools.product(*((0, max(size - 1, 1)) for size in self.shape))))
        displacement = float(np.linalg.norm(self.to_world(ends) - other.to_world(ends), axis=1).max())
        if displacement <= GRID_TOLERANCE_VOXELS * min(*self.spacing_mm, *other.spacing_mm):
            return None
        if self.axcodes != other.axcodes:
            return f"orientation {other.axcodes} instead of {self.axcodes}"
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-3):
            return f"spacing {_format_mm(other.spacing_mm)} mm instead of {_format_mm(self.spacing_mm)} mm"
        return f"a corner is displaced by {displacement:.3g} mm"


@dataclass(frozen=True)
class SlabMap:
    """How one axis of a target grid reads one axis of a source grid: ``source = scale * target + offset``.

    Attributes:
        source_axis: Which axis of the source this target axis runs along.
        source_length: Number of source voxels along it.
        target_length: Number of target voxels.
        scale: Source voxels per target voxel; negative where the axes run against each other.
        offset: Source index of target voxel 0.
    """

    source_axis: int
    source_length: int
    target_length: int
    scale: float
    offset: float

    @property
    def is_identity(self) -> bool:
        """Whether each target voxel is the source voxel of the same index."""
        return (
            self.source_length == self.target_length
            and abs(self.offset) <= GRID_TOLERANCE_VOXELS
            and abs(self.offset + (self.scale - 1.0) * (self.target_length - 1)) <= GRID_TOLERANCE_VOXELS
        )

    def source_positions(self, start: int, stop: int) -> FloatArray:
        """Fractional source indices of target voxels [start, stop), held within the source."""
        positions = self.scale * np.arange(start, stop, dtype=np.float64) + self.offset
        nearest = np.round(positions)
        # Rounding noise must not make a voxel read a neighbour that it does not need.
        positions = np.where(np.abs(positions - nearest) < 1e-6, nearest, positions)
        return np.asarray(np.clip(positions, 0.0, self.source_length - 1.0))

    def source_range(self, start: int, stop: int) -> tuple[int, int]:
        """Source voxels [first, last) that linear interpolation of target voxels [start, stop) reads."""
        positions = self.source_positions(start, stop)
        return int(np.floor(positions.min())), int(np.ceil(positions.max())) + 1


def slab_maps(source: Grid, target: Grid) -> tuple[SlabMap, SlabMap, SlabMap]:
    """One ``SlabMap`` per target axis, for grids whose axes are parallel.

    Raises:
        GeometryError: The grids are rotated against each other by more than a permutation and flips.

    Example:
        >>> fine, coarse = Grid((9, 9, 9), np.eye(4)), Grid((5, 5, 5), np.diag([2.0, 2.0, 2.0, 1.0]))
        >>> slab_maps(fine, coarse)[0].source_range(1, 3)
        (2, 5)
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    turn = matrix[:3, :3]
    source_axes = np.abs(turn).argmax(axis=0)
    maps = []
    for target_axis, source_axis in enumerate(source_axes):
        stray = np.delete(np.abs(turn[source_axis]), target_axis) @ np.delete(
            np.asarray(target.shape, dtype=np.float64), target_axis
        )
        if len(set(source_axes)) != 3 or stray > GRID_TOLERANCE_VOXELS:
            raise GeometryError(
                "the grids are rotated against each other", fix="resample one onto the other's axes first"
            )
        maps.append(
            SlabMap(
                source_axis=int(source_axis),
                source_length=source.shape[source_axis],
                target_length=target.shape[target_axis],
                scale=float(turn[source_axis, target_axis]),
                offset=float(matrix[source_axis, 3]),
            )
        )
    return maps[0], maps[1], maps[2]


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def _format_mm(lengths: Sequence[float] | npt.NDArray[Any]) -> str:
    return "x".join(f"{length:.4g}" for length in lengths)
