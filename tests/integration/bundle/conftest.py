"""Two bundles of untrained networks on phantoms: one of a fold in every format, one of two folds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from medseg.bundle import FORMATS, Exported, ExportOptions, Statement, export_bundle
from medseg.data import Dataset, Split
from medseg.data.phantoms import write_phantom_dataset
from medseg.files import write_json
from medseg.io import find_cases
from medseg.networks import build_network
from medseg.runs import Recipe, RunFolder
from medseg.training import plan_from_dataset

HIDDEN = ("medseg", "lightning", "pydantic", "SimpleITK", "pydicom", "blosc2", "typer", "scipy")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three MR phantoms of 24 x 22 x 20 voxels, with a left and a right."""
    folder = tmp_path_factory.mktemp("phantoms")
    return write_phantom_dataset(folder, count=3, test_count=0, shape=(24, 22, 20))


@pytest.fixture(scope="session")
def make_run(phantoms: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of a run: planned on the phantoms, its weights at random."""

    def make(recipe: Recipe | None = None, trained: Sequence[int] = (0,)) -> Path:
        recipe = recipe or small_recipe()
        run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
        plan = plan_from_dataset(phantoms, recipe)
        run.save_plan(plan)
        run.save_recipe(recipe)
        ids = [case.id for case in phantoms.cases]
        Split(seed=0, folds=tuple((name,) for name in ids)).save(run.split_path)
        write_json({"data": str(phantoms.source), "seed": 3}, run.manifest_path)
        for fold in trained:
            torch.manual_seed(fold)
            network = build_network(plan.network.name, **plan.network.options)
            weights = run.fold(fold).weights("last")
            weights.parent.mkdir(parents=True)
            torch.save(network.state_dict(), weights)
        return run.path

    return make


def small_recipe(**more: object) -> Recipe:
    training = {"patch_size": (16, 16, 16), "batch_size": 2}
    chosen = {"network": {"base_features": 2}, "training": training, "spacing_mm": (2.5, 2.5, 3.0)}
    return Recipe(**{**chosen, **more})


@pytest.fixture(scope="session")
def run(make_run: Callable[..., Path]) -> Path:
    return make_run(small_recipe(init_from="/somebody/secret/run"))


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Of one fold, in every format and as one file; nobody changes it."""
    out = tmp_path_factory.mktemp("bundles") / "phantoms"
    said = Statement(version="1.2.0", authors="the testers", license="Apache-2.0")
    return export_bundle(run, out, ExportOptions(formats=FORMATS, archive=True, statement=said))


REAL = (
    "mr/hippocampus/imagesTr/hippocampus_001.nii.gz",
    "mr/hippocampus/imagesTr/hippocampus_003.nii.gz",
    "mr/spinal_cord/t2/t2.nii.gz",
    "mr/spinal_cord/t1/t1w.nii.gz",
    "mr/spinal_cord/mt/mt1.nii.gz",
    "dicom/dicom2nifti/generic/anatomical/002_non_isotropic_ground_truth.nii.gz",
    "dicom/dicom2nifti/generic/anatomical/001_ground_truth.nii.gz",
    "dicom/dicom2nifti/generic/anatomical/001_ground_truth_reoriented.nii.gz",
    "mr/vertebra/sub-mri_label-6_T2w.nii.gz",
    "ct/vertebra/sub-ct_label-22_ct.nii.gz",
)


@pytest.fixture(scope="session")
def ensemble(
    make_run: Callable[..., Path], phantoms: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """Of two folds, averaged over mirror images, with label maps that are cleaned; nobody changes it.

    MONAI has no such loss. It is proven on a phantom, and on ten real images where there are such.
    """
    cleaned = {"largest_component": "all", "fill_holes": "all", "smallest_volume_ml": {"nodules": 0.1}}
    # Coarse, for an image of a few windows proves as much as one of many.
    more = {"loss": {"name": "dice_focal"}, "spacing_mm": (4.0, 4.0, 5.0)}
    recipe = small_recipe(inference={"mirror": "xz", "overlap": 0.25}, postprocess=cleaned, **more)
    folder = os.environ.get("MEDSEG_TEST_DATA")
    real = find_cases([Path(folder) / name for name in REAL], 1) if folder else []
    options = ExportOptions(cases=(phantoms.cases[0], *real))
    out = tmp_path_factory.mktemp("bundles") / "ensemble"
    return export_bundle(make_run(recipe, trained=(0, 2)), out, options)


@pytest.fixture
def scripts_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Lets this process import the scripts of one bundle, until the test ends."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            del sys.modules[name]

    def use(bundle: Path) -> None:
        forget()
        monkeypatch.syspath_prepend(str(bundle))

    yield use
    forget()


@pytest.fixture(scope="session")
def without_medseg() -> Callable[..., str]:
    """Runs Python code in a folder, where neither medseg nor what only medseg needs can be imported."""
    hide = (
        "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {HIDDEN!r}:\n            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\nsys.path.insert(0, '.')\n"
    )

    def run(code: str, folder: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-I", "-c", hide + code], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run
