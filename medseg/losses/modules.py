"""Losses as modules, called ``(input, target, weight_map=None)`` with MONAI's options.

``input`` is (B, C, X, Y[, Z]). ``target`` is class indices (B, 1, X, Y[, Z]) with ``to_onehot_y=True``,
and memberships (B, C, X, Y[, Z]) without; ``weight_map`` is (B, 1, X, Y[, Z]). The options' defaults are
MONAI's too: ``softmax`` and ``to_onehot_y`` have to be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError, InputError
from medseg.losses.functional import (
    binary_cross_entropy,
    check_reduction,
    class_masks,
    cross_entropy,
    deep_supervision_weights,
    full_precision,
    nearest_resize,
    soft_dice_loss,
)

__all__ = ["DeepSupervisionLoss", "DiceCELoss", "DiceLoss", "WeightedCrossEntropyLoss"]


class DiceLoss(nn.Module):
    """Soft Dice loss.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Whether the target is class indices.
        sigmoid: Whether to turn scores into probabilities channel by channel.
        softmax: Whether to turn scores into probabilities over the channels.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: Whether to sum over the batch before dividing, which steadies small structures.
        weight: One factor a class.

    Raises:
        ConfigError: Both ``sigmoid`` and ``softmax``, or an unknown reduction.

    Example:
        >>> loss = DiceLoss(softmax=True, to_onehot_y=True)
        >>> scores = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
        >>> round(loss(scores, torch.tensor([[[[0, 1]]]])).item(), 4)
        0.0

    References:
        Milletari et al., V-Net, 3DV 2016.
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_one_activation(sigmoid, softmax)
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.softmax = softmax
        self.reduction = check_reduction(reduction)
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.batch = batch
        self.register_buffer("weight", _class_weights(weight), persistent=False)

    def forward(self, input: Tensor, target: Tensor, weight_map: Tensor | None = None) -> Tensor:
        """The loss of ``input`` against ``target``.

        Raises:
            InputError: Shapes or labels do not fit.
        """
        scores, target, weight_map = _prepare(input, target, weight_map, self.to_onehot_y)
        if self.softmax:
            _check_several_channels(scores)
            scores = functional.softmax(scores, dim=1)
        elif self.sigmoid:
            scores = torch.sigmoid(scores)
        return self.of_probabilities(scores, target, weight_map)

    def of_probabilities(
        self, probabilities: Tensor, target: Tensor, weight_map: Tensor | None = None
    ) -> Tensor:
        """The loss where probabilities are known already."""
        weight = self.weight
        if not self.include_background:
            weight = _foreground(weight, probabilities.shape[1])
        return soft_dice_loss(
            probabilities,
            target,
            weight_map,
            include_background=self.include_background,
            batch=self.batch,
            class_weights=weight,
            reduction=self.reduction,
            smooth_nr=self.smooth_nr,
            smooth_dr=self.smooth_dr,
        )


