"""Graph cuts: hand-computed lines, brute force, areas of surfaces, and PyMaxflow where it is installed."""

from __future__ import annotations

import importlib.util
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.classical import cut_energy, graph_cut, graph_cut_bytes
from medseg.classical.links import intensity_step, link_directions, link_weights, linked
from medseg.classical.minimum_cut import CAPACITY, binary_energy, minimise
from medseg.errors import ConfigError, GeometryError, InputError

CONNECTIVITIES = ("faces", "edges", "corners")
Problem = tuple[np.ndarray, np.ndarray, tuple[float, ...], dict[str, Any]]


def problem(seed: int, classes: int, shape: tuple[int, ...]) -> Problem:
    """Scores, image, spacing and options at random."""
    rng = np.random.default_rng(seed)
    scores, image = rng.normal(size=(classes, *shape)), rng.normal(size=shape)
    spacing = tuple(rng.uniform(0.5, 3.0, len(shape)))
    connectivity = CONNECTIVITIES[seed % 3]
    return scores, image, spacing, {"smoothness_mm": rng.uniform(0.3, 4.0), "connectivity": connectivity}


def least_energy_by_layers(
    scores: np.ndarray, image: np.ndarray, spacing: tuple[float, ...], smoothness_mm: float, connectivity: Any
) -> float:
    """The least energy over all label maps (X, Y, Z), of which every two neighbouring layers are tried."""
    classes, layers, *plane = scores.shape
    states = np.array(list(itertools.product(range(classes), repeat=math.prod(plane)))).reshape(-1, *plane)
    links = [
        (way.step, smoothness_mm * link_weights(image[np.newaxis], way, 1.0))
        for way in link_directions(spacing, connectivity)
    ]
    best = np.zeros(len(states))
    for layer in range(layers):
        own = -np.sum([(states == index) * scores[index, layer] for index in range(classes)], axis=(0, 2, 3))
        within, between = np.zeros(len(states)), np.zeros((len(states), len(states)))
        for (step, *in_plane), weight in links:
            here, there = linked(in_plane)
            if step == 0:
                differ = states[(slice(None), *here)] != states[(slice(None), *there)]
                within += (differ * weight[layer]).sum(axis=(1, 2))
            elif layer > 0:  # of each state of the layer before with each of this one
                one, other = states[(slice(None), *here)], states[(slice(None), *there)]
                for place in np.ndindex(*one.shape[1:]):
                    differ = one[(slice(None), *place)][:, np.newaxis] != other[(slice(None), *place)]
                    between += differ * weight[(layer - 1, *place)]
        best = (best[:, np.newaxis] + between).min(axis=0) + own + within if layer else own + within
    return float(best.min())


@pytest.mark.parametrize("seed", range(6))
def test_with_two_classes_no_label_map_of_3x3x3_voxels_costs_less(seed: int) -> None:
    scores, image, spacing, options = problem(seed, 2, (3, 3, 3))
    labels = graph_cut(scores, image, spacing, **options)
    least = least_energy_by_layers(scores, image, spacing, **options)
    assert cut_energy(labels, scores, image, spacing, **options) == pytest.approx(least, abs=1e-5)
    assert 0 < labels.sum() < labels.size or options["smoothness_mm"] > 1.0


@pytest.mark.parametrize("seed", range(6))
def test_with_three_classes_it_is_near_the_least(seed: int) -> None:
    scores, image, spacing, options = problem(seed, 3, (3, 2, 2))
    labels = graph_cut(scores, image, spacing, **options)
    least = least_energy_by_layers(scores, image, spacing, **options)
    found = cut_energy(labels, scores, image, spacing, **options)
    # Expansion moves promise twice the least, costs counted from each voxel's best class on.
    floor = -scores.max(axis=0).sum()
    assert least - 1e-5 <= found <= floor + 1.3 * (least - floor)


