"""Which case each training patch is of, and which class it is centred on, as a function of seed and number."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError

__all__ = ["ANYWHERE", "Draw", "PatchDraws", "Stream", "class_weights", "random_generator"]

ANYWHERE = 0
"""The group of a patch that is not centred on a class: any voxel, or any labelled one where some are not."""

_DENOMINATOR = 1000


class Stream(enum.IntEnum):
    """Streams of random numbers that must not meet."""

    ORDER = 1
    PLACE = 2
    CLASS_ORDER = 3
    CLASS = 4


def random_generator(seed: int, stream: Stream, number: int) -> np.random.Generator:
    """The generator of one thing: it remembers nothing of others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, number)))


@dataclass(frozen=True)
class Draw:
    """What a patch is of.

    Attributes:
        case: Index of the case.
        group: Index of the class that it is centred on, or ``ANYWHERE``.
    """

    case: int
    group: int


class PatchDraws:
    """What each patch is of, by its number.

    A fixed part of the patches is centred on a class, spread evenly over the numbers, so that every batch has
    its share to within one patch. Their class is drawn first, by weight, among those that any case holds, then
    one of the cases that hold it: a class that lives in few cases is met as often as its weight says. All
    other patches take the cases in turn, each once a pass in an order drawn anew; those with a class do so
    too, as far as the case whose turn it is holds it, and else draw one.

    Args:
        holds: Booleans (cases, classes), background first: which case holds which class.
        class_fraction: Part of the patches that are centred on a class; a thousandth is its smallest unit.
        weights: How often, relative to each other, each class is drawn, background first, which has none.
        seed: Another seed gives other draws.

    Example:
        >>> holds = np.array([[True, True, False], [True, True, True]])
        >>> draws = PatchDraws(holds, 0.5, (0.0, 1.0, 1.0), seed=0)
        >>> [draws[number].group > 0 for number in range(4)]
        [False, True, False, True]
    """

    def __init__(
        self, holds: npt.NDArray[np.bool_], class_fraction: float, weights: Sequence[float], seed: int
    ) -> None:
        self._holds = holds
        self._seed = seed
        share = np.where(holds.any(axis=0), weights, 0.0)
        self._share = share / share.sum() if share.any() else share
        # Where no case holds any class to centre on, patches are of anywhere. Counting takes exact numbers.
        fraction = class_fraction if share.any() else 0.0
        self._fraction = Fraction(fraction).limit_denominator(_DENOMINATOR)
        self._orders: dict[Stream, tuple[int, npt.NDArray[np.int64]]] = {}

    def __getitem__(self, number: int) -> Draw:
        """What patch ``number`` is of."""
        before = math.floor(number * self._fraction)
        if math.floor((number + 1) * self._fraction) == before:
            return Draw(self._in_turn(Stream.ORDER, number - before), ANYWHERE)
        generator = random_generator(self._seed, Stream.CLASS, number)
        group = int(generator.choice(len(self._share), p=self._share))
        case = self._in_turn(Stream.CLASS_ORDER, before)
        if not self._holds[case, group]:
            case = int(generator.choice(np.flatnonzero(self._holds[:, group])))
        return Draw(case, group)

    def _in_turn(self, stream: Stream, count: int) -> int:
        """The case whose turn it is, after ``count`` others of its stream."""
        turn, place = divmod(count, len(self._holds))
        if self._orders.get(stream, (None,))[0] != turn:
            order = random_generator(self._seed, stream, turn).permutation(len(self._holds))
            self._orders[stream] = (turn, order)
        return int(self._orders[stream][1][place])


def class_weights(sampling: Sequence[float], classes: int) -> tuple[float, ...]:
    """A plan's ``class_sampling`` by class index, background first, which has none.

    Args:
        sampling: One weight for each foreground class, or none for equal ones.
        classes: Their number, with the background.

    Raises:
        ConfigError: Another number of weights, or one that is no number from 0.

    Example:
        >>> class_weights((), 3)
        (0.0, 1.0, 1.0)
    """
    weights = tuple(sampling) or (1.0,) * (classes - 1)
    if len(weights) != classes - 1 or not all(0.0 <= weight < math.inf for weight in weights):
        raise ConfigError(
            f"{weights} are no weights of {classes - 1} classes",
            where="class_sampling",
            fix="give each foreground class a number from 0",
        )
    return (0.0, *weights)
