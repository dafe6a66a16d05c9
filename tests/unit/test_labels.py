"""Label schemes: values and indices, names and sides, what files may declare and hold."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, InputError
from medseg.labels import CodedConcept, LabelClass, LabelScheme, smallest_integer_dtype

properties = settings(max_examples=60, deadline=None)
label_values = st.sets(st.integers(1, 70_000), min_size=1, max_size=12)


def scheme_of(*names: str) -> LabelScheme:
    return LabelScheme.from_names(dict(enumerate(names, start=1)))


@pytest.fixture
def kidneys() -> LabelScheme:
    return LabelScheme.from_names({9: "right kidney", 7: "left kidney", 300: "bladder"})


def test_values_are_sorted_and_the_background_is_added(kidneys: LabelScheme) -> None:
    assert kidneys.values == (0, 7, 9, 300)
    assert kidneys.names == ("background", "left kidney", "right kidney", "bladder")
    assert len(kidneys) == 4
    assert [entry.name for entry in kidneys.foreground] == ["left kidney", "right kidney", "bladder"]


def test_background_may_have_another_name() -> None:
    assert LabelScheme.from_names({0: "clear", 1: "liver"}).names == ("clear", "liver")


def entry(value: int, name: str) -> LabelClass:
    return LabelClass(value, name, (0, 0, 0))


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((), "not increasing from 0"),
        ((entry(1, "liver"),), "not increasing from 0"),
        ((entry(0, "background"), entry(5, "a"), entry(3, "b")), "not increasing from 0"),
        ((entry(0, "background"), entry(5, "a"), entry(5, "b")), "not increasing from 0"),
        ((entry(-1, "a"), entry(0, "background")), "not increasing from 0"),
        ((entry(0, "background"), entry(1, "a"), entry(2, "a")), "same name"),
    ],
)
def test_invalid_schemes_are_refused(classes: tuple[LabelClass, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LabelScheme(classes)


def test_negative_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[-1, 0\] are not increasing from 0"):
        LabelScheme.from_names({-1: "air"})


def test_a_class_may_carry_a_coded_concept() -> None:
    concept = CodedConcept("10200004", "SCT", "Liver")
    scheme = LabelScheme((entry(0, "background"), LabelClass(1, "liver", (1, 2, 3), concept)))
    assert scheme.foreground[0].concept == concept
    assert scheme.classes[0].concept is None


# dataset.json


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "anterior", "12": "posterior"},  # Medical Segmentation Decathlon
        {"12": "posterior", "1": "anterior"},
        {"background": 0, "anterior": 1, "posterior": 12},  # nnU-Net
        {"background": "0", "posterior": "12", "anterior": "1"},
    ],
)
def test_both_forms_of_dataset_json(labels: dict[str, Any]) -> None:
    scheme = LabelScheme.from_dataset_json(labels)
    assert dict(zip(scheme.values, scheme.names, strict=True)) == {
        0: "background",
        1: "anterior",
        12: "posterior",
    }


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "whole tumour": [1, 2]}, r"'whole tumour' is declared as \[1, 2\].*regions"),
        ({"background": 0, "tumour": 1.5}, "'tumour' is declared as 1.5"),
        ({"background": 0, "tumour": True}, "'tumour' is declared as True"),
        ({"background": 0, "tumour": None}, "'tumour' is declared as None"),
        ({"background": 0, "tumour": "one"}, "'tumour' is declared as 'one'"),
        ({"0": "background", "tumour": "1st"}, "one integer is needed"),
        ({"background": 0, "a": 1, "b": 1}, "value 1 is declared twice"),
        ({"0": "background", "1": "a", "01": "b"}, "value 1 is declared twice"),
        ({"0": "background", "1": "a", "2": "a"}, "same name"),
        ({"background": 0, "air": -1}, "not increasing from 0"),
        ({}, "no label but the background"),
        ({"0": "background"}, "no label but the background"),
        (["background", "tumour"], "not declared as names and values"),
        (None, "not declared as names and values"),
    ],
)
def test_what_dataset_json_may_not_declare(labels: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LabelScheme.from_dataset_json(labels)


# Values and indices


LIVER = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}


def test_a_data_set_may_name_concepts() -> None:
    scheme = LabelScheme.from_dataset_json({"background": 0, "parenchyma": 1, "cyst": 2})
    known = scheme.with_concepts({"parenchyma": LIVER})
    assert [entry.concept for entry in known.foreground] == [CodedConcept("10200004", "SCT", "Liver"), None]
    assert scheme.with_concepts(None) is scheme


@pytest.mark.parametrize(
    ("concepts", "words"),
    [
        ([LIVER], "no object of names"),
        ({"liver": LIVER}, "names 'liver', which is no label"),
        ({"background": LIVER}, "names 'background'"),
        ({"cyst": "10200004"}, "concept of 'cyst' is not complete"),
        ({"cyst": {**LIVER, "scheme": ""}}, "concept of 'cyst' is not complete"),
        ({"cyst": {**LIVER, "value": 10200004}}, "concept of 'cyst' is not complete"),
    ],
)
def test_concepts_that_cannot_be_read(concepts: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LabelScheme.from_names({2: "cyst"}).with_concepts(concepts)


def test_classes_as_they_lie_beside_label_maps() -> None:
    entries = [
        {"value": 9, "name": "cyst", "color": None, "concept": None, "file": "a.nii.gz"},
        {"value": 3, "name": "parenchyma", "color": [1, 2, 3], "concept": LIVER, "file": "a.nii.gz"},
    ]
    scheme = LabelScheme.from_entries(entries)
    assert scheme.values == (0, 3, 9)
    assert scheme.classes[1] == LabelClass(
        3, "parenchyma", (1, 2, 3), CodedConcept("10200004", "SCT", "Liver")
    )
    assert scheme.classes[2].concept is None


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"value": 1}], "lacks its value or name"),
        (["liver"], "lacks its value or name"),
        ([{"value": 1, "name": "a"}, {"value": 1, "name": "b"}], "declared twice"),
        ([{"value": 1, "name": "a", "color": [1, 2]}], "is no colour"),
        ([{"value": 1, "name": "a", "color": [1, 2, 256]}], "is no colour"),
    ],
)
def test_lists_of_classes_that_cannot_be_read(entries: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LabelScheme.from_entries(entries)


def test_values_to_indices_by_hand(kidneys: LabelScheme) -> None:
    values = np.array([[0, 300], [9, 7]], dtype=np.int16)
    indices = kidneys.to_indices(values)
    assert indices.tolist() == [[0, 3], [2, 1]]
    assert indices.dtype == np.uint8
    assert kidneys.to_values(indices).tolist() == values.tolist()
    assert kidneys.to_values(indices).dtype == kidneys.dtype == np.int16


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint16", "int32", "uint64", "float32", ">f4", "float64"])
def test_any_type_of_whole_numbers_will_do(kidneys: LabelScheme, dtype: str) -> None:
    values = np.array([0, 300, 9, 7]).astype(dtype)
    assert kidneys.to_indices(values).tolist() == [0, 3, 2, 1]


def test_a_mask_of_booleans_is_a_label_map() -> None:
    assert scheme_of("cord").to_indices(np.array([False, True])).tolist() == [0, 1]


@properties
@given(label_values, st.data())
def test_indices_and_values_invert(values: set[int], data: st.DataObject) -> None:
    scheme = LabelScheme.from_names({value: f"class {value}" for value in values})
    drawn = data.draw(st.lists(st.sampled_from(scheme.values), max_size=20))
    indices = scheme.to_indices(np.array(drawn, dtype=np.int64))
    assert indices.tolist() == [scheme.values.index(value) for value in drawn]
    assert scheme.to_values(indices).tolist() == drawn


def test_huge_values_need_no_huge_table() -> None:
    scheme = LabelScheme.from_names({2**62: "lesion"})
    assert scheme.to_indices(np.array([2**62, 0])).tolist() == [1, 0]


def test_300_classes() -> None:
    scheme = LabelScheme.from_names({2 * value: f"class {value}" for value in range(1, 301)})
    values = np.array(scheme.values)
    indices = scheme.to_indices(values)
    assert indices.dtype == np.uint16
    assert indices.tolist() == list(range(301))
    assert len({entry.color for entry in scheme.classes}) == 301


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.array([0, 8]), "8"),
        (np.array([-1, 7]), "-1"),
        (np.array([7.0, 7.5]), "7.5"),
        (np.array([0.0, np.nan, np.nan]), "nan"),
        (np.array([0.0, np.inf]), "inf"),
        (np.array([1_234_567]), "1234567"),
        (np.array([1, 2, 3, 4, 5, 6]), "1, 2, 3, 4, 5, …"),
        (np.array([65536 + 7]), "65543"),  # would be 7 in sixteen bits
    ],
)
def test_undeclared_values_are_refused(kidneys: LabelScheme, array: npt.NDArray[Any], shown: str) -> None:
    line = f"label value {shown} is not declared (declared: 0, 7, 9, 300)"
    with pytest.raises(InputError, match=re.escape(line)) as caught:
        kidneys.to_indices(array, where="label.nii.gz")
    assert caught.value.where == "label.nii.gz"


def test_nothing_is_a_label_map_too(kidneys: LabelScheme) -> None:
    assert kidneys.to_indices(np.zeros((0, 3), dtype=np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0], "uint8"),
        ([0, 255], "uint8"),
        ([0, 256], "int16"),
        ([-1, 1], "int16"),
        ([0, 32767], "int16"),
        ([0, 32768], "uint16"),
        ([0, 65535], "uint16"),
        ([0, 65536], "int32"),
        ([-1, 40000], "int32"),
        ([0, 2**31], "uint32"),
        ([0, 2**32], "int64"),
        ([-(2**63), 2**63 - 1], "int64"),
    ],
)
def test_smallest_integer_dtype(values: list[int], dtype: str) -> None:
    assert smallest_integer_dtype(values) == dtype
    assert smallest_integer_dtype(np.array(values)) == dtype


def test_no_type_holds_everything() -> None:
    with pytest.raises(InputError, match="do not fit any integer type"):
        smallest_integer_dtype([0, 2**63])


# Sides


@pytest.mark.parametrize(
    ("name", "partner"),
    [
        ("left kidney", "right kidney"),
        ("kidney_left", "kidney_right"),
        ("Left Kidney", "right kidney"),
        ("LEFT-LUNG", "RIGHT-LUNG"),
        ("kidney L", "kidney R"),
        ("L_humerus", "R_humerus"),
        ("lung (left), upper lobe", "lung (right), upper lobe"),
        ("rib 7 left", "rib 7 right"),
    ],
)
def test_partners(name: str, partner: str) -> None:
    scheme = scheme_of("liver", name, partner)
    assert [scheme.partner_index(index) for index in range(4)] == [None, None, 3, 2]
    assert scheme.partners == (0, 1, 3, 2)
    assert scheme.sided == {2: name, 3: partner}
    assert scheme.has_sides


def test_a_side_without_a_partner_is_still_a_side() -> None:
    scheme = scheme_of("left atrium", "aorta")
    assert scheme.sided == {1: "left atrium"}
    assert scheme.partners == (0, 1, 2)


@pytest.mark.parametrize(
    "names",
    [
        ("L5 vertebra", "R5 vertebra"),
        ("cleft", "cright"),
        ("leftover", "rightover"),
        ("left kidney", "right lung"),
        ("left kidney",),
        ("liver", "spleen"),
        ("left kidney", "Left Kidney", "right kidney"),  # which of the two?
    ],
)
def test_what_has_no_partner(names: tuple[str, ...]) -> None:
    scheme = scheme_of(*names)
    assert not scheme.has_sides
    assert [scheme.partner_index(index) for index in range(len(scheme))] == [None] * len(scheme)


words = st.sampled_from(["left", "right", "l", "r", "Left", "lung", "lobe"])


@properties
@given(st.sets(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8))
def test_exchanging_sides_twice_changes_nothing(names: set[str]) -> None:
    scheme = scheme_of(*sorted(names))
    for index in range(len(scheme)):
        other = scheme.partner_index(index)
        assert other is None or (other != index and scheme.partner_index(other) == index)


# Colours


def test_colors() -> None:
    colors = [entry.color for entry in scheme_of(*"abcdefgh").classes]
    assert colors[0] == (0, 0, 0)
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    distances = [np.abs(np.subtract(one, two)).sum() for one, two in itertools.pairwise(colors)]
    assert min(distances) > 100, "neighbouring classes look alike"


# Voxels that nobody has labelled


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": 1, "b": 4, "ignore": 5},  # nnU-Net
        {"0": "background", "1": "a", "4": "b", "5": "ignore"},
        {"0": "background", "1": "a", "4": "b", "2": "ignore"},
        {"0": "background", "1": "a", "4": "b", "300": "ignore"},
        {"0": "background", "1": "a", "4": "b", "70000": "ignore"},
    ],
)
def test_a_value_to_ignore_is_no_class_and_its_index_the_last(labels: dict[str, Any]) -> None:
    scheme = LabelScheme.from_dataset_json(labels)
    assert scheme.names == ("background", "a", "b")
    assert scheme.ignore is not None
    assert scheme.ignore_index == len(scheme) == 3
    stored = np.array([0, 4, scheme.ignore, 1], dtype=np.int64)
    indices = scheme.to_indices(stored)
    assert (indices.tolist(), indices.dtype) == ([0, 2, 3, 1], np.uint8)
    np.testing.assert_array_equal(scheme.to_values(indices), stored)
    with pytest.raises(InputError, match=f"label value {scheme.ignore} is not declared"):
        scheme.without_ignore.to_indices(stored)


def test_without_a_value_to_ignore_there_is_no_index_for_it(kidneys: LabelScheme) -> None:
    assert kidneys.ignore is kidneys.ignore_index is None
    assert kidneys.without_ignore is kidneys


def test_255_classes_and_a_value_to_ignore_fit_bytes() -> None:
    fits, wider = (
        LabelScheme.from_names({value: str(value) for value in range(1, count)}, ignore=999)
        for count in (255, 256)
    )
    assert fits.to_indices(np.array([999]))[0] == 255
    assert fits.to_indices(np.array([999])).dtype == np.uint8
    assert wider.to_indices(np.array([999]))[0] == 256


@pytest.mark.parametrize("ignore", [0, -1, 7])
def test_a_value_to_ignore_is_nobody_else_s(ignore: int) -> None:
    with pytest.raises(ConfigError, match="give them a value of their own"):
        LabelScheme.from_names({7: "kidney"}, ignore)


def test_two_values_to_ignore_are_refused() -> None:
    with pytest.raises(ConfigError, match="'ignore' is declared twice"):
        LabelScheme.from_dataset_json({"0": "background", "1": "a", "2": "ignore", "3": "ignore"})