@pytest.mark.parametrize("seed", range(2))
def test_no_expansion_lowers_what_three_classes_cost(seed: int) -> None:
    scores, image, spacing, options = problem(seed, 3, (2, 2, 2))
    labels = graph_cut(scores, image, spacing, **options)
    found = cut_energy(labels, scores, image, spacing, **options)
    for to in range(3):
        for changed in itertools.product((False, True), repeat=8):
            moved = np.where(np.reshape(changed, labels.shape), to, labels)
            assert cut_energy(moved, scores, image, spacing, **options) >= found - 1e-5


def test_a_line_by_hand() -> None:
    # In the plane a link of 1 mm weighs pi/4: one voxel against its two neighbours loses below pi/2.
    for against, expected in ((1.5, 1), (1.6, 0)):
        difference = np.array([[3.0, 3.0, -against, 3.0, 3.0]])
        scores = np.stack([-difference / 2, difference / 2])
        labels = graph_cut(scores, np.zeros((1, 5)), (1.0, 1.0))
        assert labels[0].tolist() == [1, 1, expected, 1, 1]


def test_borders_go_to_where_the_image_has_an_edge() -> None:
    image = np.repeat([0.0, 10.0], [6, 4])[np.newaxis] * np.ones((3, 1))
    rough = np.repeat([-0.4, 0.4], [5, 5])[np.newaxis] * np.ones((3, 1))
    scores = np.stack([-rough, rough])
    assert graph_cut(scores, image, (1.0, 1.0), smoothness_mm=5.0)[0].tolist() == [0] * 6 + [1] * 4
    assert graph_cut(scores, image, (1.0, 1.0), contrast=None)[0].tolist() == [0] * 5 + [1] * 5


@given(
    spacing=st.tuples(*[st.floats(0.5, 2.0)] * 3),
    connectivity=st.sampled_from(CONNECTIVITIES),
    radius_mm=st.floats(12.0, 16.0),
)
@settings(max_examples=15, deadline=None)
def test_cutting_a_sphere_costs_its_area(
    spacing: tuple[float, ...], connectivity: Any, radius_mm: float
) -> None:
    axes = [np.arange(-18.0, 18.0, step) for step in spacing]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    ball = (x**2 + y**2 + z**2 < radius_mm**2).astype(np.intp)
    nothing = np.zeros((2, *ball.shape))
    cost = cut_energy(ball, nothing, ball, spacing, contrast=None, connectivity=connectivity)
    area = cost * math.prod(spacing)
    assert area == pytest.approx(4.0 * math.pi * radius_mm**2, rel=0.04)


def test_more_neighbours_measure_slanted_planes_better() -> None:
    place = np.arange(40)
    x, y, z = np.meshgrid(place, place, place, indexing="ij")
    inner = (slice(5, 35),) * 3
    worst = {}
    for connectivity in CONNECTIVITIES:
        areas = []
        for normal in ((1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 0)):
            unit = np.array(normal) / np.linalg.norm(normal)
            half = x * unit[0] + y * unit[1] + z * unit[2] > 20.0 * sum(unit)
            crossed = 0.0
            for way in link_directions((1.0, 1.0, 1.0), connectivity):
                moved = np.roll(half, [-step for step in way.step], axis=(0, 1, 2))
                crossed += way.area * np.count_nonzero((half != moved)[inner])
            # The plane's area within the box, from how much of it projects along the first axis.
            along = np.roll(half, -1, axis=0)
            areas.append(crossed / (np.count_nonzero((half != along)[inner]) / unit[0]))
        worst[connectivity] = max(abs(area - 1.0) for area in areas)
    assert worst["corners"] < 0.1 < worst["edges"] * 1.5
    assert worst["corners"] < worst["edges"] < worst["faces"] < 0.36


def test_solvers_agree_to_the_voxel() -> None:
    if importlib.util.find_spec("maxflow") is None:
        pytest.skip("PyMaxflow (GPL) is not installed")
    for seed in range(4):
        scores, image, spacing, options = problem(seed, 2 + seed % 2, (9, 10, 11))
        one = graph_cut(scores, image, spacing, solver="scipy", **options)
        other = graph_cut(scores, image, spacing, solver="pymaxflow", **options)
        np.testing.assert_array_equal(one, other)


