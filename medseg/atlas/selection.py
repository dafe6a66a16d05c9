"""Which atlases are most like an image, once all are laid onto one template."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["most_similar", "signatures"]

_FLATTEST = 1e-6


def signatures(images: npt.NDArray[Any], region: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """What is kept of images to compare them: intensities of a region, of mean 0 and length 1.

    Args:
        images: (N, X, Y, Z), on one grid.
        region: (X, Y, Z), where images are compared.

    Returns:
        (N, V). The product of two is their correlation.
    """
    values = images[:, region].astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    found: npt.NDArray[np.float32] = values / np.maximum(lengths, _FLATTEST)
    return found


def most_similar(
    target: npt.NDArray[np.float32], atlases: npt.NDArray[Any], count: int
) -> npt.NDArray[np.intp]:
    """The atlases that correlate most with a target, the best first.

    Args:
        target: (V,), a signature.
        atlases: (N, V), theirs.
        count: How many; all of them if there are fewer.

    Example:
        >>> values = np.asarray([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])[..., None, None]
        >>> found = signatures(values, np.ones((3, 1, 1), bool))
        >>> most_similar(found[0], found, 2).tolist()
        [0, 2]
    """
    similarity = atlases.astype(np.float32) @ target
    return np.argsort(-similarity, kind="stable")[:count]
