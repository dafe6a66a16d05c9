from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.io.dicom.segmentations.colors import cielab_from_rgb, rgb_from_cielab

channels = st.integers(0, 255)
colors = st.tuples(channels, channels, channels)


def test_black_and_red() -> None:
    assert cielab_from_rgb((0, 0, 0)) == (0, 32896, 32896)
    lightness, a, b = cielab_from_rgb((255, 0, 0))
    # sRGB red has L* 53.24, a* 80.09, b* 67.20 under D65.
    assert lightness / 655.35 == pytest.approx(53.24, abs=0.01)
    assert a / 257 - 128 == pytest.approx(80.09, abs=0.02)
    assert b / 257 - 128 == pytest.approx(67.20, abs=0.02)


@given(colors)
def test_colours_survive(color: tuple[int, int, int]) -> None:
    assert rgb_from_cielab(cielab_from_rgb(color)) == color


@given(colors)
def test_highdicom_gives_the_same(color: tuple[int, int, int]) -> None:
    highdicom = pytest.importorskip("highdicom")
    expected = highdicom.color.CIELabColor.from_rgb(*color).value
    assert cielab_from_rgb(color) == pytest.approx(expected, abs=40)


def test_what_srgb_lacks_is_clipped() -> None:
    red, _, blue = rgb_from_cielab((65535, 65535, 0))
    assert (red, blue) == (255, 255)
