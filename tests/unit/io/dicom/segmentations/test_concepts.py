from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts as pydicom_concepts

from medseg.io.dicom.segmentations import concepts
from medseg.io.dicom.segmentations.concepts import PRIVATE_SCHEME, concepts_of
from medseg.labels import CodedConcept, LabelClass


def of(name: str, concept: CodedConcept | None = None) -> tuple[str, str, str | None]:
    found = concepts_of(LabelClass(1, name, (0, 0, 0), concept))
    return found.category.meaning, found.type.meaning, None if found.side is None else found.side.meaning


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("liver", ("Anatomical Structure", "Liver", None)),
        ("kidney_left", ("Anatomical Structure", "Kidney", "Left")),
        ("Right kidney", ("Anatomical Structure", "Kidney", "Right")),
        ("L lung", ("Anatomical Structure", "Lung", "Left")),
        ("Kidneys", ("Anatomical Structure", "Kidney", None)),
        ("lung_upper_lobe_left", ("Anatomical Structure", "Upper lobe of lung", "Left")),
        ("vertebrae_L1", ("Anatomical Structure", "L1 vertebra", None)),
        ("vertebra T12", ("Anatomical Structure", "T12 vertebra", None)),
        ("adrenal_gland_right", ("Anatomical Structure", "Adrenal gland", "Right")),
        ("heart_atrium_left", ("Anatomical Structure", "Left atrium", None)),
        ("iliac_artery_left", ("Anatomical Structure", "Common iliac artery", "Left")),
        ("brainstem", ("Anatomical Structure", "Brain stem", None)),
        ("tumour", ("Morphologically Abnormal Structure", "Neoplasm", None)),
        ("Edema", ("Morphologically Abnormal Structure", "Edema", None)),
        ("skin", ("Tissue", "Skin", None)),
        ("pancreas", ("Anatomical Structure", "Pancreas", None)),
        ("left thing", ("Anatomical Structure", "left thing", "Left")),
    ],
)
def test_names(name: str, expected: tuple[str, str, str | None]) -> None:
    assert of(name) == expected


def test_a_concept_of_its_own_goes_before_the_name() -> None:
    spleen = CodedConcept("78961009", "SCT", "Spleen")
    assert of("liver", spleen) == ("Anatomical Structure", "Spleen", None)
    lesion = CodedConcept("52988006", "SCT", "Lesion")
    assert of("thing", lesion) == ("Morphologically Abnormal Structure", "Lesion", None)
    kidney = CodedConcept("64033007", "SCT", "Kidney")
    assert of("left kidney", kidney) == ("Anatomical Structure", "Kidney", "Left")


def test_unknown_names_have_private_codes_of_their_own() -> None:
    first, again, other = (
        concepts_of(LabelClass(1, name, (0, 0, 0))).type for name in ("mystery", "mystery", "enigma")
    )
    assert first.scheme == PRIVATE_SCHEME
    assert first == again
    assert first.value != other.value
    assert len(first.value) <= 16


def test_pydicom_knows_every_code_by_the_same_meaning() -> None:
    known: dict[str, set[str]] = {}
    for meanings in pydicom_concepts["SCT"].values():
        for code, (meaning, _) in meanings.items():
            known.setdefault(code, set()).add(meaning.lower())
    table = {entry.type for _, entry in concepts._entries()} | {
        entry.category for _, entry in concepts._entries()
    }
    assert len(table) > 120
    for concept in table | {concepts._LEFT, concepts._RIGHT}:
        assert any(
            concept.meaning.lower() in meaning or meaning in concept.meaning.lower()
            for meaning in known.get(concept.value, ())
        ), concept


def test_each_code_stands_once() -> None:
    codes = [entry.type.value for _, entry in concepts._entries()]
    assert len(codes) == len(set(codes))
