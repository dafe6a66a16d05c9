"""The overlay picture: what it shows, and how it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from medseg.data.phantoms import make_phantom, phantom_labels
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.geometry import Grid
from medseg.io import read_volume
from medseg.labels import LabelScheme
from medseg.pictures import overlay
from medseg.volume import Volume

image_module = pytest.importorskip("matplotlib.image")

ONE = LabelScheme.from_names({1: "block"})


def pixels_of(path: Path) -> np.ndarray:
    """(rows, columns, 3) in 0..255."""
    return np.round(255.0 * image_module.imread(path)[..., :3]).astype(int)


def pixels_near(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture - np.array(colour)).max(axis=-1) <= 12).sum())


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR"])
def test_right_front_and_head_are_at_the_left_and_at_the_top(tmp_path: Path, axcodes: str) -> None:
    array = np.zeros((1, 30, 30, 30), np.float32)
    array[:, 14:, 14:, 14:] = 100.0
    volume = Volume(array, Grid((30, 30, 30), np.eye(4))).reoriented(axcodes)
    overlay(tmp_path / "o.png", volume, ONE)
    for panel in np.array_split(pixels_of(tmp_path / "o.png").sum(axis=-1) > 600, 3, axis=1):
        left, right = np.array_split(panel, 2, axis=1)
        top, bottom = np.array_split(panel, 2, axis=0)
        assert left.mean() > 2 * right.mean()
        assert top.mean() > 2 * bottom.mean()


def test_classes_are_drawn_in_their_colours_and_only_if_present(tmp_path: Path) -> None:
    phantom, labels = make_phantom("mr", 0), phantom_labels("mr")
    without = Volume(np.where(phantom.label.array == 4, 0, phantom.label.array), phantom.label.grid)
    overlay(tmp_path / "all.png", phantom.image, labels, phantom.label)
    overlay(tmp_path / "some.png", phantom.image, labels, without)
    full, some = pixels_of(tmp_path / "all.png"), pixels_of(tmp_path / "some.png")
    for entry in labels.foreground:
        assert pixels_near(full, entry.color) > 100, entry.name
    assert pixels_near(some, labels.foreground[0].color) > 100
    assert pixels_near(some, labels.foreground[3].color) == 0


def test_each_label_map_adds_a_row(tmp_path: Path) -> None:
    phantom, labels = make_phantom("ct", 0, axcodes="LAS", tilt_degrees=(0.0, 6.0, 9.0)), phantom_labels("ct")
    for name, maps in {
        "1": {},
        "2": {"prediction": phantom.label},
        "3": {"reference": phantom.label, "prediction": phantom.label},
    }.items():
        overlay(tmp_path / f"{name}.png", phantom.image, labels, **maps)
    heights = [len(pixels_of(tmp_path / f"{count}.png")) for count in (1, 2, 3)]
    assert heights[2] - heights[1] >= 250
    assert heights[1] - heights[0] >= 250


def test_label_maps_can_be_shown_without_an_image(tmp_path: Path) -> None:
    phantom, labels = make_phantom("mr", 0), phantom_labels("mr")
    overlay(tmp_path / "with.png", phantom.image, labels, phantom.label, phantom.label)
    overlay(tmp_path / "without.png", None, labels, phantom.label, phantom.label)
    overlay(tmp_path / "alone.png", None, labels, prediction=phantom.label)
    heights = {path.stem: len(pixels_of(path)) for path in tmp_path.iterdir()}
    assert heights["with"] - heights["without"] >= 250
    assert heights["without"] - heights["alone"] >= 250
    picture = pixels_of(tmp_path / "without.png")
    assert all(pixels_near(picture, entry.color) > 100 for entry in labels.foreground)
    with pytest.raises(ConfigError, match="there is nothing to draw"):
        overlay(tmp_path / "nothing.png", None, labels)


def test_the_same_input_gives_the_same_picture(tmp_path: Path) -> None:
    phantom = make_phantom("mr", 0, shape=(32, 32, 20))
    for name in ("a", "b"):
        overlay(tmp_path / f"{name}.png", phantom.image, phantom_labels("mr"), phantom.label, title="case")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_an_empty_reference_and_an_image_with_holes_can_be_shown(tmp_path: Path) -> None:
    array = np.full((2, 12, 10, 8), np.nan, np.float32)
    array[:, 3:9] = np.inf
    grid = Grid((12, 10, 8), np.diag([1.0, 1.0, 17.0, 1.0]))
    empty = Volume(np.zeros((1, 12, 10, 8), np.uint8), grid)
    overlay(tmp_path / "o.png", Volume(array, grid), ONE, empty, empty, title="5 $ or 6 $")
    assert pixels_of(tmp_path / "o.png").any()


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    image = Volume(np.zeros((1, 4, 4, 4)), Grid((4, 4, 4), np.eye(4)))
    odd = LabelScheme.from_names({1: r"a $\frac{ _b"})
    overlay(tmp_path / "o.png", image, odd, Volume(np.ones((1, 4, 4, 4), np.uint8), image.grid))
    assert pixels_near(pixels_of(tmp_path / "o.png"), odd.foreground[0].color) > 100


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    image = Volume(np.zeros((1, 4, 4, 4)), Grid((4, 4, 4), np.eye(4)))
    elsewhere = Volume(np.zeros((1, 4, 4, 4), int), Grid((4, 4, 4), np.diag([-1.0, 1.0, 1.0, 1.0])))
    undeclared = Volume(np.full((1, 4, 4, 4), 2), image.grid)
    with pytest.raises(
        GeometryError, match="prediction: lies on another grid than the image: orientation LAS"
    ):
        overlay(tmp_path / "o.png", image, ONE, None, elsewhere)
    with pytest.raises(InputError, match="reference: label value 2 is not declared"):
        overlay(tmp_path / "o.png", image, ONE, undeclared)
    with pytest.raises(ConfigError, match=r"o\.jpg: is no \.png file"):
        overlay(tmp_path / "o.jpg", image, ONE)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_matplotlib_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Volume(np.zeros((1, 4, 4, 4)), Grid((4, 4, 4), np.eye(4)))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'medseg\[report\]'"):
        overlay(tmp_path / "o.png", image, ONE)


@pytest.mark.data
@pytest.mark.parametrize(
    ("image", "label", "least_classes"),
    [
        ("mr/vertebra/sub-mri_label-6_T2w.nii.gz", "mr/vertebra/sub-mri_seg-subreg_label-6_msk.nii.gz", 10),
        ("ct/totalsegmentator/example_ct_sm.nii.gz", "ct/totalsegmentator/example_seg.nii.gz", 35),
    ],
)
def test_real_volumes_with_many_classes_get_a_full_legend(
    test_data: Path, tmp_path: Path, image: str, label: str, least_classes: int
) -> None:
    reference = read_volume(test_data / label)
    values = [int(value) for value in np.unique(reference.array) if value]
    labels = LabelScheme.from_names({value: f"structure {value}" for value in values})
    overlay(tmp_path / "o.png", read_volume(test_data / image), labels, reference)
    picture = pixels_of(tmp_path / "o.png")
    assert len(values) >= least_classes
    assert all(pixels_near(picture, entry.color) >= 100 for entry in labels.foreground)
