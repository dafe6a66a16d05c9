"""Error maps: which voxels are wrong, and in which way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.data.phantoms import make_phantom, phantom_labels
from medseg.errors import GeometryError
from medseg.geometry import Grid
from medseg.labels import LabelScheme
from medseg.pictures import draw_error_maps
from medseg.pictures.error_maps import ERRORS, error_map
from medseg.volume import Volume

image_module = pytest.importorskip("matplotlib.image")

INDICES = arrays(np.uint8, (3, 4, 2), elements=st.integers(0, 3))


def pixels_near(path: Path, colour: tuple[int, int, int], tolerance: int = 45) -> int:
    picture = np.round(255.0 * image_module.imread(path)[..., :3])
    return int((np.abs(picture - np.array(colour)).max(axis=-1) <= tolerance).sum())


@given(INDICES, INDICES)
def test_each_wrong_voxel_is_wrong_in_one_way(prediction: np.ndarray, reference: np.ndarray) -> None:
    errors = error_map(prediction, reference)
    np.testing.assert_array_equal(errors == 0, prediction == reference)
    np.testing.assert_array_equal(errors == 1, (reference > 0) & (prediction == 0))
    np.testing.assert_array_equal(errors == 2, (reference == 0) & (prediction > 0))


def test_each_kind_of_error_is_drawn_in_its_colour(tmp_path: Path) -> None:
    reference = np.zeros((1, 20, 20, 20), np.uint8)
    reference[:, 5:15, 5:15, 5:15] = 1
    grid = Grid((20, 20, 20), np.eye(4))
    labels = LabelScheme.from_names({1: "one", 2: "two"})
    changed = {
        "missed": np.where(reference == 1, 0, reference),
        "invented": np.where(reference == 0, 1, reference),
        "another class": np.where(reference == 1, 2, reference),
    }
    for kind, array in changed.items():
        path = tmp_path / f"{kind}.png"
        draw_error_maps(path, None, labels, Volume(reference, grid), {"p": Volume(array.astype("u1"), grid)})
        for entry in ERRORS.foreground:
            dimmed = tuple(round(0.85 * part) for part in entry.color)
            assert (pixels_near(path, dimmed) > 5000) == (entry.name == kind), (kind, entry.name)


def test_where_nobody_has_labelled_nothing_is_wrong(tmp_path: Path) -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    labels = LabelScheme.from_names({1: "one"}, ignore=9)
    ones = Volume(np.ones((1, 20, 20, 20), np.uint8), grid)
    invented = tuple(round(0.85 * part) for part in ERRORS.classes[2].color)
    for outside in (0, 9):
        reference = np.full((1, 20, 20, 20), outside, np.uint8)
        reference[:, :10] = 1
        draw_error_maps(tmp_path / "e.png", None, labels, Volume(reference, grid), {"p": ones})
        assert (pixels_near(tmp_path / "e.png", invented, 20) > 5000) == (outside == 0)


def test_each_prediction_adds_a_row(tmp_path: Path) -> None:
    phantom, labels = make_phantom("mr", 0, shape=(24, 24, 20)), phantom_labels("mr")
    heights = []
    for names in (("a", "b"), ("a", "b", "c")):
        maps = dict.fromkeys(names, phantom.label)
        draw_error_maps(tmp_path / "e.png", phantom.image, labels, phantom.label, maps)
        heights.append(len(image_module.imread(tmp_path / "e.png")))
    assert heights[1] - heights[0] >= 250
    moved = Volume(phantom.label.array, Grid(phantom.label.grid.shape, np.eye(4)))
    with pytest.raises(GeometryError, match="b: lies on another grid"):
        draw_error_maps(tmp_path / "e.png", phantom.image, labels, phantom.label, {"b": moved})
