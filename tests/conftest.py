"""Fixtures for every test."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.register_profile("searching", derandomize=False)

BUNDLES = Path(__file__).parent / "integration" / "bundle"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        type=int,
        default=0,
        help="Of what tests draw. With another one than 0 hypothesis looks for new examples, too.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """What passes here passes elsewhere: new examples are searched for when somebody asks for them."""
    settings.load_profile("searching" if config.getoption("--seed") else "repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test and its fixtures draw the same numbers, whichever tests ran before in their process."""
    seed = item.config.getoption("--seed")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator of old, that libraries still draw from
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what takes long to make go to one of several processes: a file's, and a folder's."""
    for item in items:
        shared = BUNDLES if BUNDLES in item.path.parents else item.path
        item.add_marker(pytest.mark.xdist_group(str(shared)))


def pytest_collection_finish() -> None:
    """What was imported stays: half a million objects that no later search for garbage need look at."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real, licensed test data; the test is skipped where there is none."""
    folder = os.environ.get("MEDSEG_TEST_DATA")
    if not folder:
        pytest.skip("MEDSEG_TEST_DATA is not set: no real data to test on")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"MEDSEG_TEST_DATA points to {path}, which is no folder")
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a run as a training leaves it: a small U-Net with random weights in each fold."""
    from medseg.data import Split
    from medseg.files import write_json
    from medseg.labels import LabelScheme
    from medseg.networks import build_network
    from medseg.runs import (
        Fingerprint,
        NetworkPlan,
        Normalization,
        Plan,
        PreprocessingSpec,
        Recipe,
        RunFolder,
    )

    def make(
        name: str = "run",
        *,
        channel_names: Sequence[str] = ("MRI",),
        labels: dict[int, str] | None = None,
        folds: Sequence[Sequence[str]] = (("a",), ("b",)),
        trained: Sequence[int] = (0,),
        data: Path | None = None,
        patch_size: tuple[int, int, int] = (16, 16, 16),
    ) -> Path:
        import torch

        scheme = LabelScheme.from_names(labels or {1: "anterior", 7: "posterior"})
        run = RunFolder(tmp_path / name)
        options = {"in_channels": len(channel_names), "out_channels": len(scheme), "features": [4, 8]}
        plan = Plan(
            dataset="toy",
            channel_names=tuple(channel_names),
            labels=scheme,
            fingerprint=Fingerprint(
                cases=2,
                median_shape=(20, 20, 20),
                largest_shape=(20, 20, 20),
                median_spacing_mm=(1.0, 1.0, 1.0),
                foreground_intensity=(),
                class_voxels=(1,) * len(scheme),
            ),
            preprocessing=PreprocessingSpec(
                spacing_mm=(1.3, 1.3, 1.3),
                normalization=[Normalization(scheme="zscore") for _ in channel_names],
            ),
            patch_size=patch_size,
            batch_size=1,
            network=NetworkPlan(name="unet", options=options),
            reasons={},
        )
        run.save_plan(plan)
        run.save_recipe(Recipe())
        Split(seed=0, folds=tuple(tuple(fold) for fold in folds)).save(run.split_path)
        write_json({"data": str(data)}, run.manifest_path)
        for fold in trained:
            torch.manual_seed(fold)
            network = build_network("unet", **options)
            weights = run.fold(fold).weights("last")
            weights.parent.mkdir(parents=True)
            torch.save(network.state_dict(), weights)
        return run.path

    return make


@pytest.fixture
def make_ct_series() -> Callable[..., Path]:
    """Writes a small CT series, axial, slices from feet to head, of a patient with a name."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    def make(
        folder: Path, voxels: np.ndarray, heights_mm: Sequence[float], uid: str = "1.2.3", **elements: object
    ) -> Path:
        """Voxels are stored values, shape (slices, rows, columns)."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, (plane, height) in enumerate(zip(voxels, heights_mm, strict=True)):
            dataset = Dataset()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{uid}.{index + 1}"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", uid
            dataset.FrameOfReferenceUID = "1.2.9"
            dataset.Modality, dataset.SeriesNumber = "CT", 4
            dataset.SeriesDescription = "Head of Secret^Person"
            dataset.PatientName, dataset.PatientID = "Secret^Person", "ID-4711"
            dataset.PatientBirthDate, dataset.StudyDate = "19700102", "20240304"
            dataset.InstitutionName, dataset.InstanceNumber = "Secret Hospital", index + 1
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            dataset.ImagePositionPatient = [-10.0, -20.0, height]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.PixelSpacing, dataset.SliceThickness = [0.8, 0.6], 2.5
            dataset.Rows, dataset.Columns = plane.shape
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
            dataset.PixelRepresentation = int(plane.dtype.kind == "i")
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
            for keyword, value in elements.items():
                setattr(dataset, keyword, value)
            dataset.PixelData = plane.tobytes()
            dataset["PixelData"].VR = "OW"
            dataset.save_as(folder / f"{uid}-{index}", enforce_file_format=True)
        return folder

    return make


# A shell that runs the tests in the background lets them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
