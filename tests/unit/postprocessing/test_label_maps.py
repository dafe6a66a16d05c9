"""Label maps as a recipe wants them: order of steps, several classes, what is refused, and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.labels import LabelScheme
from medseg.postprocessing import find_instances, postprocess, postprocess_memory, require_classes
from medseg.runs.postprocess import InstanceChoice, PostprocessChoice

SCHEME = LabelScheme.from_names({1: "liver", 4: "tumour", 9: "kidney"})
LABELS = arrays(
    np.uint8,
    array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6),
    elements=st.sampled_from([0, 1, 4, 9]),
)


def labels_of(*rows: str) -> npt.NDArray[np.uint8]:
    return np.array([[int(letter) if letter != "." else 0 for letter in row] for row in rows], np.uint8)


def done(labels: npt.NDArray[np.uint8], **choice: object) -> npt.NDArray[np.uint8]:
    return postprocess(labels, SCHEME, (1.0,) * labels.ndim, PostprocessChoice.model_validate(choice))


def test_nothing_is_done_unasked() -> None:
    labels = labels_of("1.1", "...", "4.9")

    result = done(labels)

    np.testing.assert_array_equal(result, labels)
    assert result is not labels


def test_the_largest_component_of_each_class() -> None:
    labels = labels_of("11.4", "...4", "1.14", "4.99")

    np.testing.assert_array_equal(
        done(labels, largest_component="all"), labels_of("11.4", "...4", "...4", "..99")
    )
    np.testing.assert_array_equal(
        done(labels, largest_component=["tumour"]), labels_of("11.4", "...4", "1.14", "..99")
    )


def test_the_largest_component_of_the_union() -> None:
    labels = labels_of("1144", "....", "..9.", "1.49")

    np.testing.assert_array_equal(
        done(labels, largest_component="union"), labels_of("1144", "....", "....", "....")
    )


def test_small_components_by_class() -> None:
    labels = labels_of("11.44", "1..4.", "...9.", "1..9.")

    result = done(labels, smallest_volume_ml={"liver": 0.002, "kidney": 0.003})

    np.testing.assert_array_equal(result, labels_of("11.44", "1..4.", ".....", "....."))


def test_holes_take_background_alone() -> None:
    labels = labels_of("11111", "1.4.1", "1...1", "11111")

    np.testing.assert_array_equal(
        done(labels, fill_holes=["liver"]), labels_of("11111", "11411", "11111", "11111")
    )
    np.testing.assert_array_equal(done(labels, fill_holes=["kidney"]), labels)


def test_what_is_dropped_from_a_hole_is_filled() -> None:
    """Small components and islands go before holes are filled."""
    labels = labels_of("1111.", "1.41.", "1111.", "....1", "44444")

    result = done(labels, smallest_volume_ml={"tumour": 0.002}, largest_component=["liver"], fill_holes="all")

    np.testing.assert_array_equal(result, labels_of("1111.", "1111.", "1111.", ".....", "44444"))


def test_connectivity_is_chosen() -> None:
    labels = labels_of("1..", ".1.", "..1")

    assert (done(labels, largest_component="all") > 0).sum() == 1
    assert (done(labels, largest_component="all", connectivity="edges") > 0).sum() == 3


CHOICES = st.builds(
    PostprocessChoice,
    smallest_volume_ml=st.dictionaries(st.sampled_from(SCHEME.names[1:]), st.sampled_from([0.002, 0.004])),
    largest_component=st.sampled_from([(), "all", "union", ("tumour", "liver")]),
    fill_holes=st.sampled_from([(), "all", ("liver",)]),
    connectivity=st.sampled_from(["faces", "edges", "corners"]),
)


@given(LABELS, CHOICES)
@settings(max_examples=80, deadline=None)
def test_done_twice_nothing_more_changes(labels: npt.NDArray[np.uint8], choice: PostprocessChoice) -> None:
    before = labels.copy()
    once = postprocess(labels, SCHEME, (1.0, 1.0, 1.0), choice)
    twice = postprocess(once, SCHEME, (1.0, 1.0, 1.0), choice)

    np.testing.assert_array_equal(twice, once)
    np.testing.assert_array_equal(labels, before)
    cleaned = postprocess(labels, SCHEME, (1.0, 1.0, 1.0), choice.model_copy(update={"fill_holes": ()}))
    assert (cleaned[cleaned != labels] == 0).all()
    assert (cleaned[once != cleaned] == 0).all()  # what is filled was background, or has become it
    in_fortran_order = np.asfortranarray(labels)
    postprocess(in_fortran_order, SCHEME, (1.0, 1.0, 1.0), choice, out=in_fortran_order)
    np.testing.assert_array_equal(in_fortran_order, once)


@given(LABELS)
@settings(max_examples=40, deadline=None)
def test_each_class_is_treated_as_its_mask(labels: npt.NDArray[np.uint8]) -> None:
    result = done(labels, largest_component="all")

    for value in (1, 4, 9):
        numbers, count = ndimage.label(labels == value)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        expected = numbers == (sizes.argmax() + 1 if count else -1)
        np.testing.assert_array_equal(result == value, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_every_integer_type(dtype: type[np.integer]) -> None:
    scheme = LabelScheme.from_names({3: "low", 100: "high"})
    labels = np.array([[3, 3, 0, 100], [0, 0, 0, 100], [3, 0, 0, 0]], dtype)

    result = postprocess(labels, scheme, (1.0, 1.0), PostprocessChoice(largest_component="all"))

    assert result.dtype == dtype
    assert result.tolist() == [[3, 3, 0, 100], [0, 0, 0, 100], [0, 0, 0, 0]]


def test_a_label_beyond_sixteen_bits() -> None:
    scheme = LabelScheme.from_names({1: "small", 2_000_000_000: "large"})
    labels = np.array([[2_000_000_000, 2_000_000_000, 0, 2_000_000_000, 1]], np.uint32)

    result = postprocess(labels, scheme, (1.0, 1.0), PostprocessChoice(largest_component="all"))

    assert result.tolist() == [[2_000_000_000, 2_000_000_000, 0, 0, 1]]


def test_instances_of_a_class() -> None:
    labels = labels_of("1.11.44", "1.11...", "....99.")

    found = find_instances(labels, SCHEME, (1.0, 1.0), InstanceChoice(of="liver"))

    assert found.dtype == np.int32
    assert found.tolist() == [[1, 0, 2, 2, 0, 0, 0], [1, 0, 2, 2, 0, 0, 0], [0] * 7]


def test_a_border_class_becomes_its_objects() -> None:
    scheme = LabelScheme.from_names({1: "cell", 2: "border"})
    labels = labels_of("2222222", "2112112", "2112112", "2222222", ".......", "22.1...")

    found = find_instances(labels, scheme, (1.0, 1.0), InstanceChoice(markers="border", border="border"))

    assert found[1].tolist() == [1, 1, 1, found[1, 3], 2, 2, 2]
    assert set(found[3].tolist()) == {1, 2}
    assert found[5].tolist() == [0, 0, 0, 3, 0, 0, 0]  # a border around nothing is nothing


def test_instances_take_their_options() -> None:
    labels = labels_of("11.1", "11..")
    of_two = InstanceChoice(of="liver", smallest_volume_ml=0.002)

    assert find_instances(labels, SCHEME, (1.0, 1.0), of_two).max() == 1
    assert (
        find_instances(labels_of("1.", ".1"), SCHEME, (1, 1), InstanceChoice(of="liver"), "corners").max()
        == 1
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"largest_component": ["livre"]},
            "postprocess.largest_component: unknown class 'livre'; did you mean 'liver'",
        ),
        ({"fill_holes": ["background"]}, "postprocess.fill_holes: unknown class 'background'; choose one of"),
        ({"smallest_volume_ml": {"tumor": 1}}, "unknown class 'tumor'; did you mean 'tumour'"),
        (
            {"instances": {"of": "kidny"}},
            "postprocess.instances.of: unknown class 'kidny'; did you mean 'kidney'",
        ),
        ({"instances": {"markers": "border", "border": "edge"}}, "instances.border: unknown class 'edge'"),
        ("instances", "instances.of: several classes could be meant; name one of liver, tumour, kidney"),
    ],
)
def test_a_class_that_is_not_there_is_named(choice: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_classes(PostprocessChoice.model_validate(choice), SCHEME)


def test_the_class_of_instances_may_be_left_out_where_there_is_one() -> None:
    two = LabelScheme.from_names({1: "cell", 2: "border"})
    only_border = LabelScheme.from_names({2: "border"})
    choice = PostprocessChoice.model_validate({"instances": {"markers": "border", "border": "border"}})

    require_classes(choice, two)
    with pytest.raises(ConfigError, match="several classes"):
        require_classes(PostprocessChoice.model_validate("instances"), two)
    with pytest.raises(ConfigError, match="no class is left for objects"):
        require_classes(choice, only_border)


def test_what_is_no_label_map_is_refused() -> None:
    choice = PostprocessChoice(largest_component="all")
    with pytest.raises(InputError, match="labels of type float32, integers are needed"):
        postprocess(np.zeros((2, 2), np.float32), SCHEME, (1, 1), choice)
    with pytest.raises(GeometryError, match="one positive length"):
        postprocess(np.zeros((2, 2), np.uint8), SCHEME, (1, 1, 1), choice)
    with pytest.raises(GeometryError, match=r"out is \(2, 3\) uint8"):
        postprocess(np.zeros((2, 2), np.uint8), SCHEME, (1, 1), choice, out=np.zeros((2, 3), np.uint8))
    with pytest.raises(InputError, match="integers are needed"):
        find_instances(np.zeros((2, 2), bool), SCHEME, (1, 1), InstanceChoice(of="liver"))


PEAK = """
import ctypes, gc, sys
import numpy as np
from scipy import ndimage
from medseg.labels import LabelScheme
from medseg.postprocessing import find_instances, postprocess
from medseg.runs.postprocess import PostprocessChoice

