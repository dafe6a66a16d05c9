"""Instance maps beside label maps: where they are looked for, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.data import load_dataset
from medseg.data.check import check_dataset
from medseg.data.layouts import case_files
from medseg.errors import InputError

SHAPE = (6, 5, 4)
NAMES = [f"tiny_{index:03d}.nii.gz" for index in range(6)]


@pytest.fixture
def with_maps(decathlon, nifti) -> Path:
    """The Decathlon's six cases, each with two instances."""
    ids = np.zeros(SHAPE, np.uint16)
    ids[1:3], ids[3:5] = 7, 300
    for name in NAMES:
        nifti(ids, decathlon / "instancesTr" / name)
    return decathlon


def test_a_folder_beside_the_labels(with_maps):
    dataset = load_dataset(with_maps)
    assert [case.instances for case in dataset.cases] == [with_maps / "instancesTr" / name for name in NAMES]
    case = dataset.cases[0]
    assert case_files(case) == (*case.images, case.label, case.instances)


def test_a_dataset_without_them(decathlon):
    assert [case.instances for case in load_dataset(decathlon).cases] == [None] * 6


def test_nnunet_names_them_as_its_labels(with_maps):
    content = json.loads((with_maps / "dataset.json").read_text())
    content |= {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    (with_maps / "dataset.json").write_text(json.dumps(content))
    for name in NAMES:
        path = with_maps / "imagesTr" / name
        path.rename(path.with_name(name.replace(".nii", "_0000.nii")))
    (with_maps / "instancesTr" / NAMES[2]).unlink()
    found = [case.instances for case in load_dataset(with_maps).cases]
    assert found == [None if name == NAMES[2] else with_maps / "instancesTr" / name for name in NAMES]


def test_a_datalist_names_them(with_maps):
    entries = [
        {"image": f"imagesTr/{name}", "label": f"labelsTr/{name}", "instances": f"instancesTr/{name}"}
        for name in NAMES
    ]
    del entries[1]["instances"]
    path = with_maps / "list.json"
    path.write_text(json.dumps({"labels": {"0": "background", "1": "a", "2": "b"}, "training": entries}))
    found = [case.instances for case in load_dataset(path).cases]
    assert found == [None if name == NAMES[1] else with_maps / "instancesTr" / name for name in NAMES]
    entries[1]["instances"] = "elsewhere.nii.gz"
    path.write_text(json.dumps({"labels": {"0": "background", "1": "a", "2": "b"}, "training": entries}))
    with pytest.raises(InputError, match=r"elsewhere.nii.gz: does not exist"):
        load_dataset(path)
    entries[1]["instances"] = 3
    path.write_text(json.dumps({"labels": {"0": "background", "1": "a", "2": "b"}, "training": entries}))
    with pytest.raises(InputError, match=r"'training\[1\].instances' is a number, a path is needed"):
        load_dataset(path)


def test_an_instance_map_does_not_lead_out_of_the_folder(decathlon, edit_json):
    entry = {
        "image": "imagesTr/tiny_000.nii.gz",
        "label": "labelsTr/tiny_000.nii.gz",
        "instances": "../x.nii",
    }
    edit_json(decathlon / "dataset.json", training=[entry])
    with pytest.raises(InputError, match="leads out of the folder"):
        load_dataset(decathlon)


def test_images_alone_have_none(with_maps):
    assert {case.instances for case in load_dataset(with_maps, labelled=False).cases} == {None}
    assert {case.instances for case in load_dataset(with_maps).without_labels().cases} == {None}


def test_sound_maps_give_no_finding(with_maps):
    assert check_dataset(with_maps).findings == ()


def test_what_is_wrong_with_a_map(with_maps, nifti):
    folder = with_maps / "instancesTr"
    ids = np.zeros(SHAPE, np.float32)
    ids[0, 0, 0], ids[1, 0, 0] = 1.5, -2.0
    nifti(ids, folder / NAMES[0])
    nifti(np.zeros((6, 5, 3), np.uint8), folder / NAMES[1])
    (folder / NAMES[2]).write_bytes(b"none")
    nifti(np.zeros((*SHAPE, 2), np.uint8), folder / NAMES[3])
    (folder / NAMES[4]).unlink()
    nifti(np.zeros(SHAPE, np.uint8), folder / "other.nii.gz")
    found = [(f.severity, f.case, f.check, f.message) for f in check_dataset(with_maps).findings]
    assert found[:2] == [
        ("error", "tiny_000", "instances", "ids below 0: -2"),
        ("error", "tiny_000", "instances", "not whole numbers: 1.5"),
    ]
    assert found[2][:3] == ("error", "tiny_001", "grid")
    assert found[2][3].startswith("the instance map lies on another grid")
    assert found[3][:3] == ("error", "tiny_002", "unreadable")
    assert found[4][:3] == ("error", "tiny_003", "channels")
    assert found[4][3] == f"instance map instancesTr/{NAMES[3]} has 2 channels instead of 1"
    assert found[5:] == [
        ("warning", "", "instances", "no map of 1 of 6 cases: tiny_004"),
        ("warning", "", "unused", "1 files in instancesTr: other.nii.gz"),
    ]
