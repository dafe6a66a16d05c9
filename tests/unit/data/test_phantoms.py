"""Phantoms: the same from the same seed, on the grid that was asked for, and hard enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medseg.data.phantoms import make_phantom, phantom_labels, write_phantom_dataset
from medseg.errors import ConfigError, ResourceError
from medseg.io import read_volume

SMALL = (32, 32, 20)


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_the_same_seed_gives_the_same_phantom(kind: str) -> None:
    first, again, other = (make_phantom(kind, seed, shape=SMALL) for seed in ([0, 3], [0, 3], [0, 4]))
    for part in ("image", "label", "instances"):
        np.testing.assert_array_equal(getattr(first, part).array, getattr(again, part).array)
    assert first.image.grid == again.image.grid
    assert (first.label.array != other.label.array).any()


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_every_class_is_there_in_every_case(kind: str) -> None:
    labels = phantom_labels(kind)
    for index in range(12):
        phantom = make_phantom(kind, [0, index])
        voxels = np.bincount(phantom.label.array.ravel(), minlength=len(labels))
        assert voxels.size == len(labels)
        assert voxels.min() > 200, f"case {index}: {voxels}"
        assert phantom.label.grid == phantom.image.grid == phantom.instances.grid


def test_ct_is_in_hounsfield_units() -> None:
    phantom = make_phantom("ct", 0)
    image, label = phantom.image.array, phantom.label.array
    assert image.dtype == np.int16
    assert image.min() >= -1024
    assert np.median(image[:, 0]) == pytest.approx(-1000, abs=30)
    liver, kidney, bone = (np.median(image[label == value]) for value in (1, 3, 5))
    assert 85 < liver < 145 < kidney < 230 < bone < 600


def test_mr_has_a_gain_of_its_own_in_every_case_and_a_bias_field() -> None:
    gains = [np.percentile(make_phantom("mr", [0, i], shape=SMALL).image.array, 99) for i in range(6)]
    assert max(gains) / min(gains) > 1.3
    phantom = make_phantom("mr", 0)
    assert phantom.image.array.dtype == np.float32
    nuclei = [np.median(phantom.image.array[phantom.label.array == value]) for value in (2, 3)]
    assert abs(nuclei[0] / nuclei[1] - 1.0) > 0.005


@pytest.mark.parametrize(("kind", "left", "right"), [("ct", 3, 4), ("mr", 2, 3)])
def test_left_lies_left_in_the_world(kind: str, left: int, right: int) -> None:
    labels = phantom_labels(kind)
    assert labels.partner_index(left) == right
    for axcodes in ("RAS", "LPS", "PIR"):
        phantom = make_phantom(kind, 1, axcodes=axcodes)
        middles = [
            phantom.label.grid.to_world(np.argwhere(phantom.label.array[0] == value)).mean(axis=0)
            for value in (left, right)
        ]
        assert middles[0][0] < 0.0 < middles[1][0]


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_instances_cover_their_class_and_touch(kind: str) -> None:
    phantom = make_phantom(kind, 0)
    label, instances = phantom.label.array[0], phantom.instances.array[0]
    value = len(phantom_labels(kind)) - 1
    np.testing.assert_array_equal(instances > 0, label == value)
    count = int(instances.max())
    assert count >= 3
    assert np.unique(instances).tolist() == list(range(count + 1))
    assert ndimage.label(instances > 0)[1] < count, "no two instances touch"


@pytest.mark.parametrize("axcodes", ["LAS", "LPS", "PIR", "SAL"])
def test_orientation_changes_the_order_of_voxels_only(axcodes: str) -> None:
    plain = make_phantom("mr", 2, shape=SMALL)
    stored = make_phantom("mr", 2, shape=SMALL, axcodes=axcodes)
    assert stored.image.grid.axcodes == axcodes
    back = stored.image.reoriented("RAS")
    np.testing.assert_array_equal(back.array, plain.image.array)
    assert plain.image.grid.difference(back.grid) is None


def test_spacing_and_tilt_are_those_asked_for() -> None:
    phantom = make_phantom("ct", 0, shape=SMALL, spacing_mm=(1.0, 1.0, 2.5), tilt_degrees=(10.0, -5.0, 8.0))
    grid = phantom.image.grid
    assert grid.spacing_mm == pytest.approx((1.0, 1.0, 2.5))
    assert grid.is_orthogonal
    assert np.abs(grid.directions - np.eye(3)).max() > 0.1
    np.testing.assert_allclose(grid.to_world((np.array(SMALL) - 1) / 2), 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "us"}, "choose one of ct, mr"),
        ({"shape": (15, 32, 32)}, "at least 16 voxels"),
        ({"axcodes": "RAX"}, "not an orientation"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_phantom(**options)  # type: ignore[arg-type]


def test_a_dataset_is_written_in_msd_layout(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path / "d", "mr", count=3, test_count=2, seed=7, shape=SMALL)
    assert [case.id for case in dataset.cases] == ["mr_000", "mr_001", "mr_002"]
    assert [case.id for case in dataset.test_cases] == ["mr_003", "mr_004"]
    assert dataset.labels.names == phantom_labels("mr").names
    assert sorted(path.name for path in (tmp_path / "d" / "labelsTs").iterdir()) == [
        "mr_003.nii.gz",
        "mr_004.nii.gz",
    ]
    for index, axcodes in enumerate(("RAS", "LAS", "LPS", "RAS", "LAS")):
        part = "Tr" if index < 3 else "Ts"
        image, label = (
            read_volume(tmp_path / "d" / f"{what}{part}" / f"mr_{index:03d}.nii.gz")
            for what in ("images", "labels")
        )
        alone = make_phantom("mr", [7, index], shape=SMALL, axcodes=axcodes)
        np.testing.assert_array_equal(image.array, alone.image.array)
        np.testing.assert_array_equal(label.array, alone.label.array)
        assert alone.image.grid.difference(image.grid) is None
        assert image.grid.difference(label.grid) is None


def test_spacing_can_vary_between_cases(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path, count=3, test_count=0, shape=SMALL, spacing_variation=0.1)
    spacings = {read_volume(case.images[0]).grid.spacing_mm for case in dataset.cases}
    assert len(spacings) == 3


def test_datasets_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make no dataset"):
        write_phantom_dataset(tmp_path / "d", count=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="is a file"):
        write_phantom_dataset(tmp_path / "file", count=1, test_count=0, shape=SMALL)
    assert not (tmp_path / "d").exists()
