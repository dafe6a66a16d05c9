"""Which case a plan is drawn on, and what becomes of the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.pictures import PlanExample, plan_picture
from medseg.progress import SilentProgress
from medseg.runs import Plan, Recipe
from medseg.training import draw_plan, plan_from_dataset
from medseg.training.plan_picture import median_case

WINDOWS = {"mode": "sliding-window"}
PNG = b"\x89PNG\r\n\x1a\n"


class Told(SilentProgress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def _is_png(path: Path) -> bool:
    return path.read_bytes().startswith(PNG)


def test_the_case_nearest_to_the_median_is_drawn(make_dataset: Callable[..., Dataset]) -> None:
    # In millimetres the cases have sides of 8, 10 and 30; in voxels 8, 20 and 6.
    sizes, spacings = (8, 20, 6), (1.0, 0.5, 5.0)
    dataset = make_dataset(
        [np.ones((1, size, size, size), np.float32) for size in sizes],
        [np.ones((size, size, size), np.uint8) for size in sizes],
        affines=[np.diag([spacing, spacing, spacing, 1.0]) for spacing in spacings],
    )
    plan = plan_from_dataset(dataset, Recipe(inference=WINDOWS))
    assert median_case(plan, dataset).id == "case_0"


def test_phantoms_are_drawn(phantoms: Dataset, plan: Plan, tmp_path: Path) -> None:
    assert draw_plan(plan, phantoms, tmp_path / "plan.png")
    assert _is_png(tmp_path / "plan.png")


def test_a_plan_without_labels_is_drawn(phantoms: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(pretrain={"noise_std": 0.1}, training={"patch_size": (16, 16, 8)})
    plan = plan_from_dataset(phantoms, recipe)
    assert draw_plan(plan, phantoms.without_labels(), tmp_path / "plan.png")
    assert _is_png(tmp_path / "plan.png")


def test_several_channels_a_single_slice_and_an_absent_class(
    make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(3, 24, 20, 1)).astype(np.float32) for _ in range(2)]
    labels = [(rng.random((24, 20, 1)) < 0.3).astype(np.uint8) for _ in range(2)]
    dataset = make_dataset(images, labels, modalities=("CT", "T1", "mask"))
    plan = plan_from_dataset(dataset, Recipe(inference=WINDOWS))
    assert draw_plan(plan, dataset, tmp_path / "plan.png")
    assert _is_png(tmp_path / "plan.png")


def test_without_matplotlib_one_line_says_so(
    phantoms: Dataset, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.training.plan_picture.find_spec", lambda _name: None)
    told = Told()
    assert not draw_plan(plan, phantoms, tmp_path / "plan.png", told)
    assert len(told.notes) == 1
    assert "matplotlib" in told.notes[0]
    assert not (tmp_path / "plan.png").exists()


def test_what_cannot_be_drawn_is_refused(phantoms: Dataset, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        draw_plan(plan, phantoms, tmp_path / "plan.jpg")
    short = plan.fingerprint.model_copy(update={"channels": ()})
    example = PlanExample("case", np.zeros((2, 2, 2)), None, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="plan anew"):
        plan_picture(tmp_path / "plan.png", plan.model_copy(update={"fingerprint": short}), example)
    assert not list(tmp_path.iterdir())
