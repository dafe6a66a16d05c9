from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest

from medseg.data import Dataset
from medseg.data.reading import read_labelled_case
from medseg.errors import GeometryError, InputError
from medseg.training import fingerprint

MakeDataset = Callable[..., Dataset]


def _label(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(2, 2, -1)


def test_counts_and_intensities_by_hand(make_dataset: MakeDataset) -> None:
    first = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    second = 10 * np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    dataset = make_dataset(
        [first, second], [_label(0, 1, 0, 0, 5, 0, 0, 0), _label(0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 5)]
    )
    facts = fingerprint(dataset)
    assert facts.cases == 2
    assert facts.class_voxels == (7 - 1 + 10, 1, 3)
    inside = np.array([1.0, 4.0, 20.0, 110.0])
    low, high = np.percentile(inside, [0.5, 99.5])
    clipped = inside.clip(low, high)
    assert facts.foreground_intensity == (
        {"lower": low, "upper": high, "mean": clipped.mean(), "std": clipped.std()},
    )


def test_shapes_and_spacings_are_medians_in_one_orientation(make_dataset: MakeDataset) -> None:
    # Stored P, I, R: its axes in the order R, A, S have 5, 3 and 4 voxels of 0.5, 2 and 3 mm.
    pir = np.array([[0, 0, 0.5, 0], [-2, 0, 0, 0], [0, -3, 0, 0], [0, 0, 0, 1]])
    shapes = [(3, 4, 5), (7, 3, 4), (9, 9, 2)]
    affines = [pir, np.diag([1.0, 1.0, 1.0, 1.0]), np.diag([-4.0, 0.1, 1.0, 1.0])]
    dataset = make_dataset(
        [np.ones((1, *shape), np.float32) for shape in shapes],
        [np.ones(shape, np.uint8) for shape in shapes],
        affines=affines,
    )
    facts = fingerprint(dataset)
    assert facts.median_shape == (7, 3, 4)
    assert facts.largest_shape == (9, 9, 4)
    assert facts.median_spacing_mm == (1.0, 1.0, 1.0)
    assert fingerprint(dataset, axcodes="SAR").median_shape == (4, 3, 7)


def test_noise_of_single_precision_is_no_spacing(make_dataset: MakeDataset) -> None:
    affine = np.diag([np.float32(0.7), np.float32(0.7), np.float32(1.1), 1.0]).astype(float)
    assert affine[0, 0] != 0.7
    dataset = make_dataset(
        [np.ones((1, 2, 2, 2), np.float32)], [np.ones((2, 2, 2), np.uint8)], affines=[affine]
    )
    assert fingerprint(dataset).median_spacing_mm == (0.7, 0.7, 1.1)


def test_each_channel_has_its_intensities(make_dataset: MakeDataset) -> None:
    image = np.stack([np.full((2, 2, 2), 3.0), np.full((2, 2, 2), -8.0)]).astype(np.float32)
    dataset = make_dataset([image], [np.ones((2, 2, 2), np.uint8)], modalities=("T1", "T2"))
    first, second = fingerprint(dataset).foreground_intensity
    assert first == {"lower": 3.0, "upper": 3.0, "mean": 3.0, "std": 0.0}
    assert second["mean"] == -8.0


def test_large_cases_are_sampled_the_same_each_time(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
    dataset = make_dataset([image], [np.ones((20, 20, 20), np.uint8)])
    monkeypatch.setattr(importlib.import_module("medseg.training.case_facts"), "SAMPLES_PER_CASE", 500)
    first, second = fingerprint(dataset), fingerprint(dataset)
    assert first == second
    (intensity,) = first.foreground_intensity
    assert intensity["mean"] == pytest.approx(0.0, abs=0.2)
    assert intensity["lower"] > image.min()


def test_a_label_on_another_grid_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(
        [np.ones((1, 2, 2, 2), np.float32)],
        [np.ones((2, 2, 2), np.uint8)],
        label_affines=[np.diag([-1.0, 1.0, 1.0, 1.0])],
    )
    with pytest.raises(GeometryError) as caught:
        fingerprint(dataset)
    assert str(caught.value) == (
        f"{dataset.cases[0].label}: is not on the grid of case_0.nii: orientation LAS instead of RAS; "
        "resample it onto its image"
    )


def test_an_undeclared_label_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([np.ones((1, 2, 2, 2), np.float32)], [_label(0, 1, 2, 0, 0, 0, 0, 0)])
    with pytest.raises(InputError, match=r"labelsTr/case_0\.nii: label value 2 is not declared"):
        fingerprint(dataset)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float, make_dataset: MakeDataset) -> None:
    image = np.ones((1, 2, 2, 2), np.float32)
    image[0, 1, 0, 1] = value
    with pytest.raises(InputError, match=r"imagesTr/case_0\.nii: holds 1 (NaN|infinite) voxels"):
        fingerprint(make_dataset([image], [np.ones((2, 2, 2), np.uint8)]))


def test_another_number_of_channels_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(
        [np.ones((1, 2, 2, 2), np.float32)], [np.ones((2, 2, 2), np.uint8)], modalities=("T1", "T2")
    )
    with pytest.raises(InputError, match=r"case_0\.nii: has 1 channels, the data set declares 2"):
        fingerprint(dataset)


def test_a_label_of_several_channels_is_refused(make_dataset: MakeDataset) -> None:
    from medseg.geometry import Grid
    from medseg.io import write_volume
    from medseg.volume import Volume

    dataset = make_dataset([np.ones((1, 2, 2, 2), np.float32)], [np.ones((2, 2, 2), np.uint8)])
    label = dataset.cases[0].label
    assert label is not None
    write_volume(Volume(np.ones((2, 2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4))), label)
    with pytest.raises(InputError, match="has 2 channels, a label map has one"):
        fingerprint(dataset)


def test_labels_without_any_structure_are_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([np.ones((1, 2, 2, 2), np.float32)] * 2, [np.zeros((2, 2, 2), np.uint8)] * 2)
    with pytest.raises(InputError, match="no label map holds any structure"):
        fingerprint(dataset)


def test_a_case_without_structure_is_fine_beside_others(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(
        [np.ones((1, 2, 2, 2), np.float32)] * 2, [np.zeros((2, 2, 2), np.uint8), np.ones((2, 2, 2), np.uint8)]
    )
    assert fingerprint(dataset).class_voxels == (8, 8, 0)


def test_a_case_without_label_and_a_set_without_cases_are_refused(phantoms: Dataset) -> None:
    from dataclasses import replace

    unlabelled = replace(phantoms.cases[0], label=None)
    with pytest.raises(InputError, match=r"mr_000\.nii\.gz: has no label"):
        read_labelled_case(unlabelled, phantoms.labels, 1)
    with pytest.raises(InputError, match="holds no training case"):
        fingerprint(replace(phantoms, cases=()))


def test_class_indices_come_in_the_order_of_values(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([np.ones((1, 2, 2, 2), np.float32)], [_label(0, 5, 1, 0, 0, 0, 0, 5)])
    image, label = read_labelled_case(dataset.cases[0], dataset.labels, 1)
    assert label.array.ravel().tolist() == [0, 2, 1, 0, 0, 0, 0, 2]
    assert label.grid == image.grid


def test_classes_have_their_cases_components_and_partners(make_dataset: MakeDataset) -> None:
    first, second = np.zeros((5, 4, 4), np.uint8), np.zeros((5, 4, 4), np.uint8)
    first[0, :2, 0] = 1  # two voxels
    first[2, 0, 0] = first[4, 3, 3] = 1  # one voxel each; neighbours by a corner do not touch
    first[3, 2, 2] = 1
    second[1, 1, 1:4] = 1  # three
    second[3:, 0, 0] = 5
    image = np.zeros((1, 5, 4, 4), np.float32)
    dataset = make_dataset(
        [image, image],
        [first, second],
        affines=[np.diag([1.0, 2.0, 5.0, 1.0])] * 2,
        names={"0": "background", "1": "left kidney", "5": "right kidney"},
    )
    left, right = fingerprint(dataset).classes
    assert (left.cases, left.components, left.partner) == (2, 5, "right kidney")
    assert (left.smallest_ml, left.median_ml, left.largest_ml) == (0.01, 0.01, 0.03)
    assert (right.cases, right.components, right.partner) == (1, 1, "left kidney")
    assert right.median_ml == 0.02


def test_a_class_that_no_case_holds_has_no_components(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([np.ones((1, 2, 2, 2), np.float32)], [np.ones((2, 2, 2), np.uint8)])
    _, absent = fingerprint(dataset).classes
    assert (absent.cases, absent.components, absent.largest_ml) == (0, 0, 0.0)


def test_the_spread_of_shapes_and_spacings(make_dataset: MakeDataset) -> None:
    shapes = [(2, 2, 2), (4, 2, 3), (2, 2, 12)]
    dataset = make_dataset(
        [np.ones((1, *shape), np.float32) for shape in shapes],
        [np.ones(shape, np.uint8) for shape in shapes],
        affines=[np.diag([1.0, 1.0, thickness, 1.0]) for thickness in (1.0, 2.0, 7.0)],
    )
    facts = fingerprint(dataset)
    assert facts.shape is not None
    assert facts.spacing_mm is not None
    assert (facts.shape.smallest, facts.shape.largest) == ((2, 2, 2), (4, 2, 12))
    assert facts.spacing_mm.tenth_percentile == (1.0, 1.0, 1.2)


@pytest.mark.parametrize(
    ("values", "background", "fraction"),
    [
        ([[0, 0, 0, 5], [0, 0, 7, 9]], 0.0, 0.625),
        ([[-3, 0, 0, 5], [-1, 0, 0, 9]], 0.0, 0.5),  # zero, though it is not the lowest
        ([[-9, -9, 0, 5], [-9, -9, -9, 9]], -9.0, 0.625),
        ([[-9, -9, 1, 5], [-1, -1, 2, 9]], -9.0, 0.25),  # each has its own lowest: one value counts
        ([[1, 2, 3, 4], [1, 5, 6, 7]], 1.0, 0.25),
    ],
)
def test_how_much_of_an_image_is_one_value(
    values: list[list[int]], background: float, fraction: float, make_dataset: MakeDataset
) -> None:
    images = [np.array(row, np.float32).reshape(1, 2, 2, 1) for row in values]
    (channel,) = fingerprint(make_dataset(images, [np.ones((2, 2, 1), np.uint8)] * 2)).channels
    assert (channel.background, channel.background_fraction) == (background, fraction)


def test_histograms_are_parts_of_one_in_each_case_s_own_deviations(make_dataset: MakeDataset) -> None:
    rng = np.random.default_rng(0)
    # The same picture at gains a thousand apart.
    images = [rng.normal(5.0, 1.0, (1, 12, 12, 12)).astype(np.float32) * gain for gain in (1.0, 1000.0)]
    labels = [np.where(image[0] > image.mean(), 1, 0).astype(np.uint8) for image in images]
    (channel,) = fingerprint(make_dataset(images, labels)).channels
    histogram = channel.histogram
    assert histogram.unit == "deviations"
    assert sum(histogram.whole) == pytest.approx(1.0, abs=1e-4)
    assert sum(histogram.foreground) == pytest.approx(1.0, abs=1e-4)
    assert (histogram.lower, histogram.upper) == (pytest.approx(-2.4, abs=0.5), pytest.approx(2.4, abs=0.5))
    below = int(len(histogram.whole) * -histogram.lower / (histogram.upper - histogram.lower))
    assert sum(histogram.foreground[:below]) == pytest.approx(0.0, abs=0.01)


def test_histograms_of_ct_are_in_hounsfield_units(make_dataset: MakeDataset) -> None:
    image = np.linspace(-1000, 400, 27, dtype=np.float32).reshape(1, 3, 3, 3)
    dataset = make_dataset([image], [np.ones((3, 3, 3), np.uint8)], modalities=("CT",))
    (channel,) = fingerprint(dataset).channels
    assert channel.histogram.unit == "stored"
    assert channel.histogram.lower == pytest.approx(-1000, abs=10)
    assert channel.foreground_median == pytest.approx(-300.0)


def test_without_labels_nothing_is_known_of_classes(phantoms: Dataset) -> None:
    facts = fingerprint(phantoms.without_labels(), labelled=False)
    assert facts.classes == ()
    assert len(facts.channels) == 1
