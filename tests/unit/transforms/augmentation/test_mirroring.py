from __future__ import annotations

from typing import Any

import pytest

from medseg.errors import ConfigError
from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms import mirror_axes

PAIRED = LabelScheme.from_names({1: "left lung", 2: "right lung"})
ALONE = LabelScheme.from_names({1: "left lung", 2: "right lung", 3: "left atrium"})
NO_SIDES = LabelScheme.from_names({1: "liver"})


@pytest.mark.parametrize(
    ("mirror", "sides", "axcodes", "labels", "axes"),
    [
        ("left_right", "auto", "RAS", NO_SIDES, (0,)),
        ("left_right", "auto", "PIR", NO_SIDES, (2,)),
        ("left_right", "keep", "RAS", NO_SIDES, (0,)),
        ("left_right", "swap", "RAS", NO_SIDES, (0,)),
        ("left_right", "never", "RAS", NO_SIDES, (0,)),
        ("left_right", "auto", "RAS", PAIRED, (0,)),
        ("left_right", "swap", "RAS", PAIRED, (0,)),
        ("left_right", "never", "RAS", PAIRED, ()),
        ("left_right", "auto", "RAS", ALONE, ()),
        ("all", "auto", "RAS", NO_SIDES, (0, 1, 2)),
        ("all", "auto", "RAS", ALONE, (1, 2)),
        ("all", "never", "LPS", PAIRED, (1, 2)),
        ("all", "never", "PIR", PAIRED, (0, 1)),
        ("none", "keep", "RAS", PAIRED, ()),
        ("none", "swap", "RAS", ALONE, ()),
    ],
)
def test_axes_that_may_be_mirrored(
    mirror: Any, sides: Any, axcodes: str, labels: LabelScheme, axes: tuple[int, ...]
) -> None:
    assert mirror_axes(Augmentation(mirror=mirror, mirror_sides=sides), axcodes, labels) == axes


@pytest.mark.parametrize("mirror", ["left_right", "all"])
def test_labels_that_cannot_follow_are_refused(mirror: Any) -> None:
    with pytest.raises(ConfigError, match=r"mirror_sides: .*'left lung', 'right lung' on the wrong side"):
        mirror_axes(Augmentation(mirror=mirror, mirror_sides="keep"), "RAS", PAIRED)
    with pytest.raises(ConfigError, match=r"'left atrium' cannot be swapped.* use 'never'"):
        mirror_axes(Augmentation(mirror=mirror, mirror_sides="swap"), "RAS", ALONE)
