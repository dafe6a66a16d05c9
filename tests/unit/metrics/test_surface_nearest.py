"""Nearest elements: every way of finding them gives what comparing all pairs gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medseg.metrics import surface_nearest
from medseg.metrics.surface_nearest import DirectedDistances, distances_between

AREAS = np.array([0.0, 1.0, 2.5, 0.3])
CHEAP, DEAR = 0, 10**12
WAYS = {
    "as counted": {},
    "shifts": {"_OFFSET_COST": CHEAP, "_WORD_COST": CHEAP},
    "tree": {"_OFFSET_COST": DEAR, "_TRANSFORM_PLACE_COST": DEAR, "_OFFSETS": 1},
    "transform": {"_OFFSET_COST": DEAR, "_TRANSFORM_PLACE_COST": CHEAP},
    "transform, after a look at the tree": {
        "_OFFSET_COST": DEAR,
        "_TREE_ELEMENT_COST": CHEAP,
        "_TREE_LOOK_COST": DEAR,
    },
}


@pytest.fixture(params=WAYS, ids=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, cost in WAYS[request.param].items():
        monkeypatch.setattr(surface_nearest, name, cost)
    surface_nearest._offsets_by_length.cache_clear()
    monkeypatch.setattr(surface_nearest, "_offsets_by_length", surface_nearest._offsets_by_length.__wrapped__)
    return request.param


def codes(shape: tuple[int, ...], part: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = np.where(random.random(shape) < part, random.integers(1, 4, shape), 0).astype(np.uint8)
    found[(0,) * len(shape)] = 1
    return found


def check(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> None:
    apart = cdist(np.argwhere(first) * spacing, np.argwhere(second) * spacing)
    found = distances_between(first, second, AREAS, spacing)
    for there, nearest, source in zip(
        found, (apart.min(axis=1), apart.min(axis=0)), (first, second), strict=True
    ):
        assert (np.diff(there.mm) >= 0).all()
        areas = AREAS[source[source != 0]]
        for limit in np.unique(nearest)[::7]:
            assert within(there.mm, there.area, limit) == pytest.approx(within(nearest, areas, limit))
        assert there.mm[-1] == pytest.approx(nearest.max())
        assert there.mm @ there.area == pytest.approx(nearest @ areas)


def within(mm: np.ndarray, area: np.ndarray, limit: float) -> float:
    return float(area[mm <= limit + 1e-9].sum())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((6, 9, 70), (1.0, 1.0, 1.0)),
        ((7, 5, 12), (0.3, 2.0, 1.1)),
        ((12, 3, 5), (0.01, 3.0, 50.0)),
        ((30, 41), (1.0, 0.7)),
        ((1, 1, 200), (1.0, 1.0, 1.0)),
    ],
)
@pytest.mark.parametrize(("first_part", "second_part"), [(0.02, 0.02), (0.9, 0.01), (0.5, 0.5), (1.0, 1.0)])
def test_every_way_finds_the_nearest(
    shape: tuple[int, ...], spacing: tuple[float, ...], first_part: float, second_part: float
) -> None:
    check(codes(shape, first_part, 1), codes(shape, second_part, 2), spacing)


@pytest.mark.usefixtures("way")
def test_far_apart_and_concentric_surfaces() -> None:
    radius = np.sqrt(((np.indices((33, 33, 33)) - 16) ** 2).sum(axis=0))
    inner, outer = ((radius > low) & (radius < low + 1) for low in (2, 15))
    check(inner.astype(np.uint8), outer.astype(np.uint8) * 3, (1.0, 1.0, 1.5))
    far, near = np.zeros((40, 4, 4), np.uint8), np.zeros((40, 4, 4), np.uint8)
    far[-3:], near[:2] = 2, 1
    check(far, near, (1.0, 1.0, 1.0))


def test_elements_in_both_are_at_no_distance() -> None:
    same = codes((5, 6, 7), 0.3, 0)
    there, back = distances_between(same, same, AREAS, (1.0, 1.0, 1.0))
    assert there.mm.tolist() == back.mm.tolist() == [0.0]
    assert there.area[0] == pytest.approx(AREAS[same].sum())


def test_nothing_to_measure_to_is_infinitely_far() -> None:
    some, nothing = codes((3, 3), 0.5, 0), np.zeros((3, 3), np.uint8)
    there, back = distances_between(some, nothing, AREAS, (1.0, 1.0))
    assert there.mm.tolist() == [np.inf]
    assert there.area[0] == pytest.approx(AREAS[some].sum())
    assert back.mm.size == back.area.size == 0
    assert isinstance(back, DirectedDistances)


def test_offsets_are_complete_up_to_their_longest() -> None:
    for spacing in [(1.0, 1.0, 1.0), (0.2, 5.0, 1.0), (0.001, 1.0, 900.0), (1.0, 0.3)]:
        offsets, lengths = surface_nearest._offsets_by_length(spacing)
        assert (np.diff(lengths) >= 0).all()
        np.testing.assert_allclose(lengths, np.linalg.norm(offsets * spacing, axis=1))
        reach = np.abs(offsets).max(axis=0) + 1
        around = np.indices(2 * reach + 1).reshape(len(spacing), -1).T - reach
        within = np.linalg.norm(around * spacing, axis=1) <= lengths[-1] * (1 - 1e-9)
        assert {*map(tuple, around[within].tolist())} <= {*map(tuple, offsets.tolist())}