@given(data=st.data(), places=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_no_choice_of_zeros_and_ones_costs_less(data: st.DataObject, places: int) -> None:
    number = st.integers(-5, 5).map(float)
    cost = np.array(data.draw(st.lists(number, min_size=places, max_size=places)))
    pairs = [pair for pair in itertools.combinations(range(places), 2) if data.draw(st.booleans())]
    first, second = (np.array([pair[end] for pair in pairs], np.int32) for end in (0, 1))
    weight = np.array([data.draw(st.integers(0, 5)) for _ in pairs], np.float64)
    x = minimise(cost, first, second, weight, "scipy")
    found = binary_energy(x, cost, first, second, weight)
    for choice in itertools.product((False, True), repeat=places):
        energy = binary_energy(np.array(choice), cost, first, second, weight)
        assert energy >= found - places * (places + 1) * 10 / CAPACITY
        if energy == found:
            assert sum(choice) >= x.sum()


def test_without_a_price_of_borders_the_best_class_stays() -> None:
    scores, image, spacing, _ = problem(1, 4, (5, 6, 7))
    np.testing.assert_array_equal(graph_cut(scores, image, spacing, smoothness_mm=0.0), scores.argmax(axis=0))


def test_what_is_added_to_all_classes_changes_nothing() -> None:
    scores, image, spacing, options = problem(2, 3, (6, 6, 6))
    shifted = scores + np.random.default_rng(0).normal(size=image.shape)
    np.testing.assert_array_equal(
        graph_cut(scores, image, spacing, **options), graph_cut(shifted, image, spacing, **options)
    )


def test_channels_count_as_the_mean_of_their_squares() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(6, 7))
    scores = rng.normal(size=(2, 6, 7))
    twice = np.stack([image, 3.0 * image + 100.0])
    np.testing.assert_array_equal(graph_cut(scores, image, (1.0, 2.0)), graph_cut(scores, twice, (1.0, 2.0)))
    assert intensity_step(twice)[1] == pytest.approx(3.0 * intensity_step(twice)[0])


def test_a_constant_image_is_no_problem() -> None:
    scores, _, spacing, options = problem(3, 2, (4, 4, 4))
    flat = np.full((4, 4, 4), 7, np.int16)
    np.testing.assert_array_equal(
        graph_cut(scores, flat, spacing, **options),
        graph_cut(scores, flat, spacing, contrast=None, **options),
    )


def test_memory_grows_with_voxels_and_classes() -> None:
    assert (
        graph_cut_bytes((10, 10, 10), 2) < graph_cut_bytes((10, 10, 10), 3) < graph_cut_bytes((10, 10, 20), 2)
    )


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        ({"image": np.zeros((3, 4, 5))}, GeometryError, "differ in shape"),
        ({"spacing_mm": (1.0, 1.0)}, GeometryError, "no spacing"),
        ({"scores": np.zeros((1, 4, 4, 4))}, ConfigError, "two at least"),
        ({"scores": np.full((2, 4, 4, 4), np.nan)}, InputError, "scores holds NaN"),
        ({"image": np.full((4, 4, 4), np.inf)}, InputError, "image holds NaN"),
        ({"smoothness_mm": -1.0}, ConfigError, "no price"),
        ({"contrast": 0.0}, ConfigError, "no contrast"),
        ({"connectivity": "corner"}, ConfigError, "unknown connectivity"),
        ({"solver": "simplex"}, ConfigError, "unknown solver"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], kind: type[Exception], what: str) -> None:
    fitting = {"scores": np.zeros((2, 4, 4, 4)), "image": np.zeros((4, 4, 4)), "spacing_mm": (1.0, 1.0, 1.0)}
    with pytest.raises(kind, match=what):
        graph_cut(**{**fitting, **change})


def test_a_solver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="PyMaxflow is not installed"):
        minimise(np.zeros(1), *[np.zeros(0, np.int32)] * 2, np.zeros(0), "pymaxflow")
