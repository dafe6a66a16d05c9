"""One image brought onto another, or many onto one: affine, then bent.

The result depends on the images, the options and the seed alone, not on the number of processes: each has
one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from medseg.atlas.cache import TransformCache, content_key
from medseg.atlas.choices import RegistrationChoice
from medseg.atlas.transform import Transform
from medseg.progress import Progress
from medseg.volume import Volume
from medseg.workers import for_each

__all__ = ["Pair", "register", "register_pairs"]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images to be registered.

    Attributes:
        fixed: (1, X, Y, Z), as ``standardized`` gives it.
        moving: (1, X, Y, Z), on a grid of its own.
        initial: 4x4, where the affine registration begins, or all there is of it; chosen by the options if
            ``None``.
        fixed_mask: Where the affine registration looks; everywhere if ``None``.
    """

    fixed: Volume
    moving: Volume
    initial: npt.NDArray[np.float64] | None = None
    fixed_mask: npt.NDArray[np.bool_] | None = None


def register(
    pair: Pair, choice: RegistrationChoice, *, seed: int = 0, cache: TransformCache | None = None
) -> Transform:
    """Where each voxel of the fixed image lies in the moving one.

    Args:
        pair: The images.
        choice: How.
        seed: Of what is drawn.
        cache: Where the transform is looked for before, and kept.

    Raises:
        InputError: The images cannot be laid onto each other.
        ConfigError: An image is too small for the levels that were asked for.
    """
    if cache is None:
        return _register(pair, choice, seed)
    more = [np.zeros(0) if part is None else part for part in (pair.initial, pair.fixed_mask)]
    key = content_key(pair.fixed, pair.moving, choice, str(seed), *more)
    found = cache.load(key, pair.fixed.grid)
    if found is None:
        found = _register(pair, choice, seed)
        cache.save(key, found)
    return found


def register_pairs(
    pairs: Sequence[Pair],
    choice: RegistrationChoice,
    *,
    seed: int = 0,
    cache: TransformCache | None = None,
    workers: int = 1,
    description: str = "registering",
    progress: Progress | None = None,
) -> list[Transform]:
    """Register many pairs, in this process or in several; see ``register``.

    Returns:
        Their transforms, in order.
    """
    work = partial(register, choice=choice, seed=seed, cache=cache)
    workers = min(workers, len(pairs)) or 1
    return for_each(work, pairs, workers=workers, description=description, progress=progress)


def _register(pair: Pair, choice: RegistrationChoice, seed: int) -> Transform:
    from medseg.atlas.affine import register_affine  # SimpleITK is not needed where all is in the cache
    from medseg.atlas.deformable import register_deformable

    matrix = np.eye(4) if pair.initial is None else pair.initial
    if choice.affine is not None:
        matrix = register_affine(
            pair.fixed,
            pair.moving,
            choice.affine,
            initial=pair.initial,
            fixed_mask=pair.fixed_mask,
            seed=seed,
        )
    return register_deformable(pair.fixed, pair.moving, matrix, choice.deformable)