class WeightedCrossEntropyLoss(nn.Module):
    """Cross-entropy with a weight for every voxel and every class.

    Always of scores (logits), as torch's. Where classes exclude each other, which ``softmax`` says and
    which is the default, it is a softmax's; with ``sigmoid`` each channel is a yes or no of its own.

    Args:
        include_background: Whether channel 0 counts: with a softmax, whether voxels of class 0 do.
        to_onehot_y: Whether the target is class indices.
        sigmoid: Whether channels are independent.
        softmax: Whether classes exclude each other.
        reduction: ``"mean"`` (weighted), ``"sum"`` or ``"none"``.
        weight: One factor a class; with ``sigmoid`` of its positive part.

    Raises:
        ConfigError: Both ``sigmoid`` and ``softmax``, or an unknown reduction.

    Example:
        >>> loss = WeightedCrossEntropyLoss(to_onehot_y=True)
        >>> scores, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[[0, 1]]]])
        >>> round(loss(scores, target, weight_map=torch.tensor([[[[3.0, 0.0]]]])).item(), 4)
        0.6931

    References:
        Ronneberger, Fischer, Brox, U-Net, MICCAI 2015.
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_one_activation(sigmoid, softmax)
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.reduction = check_reduction(reduction)
        self.register_buffer("weight", _class_weights(weight), persistent=False)

    def forward(self, input: Tensor, target: Tensor, weight_map: Tensor | None = None) -> Tensor:
        """The loss of ``input`` (logits) against ``target``.

        Raises:
            InputError: Shapes or labels do not fit.
        """
        scores, target, weight_map = _prepare(input, target, weight_map, self.to_onehot_y)
        if not self.sigmoid:
            _check_several_channels(scores)
            return self.of_log_probabilities(functional.log_softmax(scores, dim=1), target, weight_map)
        classes = scores.shape[1]
        memberships = class_masks(target, classes) if self.to_onehot_y and classes > 1 else target
        weight = self.weight
        if not self.include_background:
            _check_several_channels(scores)
            scores, memberships = scores[:, 1:], memberships[:, 1:]
            weight = _foreground(weight, classes)
        return binary_cross_entropy(
            scores, memberships, weight_map, positive_weights=weight, reduction=self.reduction
        )

    def of_log_probabilities(
        self, log_probabilities: Tensor, target: Tensor, weight_map: Tensor | None = None
    ) -> Tensor:
        """The loss where the logarithms of a softmax are known already."""
        weight = self.weight
        if not self.include_background:
            weight = torch.ones(log_probabilities.shape[1]) if weight is None else weight.clone()
            weight[0] = 0.0
        return cross_entropy(
            log_probabilities, target, weight_map, class_weights=weight, reduction=self.reduction
        )


class DiceCELoss(nn.Module):
    """Soft Dice plus cross-entropy, from one softmax.

    The cross-entropy always has the background in it. Unlike MONAI's, ``sigmoid`` makes it a binary one
    for any number of channels, not for one alone.

    Args:
        include_background: Whether channel 0 counts in Dice.
        to_onehot_y: Whether the target is class indices.
        sigmoid: Whether channels are independent.
        softmax: Whether classes exclude each other.
        reduction: ``"mean"`` or ``"sum"``.
        smooth_nr: Added to Dice's numerator.
        smooth_dr: Added to Dice's denominator.
        batch: Whether Dice sums over the batch.
        weight: One factor a class, for both parts.
        lambda_dice: Factor of Dice.
        lambda_ce: Factor of the cross-entropy.

    Raises:
        ConfigError: Neither or both of ``sigmoid`` and ``softmax``, a negative factor, an unknown
            reduction.

    Example:
        >>> loss = DiceCELoss(softmax=True, to_onehot_y=True)
        >>> scores = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
        >>> round(loss(scores, torch.tensor([[[[0, 1]]]])).item(), 4)
        0.0
    """

    def __init__(
        self,
        *,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Sequence[float] | Tensor | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
    ) -> None:
        super().__init__()
        if not (sigmoid or softmax):
            raise ConfigError(
                "Dice needs probabilities, cross-entropy scores, and nothing says how one becomes the other",
                where="softmax",
                fix="pass softmax=True, or sigmoid=True for classes that overlap",
            )
        for name, value in (("lambda_dice", lambda_dice), ("lambda_ce", lambda_ce)):
            if value < 0.0:
                raise ConfigError(f"{value} is negative", where=name, fix="give 0 or more")
        check_reduction(reduction, ("mean", "sum"))
        self.lambda_dice = lambda_dice
        self.lambda_ce = lambda_ce
        self.dice = DiceLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=weight,
        )
        self.cross_entropy = WeightedCrossEntropyLoss(
            to_onehot_y=to_onehot_y, sigmoid=sigmoid, reduction=reduction, weight=weight
        )

    def forward(self, input: Tensor, target: Tensor, weight_map: Tensor | None = None) -> Tensor:
        """The loss of ``input`` (logits) against ``target``; ``weight_map`` counts in both parts.

        Raises:
            InputError: Shapes or labels do not fit.
        """
        if self.dice.sigmoid:
            dice = self.dice(input, target, weight_map)
            entropy = self.cross_entropy(input, target, weight_map)
        else:
            scores, target, weight_map = _prepare(input, target, weight_map, self.dice.to_onehot_y)
            _check_several_channels(scores)
            log_p = functional.log_softmax(scores, dim=1)
            dice = self.dice.of_probabilities(log_p.exp(), target, weight_map)
            entropy = self.cross_entropy.of_log_probabilities(log_p, target, weight_map)
        total: Tensor = self.lambda_dice * dice + self.lambda_ce * entropy
        return total


class DeepSupervisionLoss(nn.Module):
    """A loss over several levels: targets come down to each level's grid by the nearest voxel.

    Args:
        loss: What to compute at each level, called ``(input, target, weight_map)``.
        weights: One a level, the finest first; if not given each is half the one before, together one.

    Example:
        >>> loss = DeepSupervisionLoss(DiceCELoss(softmax=True, to_onehot_y=True))
        >>> target = torch.tensor([[0, 0, 1, 1]]).expand(1, 1, 4, 4)
        >>> fine, coarse = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
        >>> round(loss([fine, coarse], target).item(), 4)
        1.1931
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)

    def forward(
        self, inputs: Sequence[Tensor] | Tensor, target: Tensor, weight_map: Tensor | None = None
    ) -> Tensor:
        """The weighted sum over levels.

        Args:
            inputs: Scores of each level, each (B, C, X, Y[, Z]) on its own grid, the finest first; one
                tensor is one level.
            target: On the finest grid.
            weight_map: On the finest grid.

        Raises:
            ConfigError: There are not as many weights as levels.
            InputError: There is no level, or shapes do not fit.
        """
        levels = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if not levels:
            raise InputError("holds no level", where="inputs", fix="pass one score map or more")
        weights = deep_supervision_weights(len(levels)) if self.weights is None else self.weights
        if len(weights) != len(levels):
            raise ConfigError(
                f"{len(weights)} weights for {len(levels)} levels", where="weights", fix="give one a level"
            )
        terms = []
        for weight, scores in zip(weights, levels, strict=True):
            size = scores.shape[2:]
            voxel_weights = None if weight_map is None else nearest_resize(weight_map, size)
            terms.append(weight * self.loss(scores, nearest_resize(target, size), voxel_weights))
        return torch.stack(terms).sum()


