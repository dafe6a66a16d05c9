"""What every loss shares: its options, its checks, and what it is given once they are passed."""

from __future__ import annotations

import inspect
import operator
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import ConfigError, InputError
from medseg.losses.functional.common import check_indices, check_reduction, class_masks, full_precision
from medseg.processes import process_count

__all__ = ["Comparison", "LossOptions", "SegmentationLoss"]


class LossOptions(TypedDict, total=False):
    """The options of every loss; :class:`SegmentationLoss` says what they mean."""

    include_background: bool
    to_onehot_y: bool
    sigmoid: bool
    softmax: bool
    reduction: str
    weight: Sequence[float] | Tensor | None
    ignore_index: int | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores beside what they should be, checked and in full precision.

    Attributes:
        scores: Shape (B, C, X, Y[, Z]).
        target: Class indices, shape (B, 1, X, Y[, Z]), or memberships, shape (B, C, X, Y[, Z]); of one
            channel both are the same.
        weight_map: Shape (B, 1, X, Y[, Z]), zero where a voxel is ignored.
        activation: ``"softmax"``, ``"sigmoid"``, or None where the scores are probabilities already.
        voxel_scale: How large a voxel is along each axis, the finest level's being one.
    """

    scores: Tensor
    target: Tensor
    weight_map: Tensor | None
    activation: str | None
    voxel_scale: tuple[float, ...]

    @property
    def channels(self) -> int:
        """How many channels the scores have."""
        return self.scores.shape[1]

    @cached_property
    def log_probabilities(self) -> Tensor:
        """The logarithms of a softmax."""
        return functional.log_softmax(self.scores, dim=1)

    @cached_property
    def probabilities(self) -> Tensor:
        """As the activation makes them; of a softmax whose logarithms are known, no second one is made."""
        if self.activation == "sigmoid":
            return torch.sigmoid(self.scores)
        if self.activation != "softmax":
            return self.scores
        if "log_probabilities" in self.__dict__:
            return self.log_probabilities.exp()
        return torch.softmax(self.scores, dim=1)

    @cached_property
    def memberships(self) -> Tensor:
        """The target with a channel for each of the scores'."""
        if self.target.shape[1] == self.channels:
            return self.target
        return class_masks(self.target, self.channels)


