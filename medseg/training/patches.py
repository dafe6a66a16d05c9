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
from monai.data import get_track_meta, set_track_meta
from torch.utils.data import DataLoader, Dataset, Sampler

from medseg.runs import Plan, Recipe
from medseg.training.border_weights import border_weights_of
from medseg.training.cache import CachedCase
from medseg.transforms import augmentation_margin, augmentation_transforms

__all__ = ["EpochSampler", "Patch", "PatchDataset", "WholeCases", "patch_loader"]

_ORDER, _PLACE = 1, 2  # streams of random numbers that must not meet


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


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, number)))


class PatchDataset(Dataset[Patch]):
    """Patches by number, without end.

    Args:
        cases: The training cases, with labels, or all of them without; with weights, if the recipe asks for
            border weights.
        plan: Patch size and labels.
        recipe: Augmentation, border weights and the part of patches centred on foreground.
        seed: Another seed gives other patches.
    """

    def __init__(self, cases: Sequence[CachedCase], plan: Plan, recipe: Recipe, seed: int) -> None:
        self._cases = list(cases)
        self._patch = plan.patch_size
        spacing_mm = plan.preprocessing.spacing_mm
        self._margin = augmentation_margin(recipe.augmentation, plan.patch_size, spacing_mm)
        self._foreground_fraction = recipe.training.foreground_fraction
        self._seed = seed
        weights = border_weights_of(recipe, plan)
        self._weight_beyond = None if weights is None else weights.background
        self._augment = None
        if recipe.augmentation is not None:
            self._augment = augmentation_transforms(
                recipe.augmentation,
                plan.patch_size,
                axcodes=plan.preprocessing.axcodes,
                labels=plan.labels,
                spacing_mm=spacing_mm,
                label_key="label" if self._cases[0].labelled else None,
                weight_key=None if weights is None else "weight",
            )
        self._drawn_epoch, self._order = 0, self._draw_order(0)

    def __getitem__(self, number: int) -> Patch:
        """Sample ``number``: in each pass over the cases, every case comes once."""
        epoch, place = divmod(number, len(self._cases))
        if epoch != self._drawn_epoch:
            self._drawn_epoch, self._order = epoch, self._draw_order(epoch)
        case = self._cases[int(self._order[place])]
        generator = _generator(self._seed, _PLACE, number)
        start = self._draw_start(case, generator)
        sample = {"image": torch.from_numpy(_read_box(case.image, start, self._patch, self._margin))}
        if case.labelled:
            label = _read_box(case.label[None], start, self._patch, self._margin)
            sample["label"] = torch.from_numpy(label).float()
        if self._weight_beyond is not None:
            weight = _read_box(case.weight[None], start, self._patch, self._margin, self._weight_beyond)
            # Augmentation fills what it turns in with zeros, which here shall be the weight beyond the image.
            sample["weight"] = torch.from_numpy(weight) - self._weight_beyond
        if self._augment is not None:
            tracked = get_track_meta()
            set_track_meta(False)  # patches have left their grid; following it costs more than the transforms
            try:
                self._augment.set_random_state(int(generator.integers(2**32)))
                sample = self._augment(sample)
            finally:
                set_track_meta(tracked)
        patch: Patch = {"image": sample["image"].contiguous(), "case": case.id, "number": number}
        if "label" in sample:
            patch["label"] = sample["label"].long()
        if self._weight_beyond is not None:
            patch["weight"] = sample["weight"] + self._weight_beyond
        return patch

    def _draw_order(self, epoch: int) -> npt.NDArray[np.int64]:
        return _generator(self._seed, _ORDER, epoch).permutation(len(self._cases))

    def _draw_start(self, case: CachedCase, generator: np.random.Generator) -> list[int]:
        shape = np.asarray(case.image.shape[1:])
        centre = generator.integers(0, shape)
        if case.labelled and len(case.foreground) and generator.random() < self._foreground_fraction:
            classes = np.unique(case.foreground[:, 0])
            chosen = case.foreground[case.foreground[:, 0] == generator.choice(classes)]
            centre = chosen[generator.integers(len(chosen)), 1:]
        starts = []
        for middle, size, patch in zip(centre, shape, self._patch, strict=True):
            if size <= patch:
                starts.append(-((patch - int(size)) // 2))
            else:
                starts.append(int(np.clip(middle - patch // 2, 0, size - patch)))
        return starts


def _read_box(
    array: npt.NDArray[Any],
    start: Sequence[int],
    size: Sequence[int],
    margin: Sequence[int],
    beyond: float = 0.0,
) -> npt.NDArray[Any]:
    """The box of ``size`` at ``start``, grown by ``margin``; ``beyond`` fills what lies outside the array."""
    grown = [length + 2 * edge for length, edge in zip(size, margin, strict=True)]
    box = np.full((array.shape[0], *grown), beyond, dtype=array.dtype)
    source, target = [slice(None)], [slice(None)]
    for begin, edge, length, available in zip(start, margin, grown, array.shape[1:], strict=True):
        first = begin - edge
        low, high = max(first, 0), min(first + length, available)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    box[tuple(target)] = array[tuple(source)]
    return box


class EpochSampler(Sampler[int]):
    """The numbers of the samples of one epoch, counted on from the optimiser steps already made.

    The step is asked for when the epoch begins. A number of the epoch handed in from outside would come too
    late in a resumed training: Lightning opens its first epoch before it tells the sampler which one it is.

    Args:
        batch_size: Samples a step.
        steps_per_epoch: Steps an epoch.
        steps_done: How many optimiser steps have been made.
    """

    def __init__(self, batch_size: int, steps_per_epoch: int, steps_done: Callable[[], int]) -> None:
        self._batch_size = batch_size
        self._count = batch_size * steps_per_epoch
        self._steps_done = steps_done

    def __iter__(self) -> Iterator[int]:
        first = self._steps_done() * self._batch_size
        return iter(range(first, first + self._count))

    def __len__(self) -> int:
        return self._count


def patch_loader(
    patches: PatchDataset,
    batch_size: int,
    steps_per_epoch: int,
    workers: int,
    steps_done: Callable[[], int],
) -> DataLoader[Patch]:
    """Batches of patches, ``steps_per_epoch`` of them an epoch.

    Args:
        patches: The samples.
        batch_size: Samples a batch.
        steps_per_epoch: Batches an epoch.
        workers: Processes that prepare patches; 0 prepares them in this one.
        steps_done: How many optimiser steps have been made; the samples go on from there.
    """
    return DataLoader(
        patches,
        batch_size=batch_size,
        sampler=EpochSampler(batch_size, steps_per_epoch, steps_done),
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
        whole: Patch = {"image": torch.from_numpy(np.array(case.image)), "case": case.id}
        if case.labelled:
            whole["label"] = torch.from_numpy(np.array(case.label, dtype=np.int32))
        return whole
