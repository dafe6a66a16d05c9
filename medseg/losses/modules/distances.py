"""Losses that count an error by its distance from the border."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from medseg.errors import ConfigError
from medseg.losses.functional.common import check_not_negative, reduce_classes, weigh_classes
from medseg.losses.functional.distances import boundary_errors, hausdorff_errors
from medseg.losses.modules.base import Comparison, LossOptions, SegmentationLoss

__all__ = ["BoundaryLoss", "DistanceLoss", "HausdorffDTLoss"]


class DistanceLoss(SegmentationLoss):
    """A mean over voxels of errors that weigh as much as they are far from a border.

    Without ``softmax`` or ``sigmoid`` the input is probabilities. Distances are computed on the CPU, class
    by class, which takes its time (:mod:`medseg.losses.functional.distances`). A voxel that is ignored, or
    of weight zero, is neither counted nor measured to: its side of the border is not known.

    Args:
        spacing_mm: Size of a voxel along each axis; distances are in voxels if not given. Under
            :class:`~medseg.losses.DeepSupervisionLoss` it is the finest level's.
        **options: As for :class:`~medseg.losses.SegmentationLoss`.

    Raises:
        ConfigError: A spacing is not positive, or (once the input is seen) there is not one for each axis.
    """

    def __init__(self, *, spacing_mm: Sequence[float] | None = None, **options: Unpack[LossOptions]) -> None:
        super().__init__(**options)
        self.spacing_mm = None if spacing_mm is None else tuple(float(size) for size in spacing_mm)
        if self.spacing_mm is not None and not all(size > 0.0 for size in self.spacing_mm):
            raise ConfigError(
                f"{self.spacing_mm} are no sizes of voxels",
                where="spacing_mm",
                fix="give positive ones, in mm",
            )

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of what has been checked."""
        first = 0 if self.include_background else 1
        errors = self.errors(
            comparison.probabilities[:, first:],
            comparison.memberships[:, first:],
            comparison.weight_map,
            self._spacing(comparison.voxel_scale),
        )
        errors = weigh_classes(errors, self.class_weights(comparison.channels))
        return self.share(reduce_classes(errors, self.reduction, spatial_dims=comparison.scores.dim() - 2))

    @abstractmethod
    def errors(
        self, probabilities: Tensor, target: Tensor, weight_map: Tensor | None, spacing_mm: tuple[float, ...]
    ) -> Tensor:
        """The mean error of every image and class, shape (B, C)."""

    def _spacing(self, voxel_scale: tuple[float, ...]) -> tuple[float, ...]:
        if self.spacing_mm is None:
            return voxel_scale
        if len(self.spacing_mm) != len(voxel_scale):
            raise ConfigError(
                f"{len(self.spacing_mm)} spacings for {len(voxel_scale)} axes",
                where="spacing_mm",
                fix="give one in mm for each axis",
            )
        return tuple(size * scale for size, scale in zip(self.spacing_mm, voxel_scale, strict=True))


class BoundaryLoss(DistanceLoss):
    """Boundary loss: errors weighted by the distance to the target's border.

    Zero where all is right. Errors next to the border hardly count, so it is meant to be added to a loss of
    regions: see :class:`~medseg.losses.DiceBoundaryLoss`. MONAI's and the paper's differ by a constant, by
    one voxel inside (they count the border's inner voxels as 0 and its outer ones as 1, here both are 1),
    and where a class is absent or everywhere: theirs is then zero whatever is predicted, here what is wrong
    counts with the image's diagonal.

    Args:
        **options: As for :class:`~medseg.losses.modules.distances.DistanceLoss`.

    Example:
        >>> import torch
        >>> loss = BoundaryLoss(spacing_mm=(1.0, 2.0))
        >>> p = torch.tensor([[[[1.0, 0.0, 0.0, 0.5]]]])
        >>> loss(p, torch.tensor([[[[True, False, False, False]]]])).item()
        0.75

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019.
    """

    def errors(
        self, probabilities: Tensor, target: Tensor, weight_map: Tensor | None, spacing_mm: tuple[float, ...]
    ) -> Tensor:
        """The mean of signed distance times error."""
        return boundary_errors(probabilities, target, weight_map, spacing_mm=spacing_mm)


class HausdorffDTLoss(DistanceLoss):
    """Hausdorff loss by distance transforms: squared errors weighted by how far from both borders they are.

    MONAI's knows no spacing, leaves the background out unless asked, truncates distances to whole numbers
    where the target is one, and is zero where neither target nor prediction has a border; here an error then
    counts with the image's diagonal.

    Args:
        alpha: How much more far errors count than near ones.
        **options: As for :class:`~medseg.losses.modules.distances.DistanceLoss`.

    Raises:
        ConfigError: ``alpha`` is negative.

    Example:
        >>> import torch
        >>> loss = HausdorffDTLoss()
        >>> p = torch.tensor([[[[1.0, 0.0, 0.0, 0.4]]]])
        >>> round(loss(p, torch.tensor([[[[1, 0, 0, 0]]]])).item(), 4)
        0.72

    References:
        Karimi, Salcudean, Reducing the Hausdorff distance in medical image segmentation with convolutional
        neural networks, IEEE TMI 39(2), 2020.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        spacing_mm: Sequence[float] | None = None,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(spacing_mm=spacing_mm, **options)
        check_not_negative(alpha=alpha)
        self.alpha = float(alpha)

    def errors(
        self, probabilities: Tensor, target: Tensor, weight_map: Tensor | None, spacing_mm: tuple[float, ...]
    ) -> Tensor:
        """The mean of squared error times both distances' powers."""
        return hausdorff_errors(probabilities, target, weight_map, spacing_mm=spacing_mm, alpha=self.alpha)
