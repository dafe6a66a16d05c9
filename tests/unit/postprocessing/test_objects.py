"""Objects that touch: balls, boxes and real nuclei, against scikit-image's watershed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import watershed

from medseg.components import connected_components
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.io import read_volume
from medseg.postprocessing import largest_component, separate_objects
from medseg.postprocessing.objects import distance_to_outside_mm

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int32]


def balls(
    shape: tuple[int, ...], spacing: tuple[float, ...], *centres_and_radii: tuple[float, ...]
) -> list[Mask]:
    positions = [axis * length for axis, length in zip(np.indices(shape), spacing, strict=True)]
    return [
        sum((axis - middle) ** 2 for axis, middle in zip(positions, centre, strict=True)) < radius**2
        for *centre, radius in centres_and_radii
    ]


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def require_same_objects(found: Numbers, expected: list[Mask], at_least: float) -> None:
    assert found.max() == len(expected)
    for mask in expected:
        number = np.bincount(found[mask]).argmax()
        assert overlap(found == number, mask) > at_least


SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0), (0.7, 0.7, 3.0)]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_touching_balls_are_two(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(size / length) for size, length in zip((28, 44, 28), spacing, strict=True))
    first, second = balls(shape, spacing, (14, 14, 14, 9), (14, 30, 14, 9))

    found = separate_objects(first | second, spacing)

    assert connected_components(first | second)[1] == 1
    assert found.dtype == np.int32
    require_same_objects(found, [first & ~second, second & ~first], at_least=0.95)
    np.testing.assert_array_equal(found > 0, first | second)


def test_two_spacings_of_one_shape_in_space_are_cut_at_the_same_place() -> None:
    """A dumb-bell along z, whose slices are thick or thin."""
    cuts = []
    for length in (1.0, 2.0):
        shape, spacing = (24, 24, int(40 / length)), (1.0, 1.0, length)
        first, second = balls(shape, spacing, (12, 12, 12, 9), (12, 12, 27, 8))
        found = separate_objects(first | second, spacing)
        assert found.max() == 2
        line = found[12, 12]
        cuts.append(float(np.flatnonzero(line == line[int(12 / length)])[-1] * length))

    assert cuts[0] == pytest.approx(cuts[1], abs=2.0)
    assert cuts[0] == pytest.approx(20.0, abs=2.0)


def test_spacing_decides_where_an_object_is_thick() -> None:
    """Two discs with a shallow waist: two objects if the plane is stretched along their line."""
    first, second = balls((31, 41), (1.0, 1.0), (15, 14, 12), (15, 26, 12))

    assert separate_objects(first | second, (1.0, 1.0), neck_depth_mm=2.0).max() == 1
    assert separate_objects(first | second, (4.0, 4.0), neck_depth_mm=2.0).max() == 2


def test_a_deeper_neck_is_asked_for() -> None:
    first, second = balls((24, 36), (1.0, 1.0), (12, 11, 8), (12, 23, 8))
    mask = first | second  # the neck is about 5 mm from its middle to the outside, balls are 8

    assert separate_objects(mask, (1.0, 1.0), neck_depth_mm=1.0).max() == 2
    assert separate_objects(mask, (1.0, 1.0), neck_depth_mm=4.0).max() == 1


def test_convex_objects_stay_whole() -> None:
    box = np.zeros((30, 20, 12), bool)
    box[3:27, 4:16, 2:10] = True
    (ball,) = balls((31, 31, 31), (1, 1, 1), (15, 15, 15, 12.5))
    plate = np.zeros((40, 40, 9), bool)
    plate[:, :, 3:6] = True  # cut by the image's edge all around
    for mask in (box, ball, plate, np.ones((5, 6, 7), bool)):
        np.testing.assert_array_equal(separate_objects(mask, (1.0, 1.0, 1.0)), mask.astype(np.int32))


def test_the_image_edge_is_not_the_outside() -> None:
    half = np.zeros((20, 20), bool)
    half[:, 5:] = True

    distance = distance_to_outside_mm(half, (1.0, 0.5))

    np.testing.assert_allclose(distance[7], np.maximum(0, np.arange(20) - 4) * 0.5)


@pytest.mark.parametrize("side", [20, 60])  # SciPy measures the small one, ITK the large one
def test_distances_are_those_of_scipy(side: int) -> None:
    mask = np.random.default_rng(0).random((side, side + 1, side + 2)) < 0.9
    spacing = (0.4, 1.0, 3.0)

    np.testing.assert_allclose(
        distance_to_outside_mm(mask, spacing),
        ndimage.distance_transform_edt(mask, sampling=spacing),
        rtol=1e-5,
    )


def test_objects_are_those_that_scikit_image_floods() -> None:
    rng = np.random.default_rng(3)
    shape, spacing = (40, 40, 30), (1.0, 1.0, 1.5)
    all_balls = balls(
        shape, spacing, *((*rng.uniform((5, 5, 5), (35, 35, 40)), rng.uniform(4, 7)) for _ in range(14))
    )
    mask = np.any(all_balls, axis=0)

    found = separate_objects(mask, spacing)

    distance = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(mask, sampling=spacing), (1, 1, 1 / 1.5)
    )
    markers = np.zeros(shape, np.int32)
    for number in range(1, found.max() + 1):  # the top of each object
        inside = np.where(found == number, distance, -1.0)
        markers[np.unravel_index(inside.argmax(), shape)] = number
    flooded = watershed(-distance, markers, mask=mask, connectivity=np.ones((3, 3, 3)))
    assert 6 < found.max() <= 14
    assert (found == flooded)[mask].mean() > 0.98


def test_markers_grow_to_the_border_between_them() -> None:
    border = np.zeros((9, 21), bool)
    border[1:8, 1:20] = True
    markers = np.zeros_like(border)
    markers[3:6, 3:8] = markers[3:6, 14:18] = True

    found = separate_objects(border, (1.0, 1.0), markers=markers)

    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, border)
    assert found[4].tolist() == [0, *[1] * 10, *[2] * 9, 0]


def test_the_way_to_a_marker_runs_within_the_mask() -> None:
    mask = np.ones((5, 9), bool)
    mask[1:4, 0:8] = [[False] * 8, [True] * 8, [False] * 8]
    mask[1:4, 8] = [True, True, False]
    mask[3:, :8] = [[False] * 8, [True] * 8]  # the last row hangs on nothing but its own marker
    mask[3, 8] = False
    mask[4, 8] = False
    markers = np.zeros_like(mask)
    markers[0, 0] = markers[4, 0] = True

    found = separate_objects(mask, (1.0, 1.0), markers=markers)

    # Row 2 begins beside row 4's marker, but belongs to row 0 by the only way there is.
    assert found[2, :8].tolist() == [1] * 8
    assert found[4, :8].tolist() == [2] * 8


def test_what_no_marker_reaches_is_no_object() -> None:
    mask = np.array([[True, True, False, True, True]])
    markers = np.array([[True, False, False, False, False]])

    assert separate_objects(mask, (1.0, 1.0), markers=markers).tolist() == [[1, 1, 0, 0, 0]]


def test_small_objects_are_dropped_and_numbers_close_up() -> None:
    first, second, third = balls((20, 60), (1.0, 1.0), (10, 12, 4), (10, 30, 8), (10, 47, 8))
    mask = first | second | third

    found = separate_objects(mask, (1.0, 1.0), smallest_volume_ml=0.1)

    assert separate_objects(mask, (1.0, 1.0)).max() == 3
    assert np.unique(found).tolist() == [0, 1, 2]
    assert not found[first].any()


def test_a_small_part_of_a_large_component_is_dropped_too() -> None:
    large, small = balls((30, 44), (1.0, 1.0), (15, 15, 12), (15, 31, 5))

    found = separate_objects(large | small, (1.0, 1.0), smallest_volume_ml=0.2)

    assert separate_objects(large | small, (1.0, 1.0)).max() == 2
    assert np.unique(found).tolist() == [0, 1]
    assert found[15, 15] == 1
    assert found[15, 33] == 0


def touching(seed: int) -> Mask:
    rng = np.random.default_rng(seed)
    discs = balls(
        (30, 34), (1.0, 1.0), *((*rng.uniform((6, 6), (24, 28)), rng.uniform(4, 7)) for _ in range(4))
    )
    return np.asarray(np.any(discs, axis=0))


@given(st.integers(0, 10_000), st.sampled_from([0, 1]))
@settings(max_examples=25, deadline=None)
def test_a_mirror_image_holds_the_same_objects(seed: int, axis: int) -> None:
    mask = touching(seed)

    found = separate_objects(mask, (1.0, 1.3))
    mirrored = np.flip(separate_objects(np.flip(mask, axis), (1.0, 1.3)), axis)

    assert found.max() == mirrored.max()
    pairs = np.unique(np.stack([found[mask], mirrored[mask]]), axis=1, return_counts=True)
    assert np.sort(pairs[1])[-found.max() :].sum() > 0.97 * mask.sum()  # but for ties on the watershed


@given(st.integers(0, 10_000), st.sampled_from([0.25, 0.5, 4.0]))
@settings(max_examples=25, deadline=None)
def test_the_unit_of_length_does_not_matter(seed: int, unit: float) -> None:
    mask = touching(seed)

    np.testing.assert_array_equal(
        separate_objects(mask, (1.0, 1.5)), separate_objects(mask, (unit, 1.5 * unit))
    )


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_objects_fill_the_mask_and_each_hangs_together(seed: int) -> None:
    mask = touching(seed)

    found = separate_objects(mask, (1.0, 1.0))

    np.testing.assert_array_equal(found > 0, mask)
    assert np.unique(found[mask]).tolist() == list(range(1, found.max() + 1))
    for number in range(1, found.max() + 1):
        assert connected_components(found == number, "corners")[1] == 1
    np.testing.assert_array_equal(separate_objects(np.asfortranarray(mask), (1.0, 1.0)), found)


def test_nothing_gives_nothing() -> None:
    empty = np.zeros((4, 5, 6), bool)

    assert not separate_objects(empty, (1.0, 1.0, 1.0)).any()
    assert not separate_objects(empty, (1.0, 1.0, 1.0), markers=empty).any()


def test_what_makes_no_sense_is_refused() -> None:
    mask = np.zeros((4, 5), bool)
    with pytest.raises(InputError, match="booleans are needed"):
        separate_objects(mask.astype(np.uint8), (1.0, 1.0))
    with pytest.raises(InputError, match="booleans are needed"):
        separate_objects(mask, (1.0, 1.0), markers=mask.astype(np.uint8))
    with pytest.raises(GeometryError, match=r"markers \(5, 4\) and mask \(4, 5\) differ"):
        separate_objects(mask, (1.0, 1.0), markers=mask.T)
    with pytest.raises(GeometryError, match="is no spacing of 2 axes"):
        separate_objects(mask, (1.0, 1.0, 1.0))
    for option in ("smoothing_mm", "neck_depth_mm", "smallest_volume_ml"):
        with pytest.raises(ConfigError, match="cannot be negative"):
            separate_objects(mask, (1.0, 1.0), **{option: -1.0})


@pytest.mark.data
def test_vertebrae_that_are_shrunk_to_cores_come_back(test_data: Path) -> None:
    instances = read_volume(test_data / "ct" / "vertebra" / "sub-ct_seg-vert_label-22_msk.nii.gz")
    labels, spacing = instances.array[0], instances.grid.spacing_mm
    vertebrae = [largest_component(labels == number, "corners") for number in np.unique(labels[labels > 0])]
    cores = []
    for vertebra in vertebrae:
        distance = distance_to_outside_mm(vertebra, spacing)
        cores.append(largest_component(distance > 0.75 * distance.max()))

    found = separate_objects(
        np.any(vertebrae, axis=0), spacing, markers=np.any(cores, axis=0), connectivity="corners"
    )

    assert found.max() == len(vertebrae) > 1
    for vertebra in vertebrae:
        assert overlap(found == np.bincount(found[vertebra]).argmax(), vertebra) > 0.5


@pytest.mark.data
def test_touching_nuclei_are_told_apart(test_data: Path) -> None:
    image = sitk.ReadImage(str(test_data / "instances" / "stardist" / "mask3d.tif"))
    nuclei = sitk.GetArrayFromImage(image).astype(np.int32)
    masks = [nuclei == number for number in np.unique(nuclei[nuclei > 0])]

    found = separate_objects(nuclei > 0, (2.0, 1.0, 1.0))

    assert connected_components(nuclei > 0)[1] < 20
    assert abs(int(found.max()) - len(masks)) <= 4
    matched = sum(overlap(found == np.bincount(found[mask]).argmax(), mask) > 0.5 for mask in masks)
    assert matched >= 0.9 * len(masks)
