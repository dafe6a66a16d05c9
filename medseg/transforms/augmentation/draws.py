"""What was drawn for one patch: plain numbers, so that a draw can be compared, logged and applied again.

Everything that is random about a changed patch is in here; applying a draw asks no generator but the one that
a noise's own seed makes.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from medseg.errors import InputError

__all__ = [
    "BiasFieldDraw",
    "ElasticDraw",
    "GammaDraw",
    "GhostingDraw",
    "IntensityDraw",
    "MotionDraw",
    "NoiseDraw",
    "PatchDraw",
    "SpatialDraw",
]

Triple = tuple[float, float, float]
Matrix = tuple[Triple, Triple, Triple]

IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

BIAS_ORDER = 3
BIAS_TERMS = tuple(
    powers for powers in itertools.product(range(BIAS_ORDER + 1), repeat=3) if 1 <= sum(powers) <= BIAS_ORDER
)
"""Powers of x, y and z of each term of a bias field."""

ROUNDING = 1e-3
"""Voxels by which a position, computed in single precision, may miss what it was meant to be."""


@dataclass(frozen=True)
class ElasticDraw:
    """A deformation: movements of control points, between which a cubic B-spline interpolates.

    The points lie evenly over the patch, one step beyond it on either side.

    Attributes:
        points: Control points along each axis, at least 4.
        voxels: Movements in voxels of what is read: those along the first axis for all points, last axis
            fastest, then those along the second, then the third.
    """

    points: tuple[int, int, int]
    voxels: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.points) < 4 or len(self.voxels) != 3 * math.prod(self.points):
            raise InputError(
                f"a deformation has {self.points} points and {len(self.voxels)} numbers",
                fix="give at least 4 points along each axis, and 3 numbers for each",
            )

    @functools.cached_property
    def reach(self) -> Triple:
        """The largest movement along each axis; the spline between the points moves no further."""
        count = math.prod(self.points)
        parts = (self.voxels[axis * count : (axis + 1) * count] for axis in range(3))
        first, second, third = (max(abs(value) for value in part) for part in parts)
        return first, second, third


@dataclass(frozen=True)
class SpatialDraw:
    """Where a patch is read: one resampling, whatever is put together in it, or none.

    Attributes:
        patch_size: Voxels along each axis of what comes out.
        matrix: From a voxel's offset from the middle of the flipped patch to its offset from the middle of
            what is read, in voxels; ``None`` for no movement.
        elastic: Added to that.
        mirrored: Along which axes the patch is flipped.
        swapped: What each class becomes, by index; ``None`` where all stay what they are.
    """

    patch_size: tuple[int, int, int]
    matrix: Matrix | None = None
    elastic: ElasticDraw | None = None
    mirrored: tuple[bool, bool, bool] = (False, False, False)
    swapped: tuple[int, ...] | None = None

    @property
    def resamples(self) -> bool:
        """Whether voxels are interpolated."""
        return self.matrix is not None or self.elastic is not None

    @functools.cached_property
    def margin(self) -> tuple[int, int, int]:
        """Voxels to read on either side of the patch, so that all of it is filled with image.

        Example:
            >>> SpatialDraw((8, 8, 8), ((1.5, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.5))).margin
            (2, 0, 0)
        """
        if not self.resamples:
            return (0, 0, 0)
        halves = [(size - 1) / 2 for size in self.patch_size]
        first, second, third = (
            max(0, math.ceil(reach - half - ROUNDING)) for reach, half in zip(self.reach, halves, strict=True)
        )
        return first, second, third

    @functools.cached_property
    def reach(self) -> Triple:
        """How far from the middle of what is read voxels come from, along each axis, at most; in voxels."""
        halves = [(size - 1) / 2 for size in self.patch_size]
        matrix = IDENTITY if self.matrix is None else self.matrix
        bends = (0.0, 0.0, 0.0) if self.elastic is None else self.elastic.reach
        first, second, third = (
            bend + sum(abs(entry) * half for entry, half in zip(row, halves, strict=True))
            for row, bend in zip(matrix, bends, strict=True)
        )
        return first, second, third


@dataclass(frozen=True)
class MotionDraw:
    """A patient who moves while lines of k-space are acquired, from one end of the phase-encoding axis on.

    Attributes:
        phase_axis: Spatial axis along which lines are acquired one after another.
        readout_axis: The axis along each line.
        times: When the patient moves, as parts of the acquisition, rising.
        voxels: Where the patient lies before the first movement and after each, along the phase-encoding
            and the readout axis.
    """

    phase_axis: int
    readout_axis: int
    times: tuple[float, ...]
    voxels: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class GhostingDraw:
    """Faint copies of an image, from lines of k-space that are periodically weaker.

    Attributes:
        axis: Spatial axis along which the copies lie.
        period: Every how many lines one is weaker; as many copies there are, the image itself among them.
        loss: Part of such a line that is lost.
    """

    axis: int
    period: int
    loss: float


@dataclass(frozen=True)
class BiasFieldDraw:
    """A smooth factor of the intensities above the smallest: the exponential of a polynomial of third order.

    Attributes:
        coefficients: Of the terms x^i y^j z^k with 1 <= i + j + k <= 3, in the order of (i, j, k); positions
            go from -1 to 1 over the patch.
        strength: Logarithm of the largest factor, or of the inverse of the smallest.
    """

    coefficients: tuple[float, ...]
    strength: float

    def __post_init__(self) -> None:
        if len(self.coefficients) != len(BIAS_TERMS):
            raise InputError(
                f"a bias field has {len(self.coefficients)} coefficients, {len(BIAS_TERMS)} are needed"
            )


@dataclass(frozen=True)
class NoiseDraw:
    """Gaussian noise.

    Attributes:
        std: Its standard deviation.
        seed: Of the generator that makes it, on the patch's device: a GPU makes another noise of a seed.
    """

    std: float
    seed: int


@dataclass(frozen=True)
class GammaDraw:
    """A power of the intensities between their smallest (0) and largest (1); mean and deviation are kept.

    Attributes:
        exponent: Of the power.
        inverted: Whether it is that of the negative.
    """

    exponent: float
    inverted: bool


@dataclass(frozen=True)
class IntensityDraw:
    """What is done to one channel, in this order; ``None`` for each that is not done.

    Attributes:
        motion: The patient moves.
        ghosting: Faint copies.
        blur_voxels: Standard deviation of a Gaussian along each axis.
        low_resolution: Side of larger voxels along each axis, in voxels; 1 leaves an axis as it is.
        bias_field: Smooth change of brightness.
        noise: Noise.
        brightness: Factor of all intensities.
        contrast: Factor of their distances to the mean.
        gamma: A power of them.
    """

    motion: MotionDraw | None = None
    ghosting: GhostingDraw | None = None
    blur_voxels: Triple | None = None
    low_resolution: Triple | None = None
    bias_field: BiasFieldDraw | None = None
    noise: NoiseDraw | None = None
    brightness: float | None = None
    contrast: float | None = None
    gamma: GammaDraw | None = None


@dataclass(frozen=True)
class PatchDraw:
    """All that is done to a patch.

    Attributes:
        spatial: To image, label and weights alike.
        channels: To each channel of the image.

    Example:
        >>> draw = PatchDraw(SpatialDraw((8, 8, 4)), (IntensityDraw(brightness=1.25),))
        >>> PatchDraw.from_json(draw.to_json()) == draw
        True
    """

    spatial: SpatialDraw
    channels: tuple[IntensityDraw, ...]

    def to_json(self) -> str:
        """The draw as JSON, without loss."""
        return _adapter().dump_json(self, exclude_none=True).decode()

    @classmethod
    def from_json(cls, text: str) -> PatchDraw:
        """A draw that ``to_json`` wrote.

        Raises:
            InputError: It is none.
        """
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(
                f"is no draw: {place} {first['msg']}".strip(), fix="use PatchDraw.to_json"
            ) from error


@functools.cache
def _adapter() -> TypeAdapter[PatchDraw]:
    return TypeAdapter(PatchDraw)
