"""The picture of a training's course."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import ConfigError
from medseg.pictures import Curve, draw_curves
from medseg.pictures.curves import _between, _smoothed

pytest.importorskip("matplotlib", reason="pictures need the extra 'report'")


def _pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))[..., :3]


def _has(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels - np.array(color) / 255).max(axis=-1) < 0.02).any())


def test_each_curve_is_drawn_in_its_colour(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    curves = [
        Curve("liver", [0.5, 0.75, 0.8], (250, 30, 40)),
        Curve("$spleen", [np.nan, 0.5, 0.6], (30, 220, 60)),  # a name is no formula
        Curve("mean", [0.5, 0.6, 0.7]),
    ]
    draw_curves(path, [1, 2, 3], [3.0, 2.0, 1.0], [1, 2, 3], [0.5, 1.0, 1.5], curves, title="a $ title")
    pixels = _pixels(path)
    for color in ((250, 30, 40), (30, 220, 60), (255, 255, 255), (111, 177, 252)):
        assert _has(pixels, color)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("validations", [0, 1, 2])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_there_may_be_little_to_draw(steps: int, validations: int, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    curves = [Curve("liver", [np.nan] * validations, (250, 30, 40))]
    at = [float(number) for number in range(1, validations + 1)]
    draw_curves(path, list(range(1, steps + 1)), [1.0] * steps, at, [0.0] * validations, curves)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"curves\.jpg: is no \.png file"):
        draw_curves(tmp_path / "curves.jpg", [], [], [], [], [])
    with pytest.raises(ValueError, match="a number for each step"):
        draw_curves(tmp_path / "curves.png", [1], [], [], [], [])
    with pytest.raises(ValueError, match="a number for each step"):
        draw_curves(tmp_path / "curves.png", [], [], [1], [1], [Curve("a", [])])
    assert not list(tmp_path.iterdir())


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300))
def test_a_running_mean_is_numpy_s(losses: list[float]) -> None:
    half = len(losses) // 100
    expected = [np.mean(losses[max(0, at - half) : at + half + 1]) for at in range(len(losses))]
    np.testing.assert_allclose(_smoothed(np.array(losses)), expected, atol=1e-9)


@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=9), st.lists(st.floats(0.1, 100), min_size=9))
def test_minutes_and_steps_go_into_each_other(steps: list[float], minutes: list[float]) -> None:
    known = np.cumsum([0.0, *steps]), np.cumsum([0.0, *minutes[: len(steps)]])
    at = np.linspace(-5.0, known[0][-1] * 1.5, 20)
    there = _between(*known)(at)
    np.testing.assert_allclose(_between(*known[::-1])(there), at, rtol=1e-6, atol=1e-6)
