"""Datasets whose training cases have no label, for what learns from images alone."""

from __future__ import annotations

import json
import shutil

import pytest

from medseg.data import load_dataset, split_dataset
from medseg.errors import ConfigError, InputError

IDS = [f"tiny_{index:03d}" for index in range(6)]


def test_labels_are_not_looked_at_even_if_they_are_there(decathlon):
    labelled, bare = load_dataset(decathlon), load_dataset(decathlon, labelled=False)
    assert bare == labelled.without_labels()
    assert [case.id for case in bare.cases] == IDS
    assert all(case.label is None for case in bare.cases)
    assert bare.labels.names == ("background",)
    assert split_dataset(bare, 3) == split_dataset(labelled, 3)


def test_a_decathlon_folder_without_labels(decathlon, edit_json):
    shutil.rmtree(decathlon / "labelsTr")
    entries = [f"./imagesTr/{name}.nii.gz" for name in IDS[:3]]
    entries += [{"image": f"./imagesTr/{name}.nii.gz"} for name in IDS[3:]]
    edit_json(decathlon / "dataset.json", labels=None, training=entries)
    assert [case.id for case in load_dataset(decathlon, labelled=False).cases] == IDS
    with pytest.raises(InputError, match=r"'training\[0\]' has no key 'label'"):
        load_dataset(decathlon)


def test_labels_that_are_listed_but_gone_are_missed_by_segmentation_alone(decathlon):
    shutil.rmtree(decathlon / "labelsTr")
    assert len(load_dataset(decathlon, labelled=False).cases) == 6
    with pytest.raises(InputError, match=r"does not exist \(nor do 5 others\)"):
        load_dataset(decathlon)


def test_an_nnunet_folder_without_labels(tmp_path, decathlon):
    folder = tmp_path / "raw"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for name in IDS[:3]:
        image = decathlon / "imagesTr" / f"{name}.nii.gz"
        shutil.copy(image, folder / "imagesTr" / f"{name}_0000.nii.gz")
    shutil.copy(decathlon / "labelsTr" / "tiny_005.nii.gz", folder / "labelsTr")  # of no image
    description = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    assert [case.id for case in load_dataset(folder, labelled=False).cases] == IDS[:3]
    with pytest.raises(InputError, match="has no key 'labels'"):
        load_dataset(folder)


def test_a_datalist_without_labels(tmp_path, decathlon):
    entries = [
        {"image": str(decathlon / "imagesTr" / f"{name}.nii.gz"), "fold": int(name[-1]) % 2} for name in IDS
    ]
    path = tmp_path / "images.json"
    path.write_text(json.dumps({"training": entries}))
    dataset = load_dataset(path, labelled=False)
    assert [case.id for case in dataset.cases] == IDS
    assert dataset.channel_names == ("channel_0",)
    assert split_dataset(dataset).validation(1) == tuple(IDS[1::2])
    with pytest.raises(ConfigError, match="declares no labels"):
        load_dataset(path)
    shutil.copy(decathlon / "dataset.json", tmp_path)  # which names channels; its labels are not needed
    assert load_dataset(path, labelled=False).channel_names == ("MRI",)
    assert load_dataset(path, labelled=False).labels.names == ("background",)


def test_an_image_that_is_missing_is_still_refused(decathlon):
    (decathlon / "imagesTr" / "tiny_003.nii.gz").unlink()
    with pytest.raises(InputError, match=r"imagesTr/tiny_003\.nii\.gz: does not exist"):
        load_dataset(decathlon, labelled=False)
