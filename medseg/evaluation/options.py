"""What is measured, and how: one object that travels with the work and into the summary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medseg.errors import ConfigError
from medseg.metrics import DistanceCriterion, OverlapCriterion

__all__ = ["ScoringOptions"]

_ANY_COMMON_VOXEL = OverlapCriterion()


@dataclass(frozen=True)
class ScoringOptions:
    """How label maps are scored.

    Attributes:
        surface: How surfaces are measured: ``"area"`` weighs surface elements by their area (Nikolov 2018),
            ``"voxels"`` takes the centres of boundary voxels, as MONAI does; ``None`` leaves surfaces out,
            which is several times faster.
        percentile: Of the distances between surfaces, for the robust Hausdorff distance; above 0, up to 100.
        tolerance_mm: Surfaces nearer than this agree, for the normalised surface distance.
        lesions: Values of the classes whose connected components are counted and matched one by one.
        lesion_criterion: When a lesion counts as found: by overlap (any common voxel, if not told otherwise)
            or by distance.
        smallest_lesion_ml: Smaller components are left out, of references and predictions alike.
        resample_prediction: Bring a prediction that lies on another grid onto its reference's by nearest
            neighbour, instead of refusing it.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        >>> ScoringOptions(percentile=100.0).hausdorff_name
        'hd100_mm'
    """

    surface: Literal["area", "voxels"] | None = "area"
    percentile: float = 95.0
    tolerance_mm: float = 1.0
    lesions: tuple[int, ...] = ()
    lesion_criterion: OverlapCriterion | DistanceCriterion = _ANY_COMMON_VOXEL
    smallest_lesion_ml: float = 0.0
    resample_prediction: bool = False

    def __post_init__(self) -> None:
        if self.surface not in ("area", "voxels", None):
            raise ConfigError(f"surface '{self.surface}' is unknown", fix="choose 'area' or 'voxels'")
        if not 0.0 < self.percentile <= 100.0:
            raise ConfigError(
                f"percentile {self.percentile:g} is not above 0 and up to 100", fix="the usual one is 95"
            )
        if not (math.isfinite(self.tolerance_mm) and self.tolerance_mm >= 0.0):
            raise ConfigError(f"tolerance {self.tolerance_mm:g} mm is no length", fix="give 0 or more")
        if not (math.isfinite(self.smallest_lesion_ml) and self.smallest_lesion_ml >= 0.0):
            raise ConfigError(
                f"{self.smallest_lesion_ml:g} ml is no volume of a lesion", fix="give 0 or more"
            )

    @property
    def hausdorff_name(self) -> str:
        """What tables call the percentile of surface distances: ``hd95_mm``, or as was asked for."""
        return self.column("hd95_mm")

    def column(self, attribute: str) -> str:
        """How tables call an attribute of a ``Score``: a percentile other than 95 is not called 95."""
        return attribute.replace("hd95_", f"hd{self.percentile:g}_")
