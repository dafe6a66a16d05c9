"""The examples of use from outside run, and give what medseg gives."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.bundle import Exported
from medseg.data import Dataset
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.segmenters import load_segmenter
from medseg.volume import Volume

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def example(name: str) -> dict[str, object]:
    return runpy.run_path(str(EXAMPLES / name))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Stored from left to back, oblique, and of another spacing than the network's."""
    grid = Grid((20, 15, 21), np.array([[-2.2, 0, 0.3, 4], [0, -3, 0, 9], [0.2, 0, 2.6, -7], [0, 0, 0, 1.0]]))
    voxels = np.random.default_rng(0).normal(size=(1, *grid.shape)).astype(np.float32)
    write_volume(Volume(voxels, grid), tmp_path / "images" / "a.nii.gz")
    return tmp_path / "images" / "a.nii.gz"


def test_a_workflow_of_monai(
    exported: Exported, run: Path, image: Path, tmp_path: Path, scripts_of: Callable[[Path], None]
) -> None:
    scripts_of(exported.bundle)
    main = example("bundle_workflow.py")["main"]
    main(str(exported.bundle), str(image.parent), str(tmp_path / "labels"))  # type: ignore[operator]
    found = read_volume(tmp_path / "labels" / "a.nii.gz")
    expected = load_segmenter(run, "cpu", mode="sliding-window").segment(image)
    assert found.grid.difference(expected.grid) is None
    assert (found.array != expected.array).mean() < 1e-3


def test_an_operator_of_monai_deploy(
    ensemble: Exported,
    exported: Exported,
    run: Path,
    image: Path,
    tmp_path: Path,
    scripts_of: Callable[[Path], None],
) -> None:
    del ensemble
    scripts_of(exported.bundle)
    main = example("deploy_operator.py")["main"]
    main(str(exported.bundle), str(image), str(tmp_path / "labels.nii.gz"))  # type: ignore[operator]
    found = read_volume(tmp_path / "labels.nii.gz")
    expected = load_segmenter(run, "cpu", mode="sliding-window").segment(image)
    assert (found.array != expected.array).mean() < 1e-3


def test_the_switch_to_medsegs_streaming(
    exported: Exported, run: Path, image: Path, tmp_path: Path, scripts_of: Callable[[Path], None]
) -> None:
    from monai.bundle import ConfigParser

    scripts_of(exported.bundle)
    parser = ConfigParser()
    parser.read_config(str(exported.bundle / "configs" / "inference.yaml"))
    parser.update(
        {
            "bundle_root": str(exported.bundle),
            "dataset_dir": str(image.parent),
            "output_dir": str(tmp_path),
            "streaming": True,
        }
    )
    parser.get_parsed_content("run")
    found = read_volume(tmp_path / "a.nii.gz")
    streamed = load_segmenter(run, "cpu", mode="streaming").segment(image)
    assert (found.array != streamed.array).mean() < 1e-3


def test_medsegs_parts_in_a_config_of_ones_own(phantoms: Dataset) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(EXAMPLES / "parts_in_monai.yaml"))
    parser.update({"dataset_dir": str(phantoms.folder), "classes": 5, "epochs": 1})
    parser.get_parsed_content("run")
    trainer = parser.get_parsed_content("trainer")
    assert trainer.state.epoch == 1
    assert float(trainer.state.output[0]["loss"]) > 0.0


def test_parts_alone(capsys: pytest.CaptureFixture[str]) -> None:
    example("parts_alone.py")["main"]()  # type: ignore[operator]
    assert capsys.readouterr().out.splitlines() == [
        "Dice 1.0",
        "Dice 1.0",
        "Hausdorff distance 0.0 mm",
    ]
    lines = (EXAMPLES / "parts_alone.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 25


def test_onnx_runtime_with_nothing_of_ours(exported: Exported, run: Path, tmp_path: Path) -> None:
    plan_spacing = (2.5, 2.5, 3.0)
    voxels = np.random.default_rng(1).normal(3.0, 2.0, (21, 18, 17)).astype(np.float32)
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([*plan_spacing, 1.0])), path)
    hidden = "import sys; sys.modules.update(dict.fromkeys(['medseg', 'monai', 'torch'])); import runpy; "
    program = (
        f"sys.argv = sys.argv[1:]; runpy.run_path({str(EXAMPLES / 'onnx_alone.py')!r}, run_name='__main__')"
    )
    arguments = [str(exported.bundle / "models" / "model.onnx"), str(path), str(tmp_path / "labels.nii.gz")]
    subprocess.run([sys.executable, "-c", hidden + program, "onnx_alone.py", *arguments], check=True)
    found = read_volume(tmp_path / "labels.nii.gz")
    expected = load_segmenter(run, "cpu", mode="streaming").segment(path)
    assert (found.array != expected.array).mean() < 1e-3