class SegmentationLoss(nn.Module):
    """A loss of class scores, called ``(input, target, weight_map=None)``.

    Whoever writes one gives ``compare``, and takes these options on as ``**options: Unpack[LossOptions]``:
    what a class takes is then read off its own constructor and that of the class it derives from, or the
    one that it names by ``options_of``.

    Args:
        include_background: Whether channel 0 counts.
        to_onehot_y: Whether the target is class indices.
        sigmoid: Whether to turn scores into probabilities channel by channel.
        softmax: Whether to turn scores into probabilities over the channels.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight: One factor a class, with or without one for a background that does not count.
        ignore_index: The label of voxels that are not to count, a class's or another: it is as if they were
            not there, which a weight of zero says as well. Of memberships those where that class's is
            above 1/2, or, if it is no class's, where all channels hold this value.

    Attributes:
        over_processes: Set it where each of several processes has a part of the batch and all compute their
            loss at once: the mean of their losses, and of the gradients, is then that of the whole batch.

    Raises:
        ConfigError: Both ``sigmoid`` and ``softmax``, an unknown reduction, or a negative factor.
    """

    __signature__: ClassVar[inspect.Signature]
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
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if sigmoid and softmax:
            raise ConfigError(
                "sigmoid and softmax exclude each other", where="softmax", fix="choose one of them"
            )
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.activation = "sigmoid" if sigmoid else "softmax" if softmax else None
        self.reduction = check_reduction(reduction)
        self.ignore_index = None if ignore_index is None else operator.index(ignore_index)
        self.over_processes = False
        self.register_buffer("weight", _class_weights(weight), persistent=False)

    def __init_subclass__(cls, options_of: type[SegmentationLoss] | None = None) -> None:
        """Spell out the inherited options where the constructor is looked at."""
        super().__init_subclass__()
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
            inherited = inspect.signature(options_of or cls.__mro__[1]).parameters.values()
            own = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
            names = {parameter.name for parameter in own}
            own += [parameter for parameter in inherited if parameter.name not in names]
        cls.__signature__ = inspect.Signature(sorted(own, key=lambda parameter: parameter.kind))

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight_map: Tensor | None = None,
        *,
        voxel_scale: Sequence[float] | None = None,
    ) -> Tensor:
        """The loss of ``input`` against ``target``.

        Args:
            input: Scores, shape (B, C, X, Y[, Z]).
            target: Class indices (B, 1, X, Y[, Z]) with ``to_onehot_y``, else memberships (B, C, X, Y[, Z]).
            weight_map: A factor for each voxel, shape (B, 1, X, Y[, Z]).
            voxel_scale: How large a voxel is along each axis, the finest level's being one, for what is
                measured in millimetres; :class:`~medseg.losses.DeepSupervisionLoss` knows.

        Raises:
            InputError: Shapes or labels do not fit.
            ConfigError: There are not as many class weights as classes.
        """
        return self.compare(self._prepare(input, target, weight_map, voxel_scale))

    @abstractmethod
    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of what has been checked."""

    def class_weights(self, channels: int) -> Tensor | None:
        """A factor for each of the channels that count.

        Raises:
            ConfigError: There are not as many as those.
        """
        counted = channels if self.include_background else channels - 1
        if self.weight is not None and len(self.weight) not in (channels, counted):
            raise ConfigError(
                f"{len(self.weight)} factors for {counted} classes", where="weight", fix="give one a class"
            )
        return None if self.weight is None else self.weight[-counted:]

    def share(self, loss: Tensor) -> Tensor:
        """A loss that is reduced image by image, made one whose mean over processes is that of the batch."""
        return loss * process_count() if self.over_processes and self.reduction == "sum" else loss

    def _prepare(
        self,
        input: Tensor,
        target: Tensor,
        weight_map: Tensor | None,
        voxel_scale: Sequence[float] | None,
    ) -> Comparison:
        _check_shapes(input, target, weight_map, self.to_onehot_y)
        channels = input.shape[1]
        if channels == 1 and (self.activation == "softmax" or not self.include_background):
            raise InputError(
                "has one channel, where a background and a class are needed",
                where="input",
                fix="pass sigmoid=True and keep the background, or give the network two output channels",
            )
        target = _plain(target)
        weights = None if weight_map is None else full_precision(_plain(weight_map))
        if self.ignore_index is not None:
            ignored = _ignored(target, self.ignore_index)
            target = target.masked_fill(ignored, 0)
            weights = (~ignored).float() if weights is None else weights.masked_fill(ignored, 0.0)
        if self.to_onehot_y:
            check_indices(target, max(2, channels))
        scale = (1.0,) * (input.dim() - 2) if voxel_scale is None else tuple(voxel_scale)
        return Comparison(full_precision(_plain(input)), target, weights, self.activation, scale)


def _class_weights(weight: Sequence[float] | Tensor | None) -> Tensor | None:
    if weight is None:
        return None
    factors = torch.as_tensor(weight, dtype=torch.float32)
    if factors.ndim != 1 or bool((factors < 0).any()):
        raise ConfigError(
            f"{factors.tolist()} are no factors of classes", where="weight", fix="give one a class, 0 or more"
        )
    return factors


def _check_shapes(input: Tensor, target: Tensor, weight_map: Tensor | None, indices: bool) -> None:
    """Refuse shapes that torch would broadcast wrongly."""
    if input.dim() < 3:
        raise InputError(
            f"has shape {tuple(input.shape)}", where="input", fix="give it axes (B, C, X, Y[, Z])"
        )
    one_channel = (input.shape[0], 1, *input.shape[2:])
    wanted = one_channel if indices else tuple(input.shape)
    if tuple(target.shape) != wanted:
        as_indices = target.shape[1:2] == (1,) and not indices
        raise InputError(
            f"has shape {tuple(target.shape)}, {wanted} fits the input's {tuple(input.shape)}",
            where="target",
            fix="pass to_onehot_y=True for class indices" if as_indices else "bring both onto one grid",
        )
    if weight_map is not None and tuple(weight_map.shape) != one_channel:
        raise InputError(
            f"has shape {tuple(weight_map.shape)}, {one_channel} is needed",
            where="weight_map",
            fix="give one weight for each voxel of the target",
        )


def _plain(tensor: Tensor) -> Tensor:
    """Without what a subclass, such as MONAI's MetaTensor, does on every operation."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def _ignored(target: Tensor, label: int) -> Tensor:
    """Where voxels are not to count: booleans, shape (B, 1, X, Y[, Z])."""
    channels = target.shape[1]
    if channels > 1 and 0 <= label < channels:
        return target[:, label : label + 1] > 0.5
    return target.eq(label).all(1, keepdim=True)