def resident(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

scheme, spacing = LabelScheme.from_names({1: "cell"}), (1.0, 1.0, 1.0)
choice = PostprocessChoice.model_validate_json(sys.argv[1])
field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(96, 96, 96)), float(sys.argv[2]))
labels = np.asfortranarray(field > 0).astype(np.uint8, order="F")
postprocess(labels[:40, :40, :40], scheme, spacing, choice)
if choice.instances is not None:
    find_instances(labels[:70, :70, :70], scheme, spacing, choice.instances)
del field
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
postprocess(labels, scheme, spacing, choice, out=labels)
if choice.instances is not None:
    kept = find_instances(labels, scheme, spacing, choice.instances)
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize("smoothness", ["0.7", "4.0"])
@pytest.mark.parametrize("choice", [{"largest_component": "all", "fill_holes": "all"}, "instances"])
def test_no_more_memory_is_taken_than_was_counted(choice: object, smoothness: str) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    wanted = PostprocessChoice.model_validate(choice)

    command = [sys.executable, "-c", PEAK, wanted.model_dump_json(), smoothness]
    taken = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)

    planned = postprocess_memory((96, 96, 96), np.dtype(np.uint8), wanted)
    assert 0.4 * planned.work < taken <= 1.2 * planned.work


def test_where_nothing_is_done_nothing_is_held() -> None:
    memory = postprocess_memory((512, 512, 400), np.dtype(np.uint8), PostprocessChoice())

    assert (memory.labels, memory.work) == (0, 0)
