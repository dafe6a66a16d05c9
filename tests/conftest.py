"""Fixtures for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


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


# A shell that runs the tests in the background lets them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
