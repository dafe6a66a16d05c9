"""A training that diverges: what is told of it, and how to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from medseg.errors import ConfigError
from medseg.runs import FoldFolder

__all__ = ["Samples", "diverged", "samples_of", "spoilt_samples"]

Samples: TypeAlias = tuple[tuple[int, str], ...]
"""Training samples: number, and the case that it was cut from."""


def samples_of(batch: Mapping[str, Any]) -> Samples:
    """Which samples a batch of ``Patch`` holds.

    Example:
        >>> import torch
        >>> samples_of({"number": torch.tensor([6, 7]), "case": ["a", "b"]})
        ((6, 'a'), (7, 'b'))
    """
    return tuple(
        (int(number), str(case)) for number, case in zip(batch["number"], batch["case"], strict=True)
    )


def spoilt_samples(batch: Mapping[str, Any]) -> Samples:
    """Those samples of a batch whose image is NaN or infinite somewhere."""
    finite = batch["image"].isfinite().flatten(1).all(dim=1)
    return tuple(sample for sample, good in zip(samples_of(batch), finite, strict=True) if not good)


def diverged(
    what: str,
    step: int,
    samples: Samples,
    fold: FoldFolder,
    *,
    before: Samples = (),
    spoilt: Samples = (),
) -> ConfigError:
    """The error that ends a training, with the batch named and the way to go on.

    Args:
        what: What was seen.
        step: After how many steps.
        samples: What the last step learnt from.
        fold: Where the last good checkpoint lies.
        before: What the step before learnt from: a loss that is NaN may be its doing.
        spoilt: Samples whose image is to blame, where that is known.

    Example:
        >>> from pathlib import Path
        >>> error = diverged("the loss became nan", 3, ((4, "a"), (5, "b")), FoldFolder(Path("run/fold_0")))
        >>> error.what
        'the loss became nan at step 3, on samples 4 (case a) and 5 (case b)'
        >>> error.fix
        'lower it in the recipe and train into another --out (no checkpoint was written yet)'
    """
    told = f"{what} at step {step}, on {_names(samples)}"
    if spoilt:
        return ConfigError(
            f"{told}: NaN or infinite voxels in {_names(spoilt)}",
            where="augmentation",
            fix=f"look at these cases, change the recipe, and train into another --out ({_kept(fold)})",
        )
    if before:
        told += f", after one on {_names(before)}"
    return ConfigError(
        told,
        where="optimizer.learning_rate",
        fix=f"lower it in the recipe and train into another --out ({_kept(fold)})",
    )


def _names(samples: Samples) -> str:
    named = [f"{number} (case {case})" for number, case in samples]
    if len(named) == 1:
        return f"sample {named[0]}"
    return f"samples {', '.join(named[:-1])} and {named[-1]}"


def _kept(fold: FoldFolder) -> str:
    if not fold.resume_state.is_file():
        return "no checkpoint was written yet"
    return f"the last good checkpoint is kept in {fold.resume_state}"