def _check_one_activation(sigmoid: bool, softmax: bool) -> None:
    if sigmoid and softmax:
        raise ConfigError("sigmoid and softmax exclude each other", where="softmax", fix="choose one of them")


def _class_weights(weight: Sequence[float] | Tensor | None) -> Tensor | None:
    return None if weight is None else torch.as_tensor(weight, dtype=torch.float32)


def _foreground(weight: Tensor | None, classes: int) -> Tensor | None:
    """Without the background's factor, if it is there."""
    return weight[1:] if weight is not None and len(weight) == classes else weight


def _check_several_channels(scores: Tensor) -> None:
    if scores.shape[1] == 1:
        raise InputError(
            "has one channel, where a background and a class are needed",
            where="input",
            fix="pass sigmoid=True and keep the background, or give the network two output channels",
        )


def _prepare(
    input: Tensor, target: Tensor, weight_map: Tensor | None, indices: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Plain tensors, the scores in full precision; refuse shapes that torch would broadcast wrongly."""
    channels = 1 if indices else input.shape[1]
    wanted = (input.shape[0], channels, *input.shape[2:])
    if tuple(target.shape) != wanted:
        one_channel = target.shape[1:2] == (1,) and not indices
        fix = "pass to_onehot_y=True for class indices" if one_channel else "bring both onto one grid"
        raise InputError(
            f"has shape {tuple(target.shape)}, {wanted} fits the input's {tuple(input.shape)}",
            where="target",
            fix=fix,
        )
    if weight_map is not None and tuple(weight_map.shape) != (input.shape[0], 1, *input.shape[2:]):
        raise InputError(
            f"has shape {tuple(weight_map.shape)}, {(input.shape[0], 1, *input.shape[2:])} is needed",
            where="weight_map",
            fix="give one weight for each voxel of the target",
        )
    weights = None if weight_map is None else _plain(weight_map)
    return full_precision(_plain(input)), _plain(target), weights


def _plain(tensor: Tensor) -> Tensor:
    """Without what a subclass, such as MONAI's MetaTensor, does on every operation."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)
