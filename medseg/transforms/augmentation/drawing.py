"""Drawing what is done to a patch: which changes, and how far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError
from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms.augmentation.draws import (
    BIAS_TERMS,
    BiasFieldDraw,
    ElasticDraw,
    GammaDraw,
    GhostingDraw,
    IntensityDraw,
    MotionDraw,
    NoiseDraw,
    PatchDraw,
    SpatialDraw,
    Triple,
)
from medseg.transforms.augmentation.margins import control_points, thin_axes, turning_planes, within_turns
from medseg.transforms.augmentation.mirroring import mirror_axes, swapped_classes

__all__ = ["Augmenter"]

_GHOSTS = (2, 5)
_LEAST_GHOSTING = 0.2
_MOVES = (1, 3)

Generator = np.random.Generator


class Augmenter:
    """Draws what is done to the patches of one data set.

    Args:
        choice: What is drawn, and how far.
        patch_size: Shape (X, Y, Z) of the patches that come out.
        axcodes: Orientation of the patches.
        labels: The classes; where they have sides, ``choice.mirror_sides`` says what becomes of them.
        ct_channels: For each channel of the image whether it is CT, which has none of MR's artefacts.
        spacing_mm: Spacing along each axis; equal along all of them if left out. Where slices are thick,
            patches are turned within them alone, and neither blurred nor made coarser across them.

    Raises:
        ConfigError: Patches have no voxels, there are no channels, a spacing is not positive, or left and
            right shall be mirrored where labels cannot follow.

    Example:
        >>> labels = LabelScheme.from_names({1: "left kidney", 2: "right kidney"})
        >>> patch_size = (32, 32, 16)
        >>> facts = {"axcodes": "RAS", "labels": labels, "ct_channels": (True,)}
        >>> augmenter = Augmenter(Augmentation(), patch_size, **facts)
        >>> draw = augmenter.draw(np.random.default_rng(0))
        >>> draw == augmenter.draw(np.random.default_rng(0))
        True
    """

    def __init__(
        self,
        choice: Augmentation,
        patch_size: Sequence[int],
        *,
        axcodes: str,
        labels: LabelScheme,
        ct_channels: Sequence[bool],
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise ConfigError(f"{tuple(patch_size)} is no shape", where="patch_size", fix="give three sizes")
        if not ct_channels:
            raise ConfigError("there are no channels", where="ct_channels", fix="give one entry per channel")
        spacing = (1.0, 1.0, 1.0) if spacing_mm is None else tuple(float(step) for step in spacing_mm)
        if len(spacing) != 3 or not all(0.0 < step < math.inf for step in spacing):
            raise ConfigError(
                f"{spacing} is no spacing", where="spacing_mm", fix="give three positive numbers"
            )
        self.choice = choice
        self.patch_size = (int(patch_size[0]), int(patch_size[1]), int(patch_size[2]))
        self.ct_channels = tuple(ct_channels)
        self.spacing_mm = spacing
        self.axes = mirror_axes(choice, axcodes, labels)
        self._swapped = swapped_classes(labels)
        self._left_right = next(axis for axis, code in enumerate(axcodes) if code in "LR")
        self._planes = turning_planes(spacing)
        self._thin = thin_axes(spacing)
        self._finest = min(spacing)

    @property
    def nothing(self) -> PatchDraw:
        """A draw that changes nothing."""
        return PatchDraw(SpatialDraw(self.patch_size), (IntensityDraw(),) * len(self.ct_channels))

    def draw(self, generator: Generator) -> PatchDraw:
        """What is done to one patch."""
        spatial = self._draw_spatial(generator)
        return PatchDraw(spatial, tuple(self._draw_intensity(generator, ct) for ct in self.ct_channels))

    def _draw_spatial(self, generator: Generator) -> SpatialDraw:
        choice = self.choice
        matrix = elastic = None
        if _happens(generator, choice.spatial_probability):
            angles = [
                _between(generator, choice.rotation_degrees) if turns else 0.0 for turns in self._planes
            ]
            factors = [1.0 + _between(generator, choice.scale) for _ in range(3)]
            matrix = within_turns(np.radians(angles), factors, self.spacing_mm)
        if _happens(generator, choice.elastic_probability):
            elastic = self._draw_elastic(generator)
        flips = [axis in self.axes and _happens(generator, 0.5) for axis in range(3)]
        crosses = flips[self._left_right]
        return SpatialDraw(
            self.patch_size,
            None if matrix is None else _rows(matrix),
            elastic,
            (flips[0], flips[1], flips[2]),
            self._swapped if crosses else None,
        )

    def _draw_elastic(self, generator: Generator) -> ElasticDraw:
        points, steps_voxels = control_points(self.patch_size, self.spacing_mm)
        moves = generator.uniform(-1.0, 1.0, (3, math.prod(points)))
        moves *= self.choice.elastic * np.asarray(steps_voxels)[:, None]
        return ElasticDraw(points, tuple(moves.ravel().tolist()))

    def _draw_intensity(self, generator: Generator, ct: bool) -> IntensityDraw:
        choice = self.choice
        motion = ghosting = bias_field = None
        if not ct:
            if _happens(generator, choice.motion_probability):
                motion = self._draw_motion(generator)
            if _happens(generator, choice.ghosting_probability):
                loss = generator.uniform(min(_LEAST_GHOSTING, choice.ghosting), choice.ghosting)
                period = int(generator.integers(_GHOSTS[0], _GHOSTS[1] + 1))
                ghosting = GhostingDraw(int(generator.choice(self._thin)), period, float(loss))
            if _happens(generator, choice.bias_field_probability):
                terms = generator.uniform(-1.0, 1.0, len(BIAS_TERMS)).tolist()
                bias_field = BiasFieldDraw(tuple(terms), float(generator.uniform(0.0, choice.bias_field)))
        blur = coarse = noise = gamma = None
        if _happens(generator, choice.blur_probability):
            blur = self._along_axes(float(generator.uniform(*choice.blur_sigma_voxels)))
        if _happens(generator, choice.low_resolution_probability):
            side = float(generator.uniform(1.0, choice.low_resolution_voxels))
            x, y, z = (max(1.0, voxels) for voxels in self._along_axes(side))
            coarse = (x, y, z)
        if _happens(generator, choice.noise_probability):
            std = float(generator.uniform(0.0, choice.noise_std))
            noise = NoiseDraw(std, int(generator.integers(2**63)))
        brightness = self._draw_factor(generator, choice.brightness_probability, choice.brightness)
        contrast = self._draw_factor(generator, choice.contrast_probability, choice.contrast)
        if _happens(generator, choice.gamma_probability):
            inverted = _happens(generator, choice.gamma_inverted)
            gamma = GammaDraw(_exponent(generator, *choice.gamma_range), inverted)
        return IntensityDraw(motion, ghosting, blur, coarse, bias_field, noise, brightness, contrast, gamma)

    def _draw_motion(self, generator: Generator) -> MotionDraw:
        phase = int(generator.choice(self._thin))
        others = [axis for axis in self._thin if axis != phase] or [
            axis for axis in range(3) if axis != phase
        ]
        readout = int(generator.choice(others))
        moves = int(generator.integers(_MOVES[0], _MOVES[1] + 1))
        times = tuple(sorted(generator.uniform(0.0, 1.0, moves).tolist()))
        reach = self._along_axes(self.choice.motion_voxels)
        places = tuple(
            (_between(generator, reach[phase]), _between(generator, reach[readout])) for _ in range(moves + 1)
        )
        return MotionDraw(phase, readout, times, places)

    def _along_axes(self, voxels: float) -> Triple:
        """A length in voxels of the finest axis, in those of each."""
        x, y, z = (voxels * self._finest / step for step in self.spacing_mm)
        return x, y, z

    @staticmethod
    def _draw_factor(generator: Generator, probability: float, change: float) -> float | None:
        return 1.0 + _between(generator, change) if _happens(generator, probability) else None


def _happens(generator: Generator, probability: float) -> bool:
    return bool(generator.random() < probability)


def _between(generator: Generator, limit: float) -> float:
    return float(generator.uniform(-limit, limit))


def _exponent(generator: Generator, low: float, high: float) -> float:
    """Below and above 1 equally often, where the range holds 1."""
    if low < 1.0 < high:
        return float(
            generator.uniform(low, 1.0) if generator.random() < 0.5 else generator.uniform(1.0, high)
        )
    return float(generator.uniform(low, high))


def _rows(matrix: npt.NDArray[np.float64]) -> tuple[Triple, Triple, Triple]:
    x, y, z = ((float(row[0]), float(row[1]), float(row[2])) for row in matrix)
    return x, y, z
