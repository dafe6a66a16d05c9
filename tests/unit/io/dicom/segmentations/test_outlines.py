from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage
from skimage import measure

from medseg.io.dicom.segmentations.outlines import fill_outlines, outlines_of

masks = npst.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def area(outline: np.ndarray) -> float:
    x, y = outline.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2.0


def test_one_voxel_has_a_diamond() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True
    (outline,) = outlines_of(mask)
    assert {tuple(point) for point in outline.tolist()} == {(1.5, 1), (2, 0.5), (2.5, 1), (2, 1.5)}
    assert area(outline) == 0.5


def test_straight_runs_have_no_points_between_their_ends() -> None:
    (outline,) = outlines_of(np.ones((50, 60), dtype=bool))
    assert len(outline) == 8
    assert area(outline) == 50 * 60 - 0.5


def test_a_hole_is_joined_by_a_channel_to_the_left() -> None:
    mask = np.ones((5, 6), dtype=bool)
    mask[2, 3] = False
    (outline,) = outlines_of(mask)
    points = [tuple(point) for point in outline.tolist()]
    assert points.count((-0.5, 1.5)) == 2
    assert points.count((3.0, 1.5)) == 2
    assert area(outline) == 30 - 0.5 - 0.5


def test_nothing_has_no_outline() -> None:
    assert outlines_of(np.zeros((3, 3), dtype=bool)) == []


@given(masks)
@settings(max_examples=300)
def test_filling_outlines_gives_back_the_mask(mask: np.ndarray) -> None:
    assert np.array_equal(fill_outlines(outlines_of(mask), mask.shape), mask)


@given(masks)
@settings(max_examples=150)
def test_readers_that_add_contours_up_see_the_same(mask: np.ndarray) -> None:
    """Each outline alone is one part of the mask with its holes, and encloses an area."""
    outlines = outlines_of(mask)
    parts, count = ndimage.label(mask)
    found = [fill_outlines([outline], mask.shape) for outline in outlines]
    assert len(found) == count
    for part in found:
        (number,) = set(parts[part].tolist())
        assert np.array_equal(part, parts == number)
    assert all(area(outline) > 0 for outline in outlines)


@given(masks)
@settings(max_examples=100)
def test_scikit_image_fills_them_to_the_same_mask(mask: np.ndarray) -> None:
    filled = np.zeros_like(mask)
    for outline in outlines_of(mask):
        filled ^= measure.grid_points_in_poly(mask.shape, outline[:, ::-1])
    assert np.array_equal(filled, mask)


@given(masks)
@settings(max_examples=100)
def test_the_outline_is_that_of_marching_squares(mask: np.ndarray) -> None:
    """Outlines and those of scikit-image enclose the same area: channels have none."""
    contours = measure.find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="low")
    expected = abs(sum(area(contour[:-1, ::-1]) for contour in contours))
    assert sum(area(outline) for outline in outlines_of(mask)) == pytest.approx(expected)


@given(masks)
@settings(max_examples=100)
def test_no_side_comes_near_a_centre(mask: np.ndarray) -> None:
    rows, columns = mask.shape
    centres = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    for outline in outlines_of(mask):
        start, along = outline, np.roll(outline, -1, axis=0) - outline
        offset = centres[:, None] - start[None]
        part = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0.0, 1.0)
        assert np.linalg.norm(offset - part[..., None] * along, axis=-1).min() > 0.35


def test_several_outlines_are_exclusive() -> None:
    outer = np.array([[-0.5, -0.5], [4.5, -0.5], [4.5, 4.5], [-0.5, 4.5]])
    inner = outer / 5.0 + 1.6
    expected = np.ones((5, 5), dtype=bool)
    expected[2, 2] = False
    assert np.array_equal(fill_outlines([outer, inner], (5, 5)), expected)


def test_what_lies_beside_the_image_is_left_out() -> None:
    outline = np.array([[-9.0, -9.0], [1.2, -9.0], [1.2, 40.0], [-9.0, 40.0]])
    assert fill_outlines([outline], (2, 3)).astype(int).tolist() == [[1, 1, 0], [1, 1, 0]]
