"""Windows laid by hand."""

from __future__ import annotations

import pytest

from medseg.errors import ConfigError
from medseg.inference.sliding_window.layout import Layout, OutputGrid


def test_the_last_window_is_moved_back() -> None:
    assert Layout.of((10, 7), (4, 4), 0.25).starts == ((0, 3, 6), (0, 3))


def test_sizes_that_are_not_positive_stand_for_the_whole_axis() -> None:
    assert Layout.of((10, 7, 5), (0, -1, 4), 0.0).window == (10, 7, 4)


def test_more_is_padded_behind() -> None:
    layout = Layout.of((5, 2), (4, 7), 0.5)
    assert layout.size == (5, 7)
    assert layout.padding == ((0, 0), (2, 3))


def test_slices_are_done_when_no_later_window_starts_before_them() -> None:
    visits = Layout.of((6, 4), (4, 2), 0.5).visits(axis=1)
    assert [visit.corner for visit in visits] == [(0, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2)]
    assert [visit.done for visit in visits] == [0, 1, 1, 2, 2, 4]


def test_the_axis_with_the_most_layers_is_the_thinnest() -> None:
    assert Layout.of((10, 40, 20), (8, 8, 8), 0.5).thinnest_axis() == 1
    assert Layout.of((10, 10), (5, 5), 0.5).thinnest_axis() == 0


def test_an_output_half_as_fine() -> None:
    grid = OutputGrid(Layout.of((12, 3), (8, 8), 0.5), (4, 4))
    assert grid.size == (6, 4)
    assert grid.starts == ((0, 2), (0,))
    assert grid.inside == ((0, 6), (1, 2))  # voxels 2 to 5 of 8, halved and rounded to even


def test_windows_between_voxels_are_refused() -> None:
    with pytest.raises(ConfigError, match="falls between the voxels"):
        _ = OutputGrid(Layout.of((45,), (5,), 0.0), (7,)).starts  # 45 * (7 / 5) is just below 63


@pytest.mark.parametrize(
    ("roi_size", "overlap", "where"),
    [((4, 4, 4), 0.5, "roi_size"), ((4, 4), (0.5,), "overlap"), (4, 1.0, "overlap"), (4, -0.1, "overlap")],
)
def test_what_does_not_fit_is_refused(roi_size: object, overlap: object, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        Layout.of((8, 8), roi_size, overlap)  # type: ignore[arg-type]
