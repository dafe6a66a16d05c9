"""Components and holes against arrays done by hand, SciPy, scikit-image, and what holds for any mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage.measure import label as skimage_label
from skimage.morphology import remove_small_objects

from medseg.components import bounding_box, component_sizes, connected_components, voxels_at_least
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.postprocessing import fill_holes, largest_component, remove_small

Mask = npt.NDArray[np.bool_]
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))
NEIGHBOURS = {"faces": 1, "edges": 2, "corners": 3}


def mask_of(*rows: str) -> Mask:
    return np.array([[letter == "#" for letter in row] for row in rows])


def random_mask(seed: int, density: float = 0.4) -> Mask:
    return np.random.default_rng(seed).random((17, 12, 9)) < density


@pytest.mark.parametrize(("connectivity", "count"), [("faces", 3), ("edges", 2), ("corners", 1)])
def test_neighbours_share_a_face_an_edge_or_a_corner(connectivity: str, count: int) -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[1, 2, 2] = True  # an edge apart, then a corner

    assert connected_components(mask, connectivity)[1] == count


@pytest.mark.parametrize("connectivity", NEIGHBOURS)
@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_scikit_image(connectivity: str, seed: int) -> None:
    mask = random_mask(seed, density=0.2)

    numbers, count = connected_components(mask, connectivity)

    expected = skimage_label(mask, connectivity=NEIGHBOURS[connectivity])
    assert count == expected.max()
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(component_sizes(numbers, count), np.bincount(numbers.ravel())[1:])


def test_the_largest_component_by_hand() -> None:
    mask = mask_of("##..#", "....#", "#...#")

    expected = mask_of("....#", "....#", "....#")
    np.testing.assert_array_equal(largest_component(mask), expected)


def test_of_equally_large_components_the_first_is_kept() -> None:
    np.testing.assert_array_equal(largest_component(mask_of("##.##")), mask_of("##..."))


def test_diagonal_neighbours_belong_together_where_asked() -> None:
    mask = mask_of("##..", "..##", "....", "#...")

    np.testing.assert_array_equal(largest_component(mask, "corners"), mask_of("##..", "..##", "....", "...."))


def test_holes_by_hand() -> None:
    ring_with_an_island = mask_of("#####.", "#...#.", "#.#.##", "#...#.", "####..")
    closed_but_for_a_corner = mask_of("###", "#.#", "##.")
    open_to_the_edge = mask_of("###", "#.#", "#.#")

    filled = mask_of("#####.", "#####.", "######", "#####.", "####..")
    np.testing.assert_array_equal(fill_holes(ring_with_an_island), filled)
    np.testing.assert_array_equal(fill_holes(closed_but_for_a_corner), mask_of("###", "###", "##."))
    np.testing.assert_array_equal(fill_holes(open_to_the_edge), open_to_the_edge)


@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_holes_are_those_of_scipy(mask: Mask) -> None:
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize("seed", range(4))
def test_small_components_go_as_in_scikit_image(seed: int) -> None:
    mask = random_mask(seed, density=0.25)
    spacing = (0.5, 2.0, 4.0)  # 4 mm³ a voxel

    kept = remove_small(mask, spacing, smallest_volume_ml=0.020)

    np.testing.assert_array_equal(kept, remove_small_objects(mask, max_size=4))
    assert kept.any()
    assert (kept != mask).any()


@pytest.mark.parametrize(
    ("volume_ml", "spacing", "voxels"),
    [
        (0.0, (1, 1, 1), 0),
        (0.001, (1, 1, 1), 1),
        (0.003, (0.1, 0.1, 0.1), 3000),
        (0.0011, (1, 1, 1), 2),
        (1.0, (5, 5, 4), 10),
    ],
)
def test_voxels_of_a_volume(volume_ml: float, spacing: tuple[float, ...], voxels: int) -> None:
    assert voxels_at_least(volume_ml, spacing) == voxels


@given(MASKS, st.sampled_from(sorted(NEIGHBOURS)), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_done_twice_nothing_more_changes(mask: Mask, connectivity: str, smallest: int) -> None:
    spacing = (1.0,) * mask.ndim
    largest = largest_component(mask, connectivity)
    kept = remove_small(mask, spacing, smallest / 1000, connectivity)
    filled = fill_holes(mask)

    assert not (largest & ~mask).any()
    assert not (kept & ~mask).any()
    assert not (mask & ~filled).any()
    np.testing.assert_array_equal(largest_component(largest, connectivity), largest)
    np.testing.assert_array_equal(remove_small(kept, spacing, smallest / 1000, connectivity), kept)
    np.testing.assert_array_equal(fill_holes(filled), filled)
    assert largest.any() == mask.any()


@given(MASKS, st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_a_mirror_image_gives_the_mirrored_result(mask: Mask, axis: int) -> None:
    axis %= mask.ndim
    spacing = (1.0, 2.0, 3.0)[: mask.ndim]
    for change in (fill_holes, lambda one: remove_small(one, spacing, 0.010)):
        np.testing.assert_array_equal(np.flip(change(np.flip(mask, axis)), axis), change(mask))


@given(MASKS)
@settings(max_examples=40, deadline=None)
def test_how_memory_is_laid_out_changes_nothing(mask: Mask) -> None:
    for change in (fill_holes, largest_component):
        np.testing.assert_array_equal(change(np.asfortranarray(mask)), change(mask))


@given(MASKS)
@settings(max_examples=40, deadline=None)
def test_the_bounding_box_is_the_smallest(mask: Mask) -> None:
    box = bounding_box(mask)

    if box is None:
        assert not mask.any()
        return
    assert box == ndimage.find_objects(mask.astype(int))[0]


def test_empty_and_full_masks() -> None:
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    for mask in (empty, full):
        np.testing.assert_array_equal(fill_holes(mask), mask)
        np.testing.assert_array_equal(largest_component(mask), mask)
        np.testing.assert_array_equal(remove_small(mask, (1, 1, 1), 0.01), mask)


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(InputError, match="mask of type uint8, booleans are needed"):
        largest_component(np.zeros((3, 3), np.uint8))
    with pytest.raises(GeometryError, match="mask of 1 axes"):
        fill_holes(np.zeros(3, bool))
    for change in (largest_component, connected_components):
        with pytest.raises(ConfigError, match="unknown connectivity 'sides'; use faces, edges or corners"):
            change(np.zeros((3, 3), bool), "sides")
    for spacing in ((1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))):
        with pytest.raises(GeometryError, match="is no spacing of 2 axes"):
            remove_small(np.zeros((3, 3), bool), spacing, 1.0)
