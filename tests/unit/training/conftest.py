"""A small data set, its plan and its preprocessed cases."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medseg.data import Dataset
from medseg.data.phantoms import write_phantom_dataset
from medseg.files import write_json
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.progress import SilentProgress
from medseg.runs import Plan, Recipe, RunFolder
from medseg.runs.recipe import PretrainChoice
from medseg.training import Budget, TrainingOptions, plan_from_dataset, train
from medseg.training.cache import CachedCase, prepare_cases
from medseg.volume import Volume

Array = npt.NDArray[np.generic]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the trainings here; ``crossvalidated`` is made before, and has pictures."""
    for module in ("preparation", "fold"):
        monkeypatch.setattr(sys.modules[f"medseg.training.{module}"], "can_draw", lambda: False)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        folds=3,
        network={"base_features": 2},
        training={
            "patch_size": (16, 16, 8),
            "batch_size": 2,
            "checkpoint_every": 2,
            "validate_every": 2,
            "precision": "float32",
        },
    )


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six MR phantoms of 24 x 24 x 20 voxels; their labels have a left and a right."""
    return write_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), count=6, test_count=0, shape=(24, 24, 20)
    )


@pytest.fixture(scope="session")
def plan(phantoms: Dataset, recipe: Recipe) -> Plan:
    return plan_from_dataset(phantoms, recipe)


@pytest.fixture(scope="session")
def cases(phantoms: Dataset, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    return prepare_cases(phantoms.cases, plan, tmp_path_factory.mktemp("cache"), SilentProgress())


@pytest.fixture(scope="session")
def pretrained(phantoms: Dataset, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A denoising pretraining of four steps, validated after two and four; nobody changes it."""
    choice = PretrainChoice(noise_std=0.3, masked_fraction=0.1)
    options = TrainingOptions(Budget(max_steps=4), seed=4, device="cpu", workers=0)
    chosen = recipe.model_copy(update={"pretrain": choice})
    return train(phantoms, chosen, tmp_path_factory.mktemp("runs") / "run", folds=[0], options=options)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes arrays as a data set: one image (C, X, Y, Z) and one label (X, Y, Z) per case."""
    from medseg.data import load_dataset

    def make(
        images: Sequence[Array],
        labels: Sequence[Array],
        *,
        affines: Sequence[Array] | None = None,
        label_affines: Sequence[Array] | None = None,
        modalities: Sequence[str] = ("MRI",),
        names: dict[str, str] | None = None,
        name: str = "data",
    ) -> Dataset:
        folder = tmp_path / name
        entries = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            affine = np.eye(4) if affines is None else affines[number]
            label_affine = affine if label_affines is None else label_affines[number]
            file = f"case_{number}.nii"
            write_volume(Volume(image, Grid(image.shape[1:], affine)), folder / "imagesTr" / file)
            write_volume(Volume(label[None], Grid(label.shape, label_affine)), folder / "labelsTr" / file)
            entries.append({"image": f"imagesTr/{file}", "label": f"labelsTr/{file}"})
        description = {
            "name": "arrays",
            "modality": {str(number): modality for number, modality in enumerate(modalities)},
            "labels": names or {"0": "background", "1": "one", "5": "five"},
            "training": entries,
            "test": [],
        }
        write_json(description, folder / "dataset.json")
        return load_dataset(folder)

    return make


@pytest.fixture(scope="session")
def crossvalidated(phantoms: Dataset, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Three folds of one step each; nobody changes them but ``postprocess.json``."""
    options = TrainingOptions(Budget(max_steps=1), seed=4, device="cpu", workers=0)
    return train(phantoms, recipe, tmp_path_factory.mktemp("runs") / "run", options=options)
