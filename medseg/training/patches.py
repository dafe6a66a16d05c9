"""Training patches: which case, where, and how changed, as a function of the seed and the sample's number.

Nothing is drawn from a generator that remembers: sample 1234 of a training is the same patch whether the
training came that far in one go or was resumed, with one worker process or many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from medseg.runs import Plan, Recipe
from medseg.training.arrays import StoredArray
from medseg.training.border_weights import border_weights_of
from medseg.training.cache import CachedCase
from medseg.training.case_facts import is_ct
from medseg.training.draws import Draw, PatchDraws, Stream, class_weights, random_generator
from medseg.training.waiting import WaitingLoader
from medseg.transforms import Augmenter, augment_patch

__all__ = ["EpochSampler", "Patch", "PatchDataset", "WholeCases", "patch_loader"]


class Patch(TypedDict):
    """A training sample.

    Attributes:
        image: float32 (C, X, Y, Z).
        label: int64 class indices (1, X, Y, Z), of a labelled case.
        weight: float32 weights of the voxels (1, X, Y, Z), where the recipe asks for border weights.
        case: Id of the case that it comes from.
        number: Of a training sample.
    """

    image: torch.Tensor
    case: str
    number: NotRequired[int]
    label: NotRequired[torch.Tensor]
    weight: NotRequired[torch.Tensor]


class PatchDataset(Dataset[Patch]):
    """Patches by number, without end.

    Args:
        cases: The training cases, with labels, or all of them without; with weights, if the recipe asks for
            border weights.
        plan: Patch size, labels, and how often patches are centred on each class.
        recipe: Augmentation, border weights and the part of patches centred on foreground.
        seed: Another seed gives other patches.

    Raises:
        ConfigError: The plan's ``class_sampling`` does not suit its classes.
    """

    def __init__(self, cases: Sequence[CachedCase], plan: Plan, recipe: Recipe, seed: int) -> None:
        self._cases = list(cases)
        self._patch = plan.patch_size
        self._seed = seed
        self._points = np.array([case.class_points for case in self._cases])
        self._draws = PatchDraws(
            self._points > 0,
            recipe.training.foreground_fraction,
            class_weights(plan.class_sampling, len(plan.labels)),
            seed,
        )
        weights = border_weights_of(recipe, plan)
        self._weight_beyond = None if weights is None else weights.background
        self._augmenter = None
        if recipe.augmentation is not None:
            self._augmenter = Augmenter(
                recipe.augmentation,
                plan.patch_size,
                axcodes=plan.preprocessing.axcodes,
                labels=plan.labels,
                ct_channels=[is_ct(name) for name in plan.channel_names],
                spacing_mm=plan.preprocessing.spacing_mm,
            )

    def __getitem__(self, number: int) -> Patch:
        """Sample ``number``; ``PatchDraws`` says of which case, and centred on what."""
        draw = self._draws[number]
        case = self._cases[draw.case]
        generator = random_generator(self._seed, Stream.PLACE, number)
        start = self._draw_start(case, draw, generator)
        change = None if self._augmenter is None else self._augmenter.draw(generator)
        margin = (0, 0, 0) if change is None else change.spatial.margin
        sample = {"image": torch.from_numpy(_read_box(case.image, start, self._patch, margin))}
        if case.labelled:
            label = _read_box(case.label, start, self._patch, margin)
            sample["label"] = torch.from_numpy(label if label.dtype == np.uint8 else label.astype(np.int32))
        if self._weight_beyond is not None:
            weight = _read_box(case.weight, start, self._patch, margin, self._weight_beyond)
            sample["weight"] = torch.from_numpy(weight)
        if change is not None:
            sample = augment_patch(sample, change)
        patch: Patch = {"image": sample["image"].contiguous(), "case": case.id, "number": number}
        if "label" in sample:
            patch["label"] = sample["label"].long()
        if "weight" in sample:
            patch["weight"] = sample["weight"].contiguous()
        return patch

    def _draw_start(self, case: CachedCase, draw: Draw, generator: np.random.Generator) -> list[int]:
        shape = case.image.shape[1:]
        counts = self._points[draw.case]
        if counts[draw.group]:
            first = int(counts[: draw.group].sum())
            centre = case.points[first + int(generator.integers(counts[draw.group]))]
        else:
            centre = generator.integers(0, shape)
        starts = []
        for middle, size, patch in zip(centre, shape, self._patch, strict=True):
            if size <= patch:
                starts.append(-((patch - size) // 2))
            else:
                starts.append(int(np.clip(middle - patch // 2, 0, size - patch)))
        return starts


def _read_box(
    array: StoredArray,
    start: Sequence[int],
    size: Sequence[int],
    margin: Sequence[int],
    beyond: float = 0.0,
) -> npt.NDArray[Any]:
    """The box of ``size`` at ``start``, grown by ``margin``; ``beyond`` fills what lies outside the array.

    Of an array (C, X, Y, Z) or (X, Y, Z), with a channel for the latter, too.
    """
    leading, shape = array.shape[:-3], array.shape[-3:]
    grown = [length + 2 * edge for length, edge in zip(size, margin, strict=True)]
    source, outside = [], []
    for begin, edge, length, available in zip(start, margin, grown, shape, strict=True):
        first = begin - edge
        low, high = max(first, 0), min(first + length, available)
        source.append(slice(low, high))
        outside.append((low - first, first + length - high))
    box = array[(*(slice(None) for _ in leading), *source)]
    box = box.reshape(-1, *box.shape[-3:])
    if any(map(any, outside)):
        box = np.pad(box, [(0, 0), *outside], constant_values=beyond)
    return box


class EpochSampler(Sampler[int]):
    """The numbers of the samples of one epoch, counted on from the optimiser steps already made.

    The step is asked for when the epoch begins. A number of the epoch handed in from outside would come too
    late in a resumed training: Lightning opens its first epoch before it tells the sampler which one it is.

    Args:
        batch_size: Samples a step.
        steps_per_epoch: Steps an epoch.
        steps_done: How many optimiser steps have been made.
        process: Which of the processes that share each step's samples this one is, from 0: the first has the
            first ``batch_size`` of them, the next those that follow.
        processes: How many those are.

    Example:
        >>> list(EpochSampler(2, 2, lambda: 10, process=1, processes=2))
        [42, 43, 46, 47]
    """

    def __init__(
        self,
        batch_size: int,
        steps_per_epoch: int,
        steps_done: Callable[[], int],
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._batch_size = batch_size
        self._steps = steps_per_epoch
        self._steps_done = steps_done
        self._process, self._processes = process, processes

    def __iter__(self) -> Iterator[int]:
        begun = self._steps_done()
        for step in range(begun, begun + self._steps):
            first = (step * self._processes + self._process) * self._batch_size
            yield from range(first, first + self._batch_size)

    def __len__(self) -> int:
        return self._batch_size * self._steps


def patch_loader(
    patches: PatchDataset,
    batch_size: int,
    steps_per_epoch: int,
    workers: int,
    steps_done: Callable[[], int],
    process: int = 0,
    processes: int = 1,
    accumulate: int = 1,
) -> WaitingLoader[Patch]:
    """Batches for ``steps_per_epoch`` optimiser steps an epoch; it knows how long it was waited for.

    Args:
        patches: The samples.
        batch_size: Samples a batch.
        steps_per_epoch: Optimiser steps an epoch.
        workers: Processes that prepare patches; 0 prepares them in this one.
        steps_done: How many optimiser steps have been made; the samples go on from there.
        process: As for ``EpochSampler``.
        processes: As for ``EpochSampler``; each has batches of ``batch_size``.
        accumulate: Batches a step.
    """
    return WaitingLoader(
        patches,
        batch_size=batch_size,
        sampler=EpochSampler(
            batch_size,
            steps_per_epoch * accumulate,
            lambda: steps_done() * accumulate,
            process,
            processes,
        ),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers > 0 else None,
        pin_memory=torch.cuda.is_available(),
    )


class WholeCases(Dataset[Patch]):
    """Validation cases, each whole, on its network grid.

    Args:
        cases: The validation cases.
    """

    def __init__(self, cases: Sequence[CachedCase]) -> None:
        self._cases = list(cases)

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, number: int) -> Patch:
        case = self._cases[number]
        whole: Patch = {"image": torch.from_numpy(case.image[...]), "case": case.id}
        if case.labelled:
            whole["label"] = torch.from_numpy(case.label[...].astype(np.int32))
        return whole
