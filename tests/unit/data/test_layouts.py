from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.data import Dataset, load_dataset, make_split, split_dataset
from medseg.data.layouts import case_files, read_dataset
from medseg.errors import ConfigError, InputError
from medseg.labels import LabelScheme


def without_paths(dataset: Dataset) -> Dataset:
    """What is left when the files are forgotten: ids, classes, channels, split."""
    here = Path()
    return replace(
        dataset,
        folder=here,
        source=here,
        cases=tuple(replace(case, images=(here,), label=here) for case in dataset.cases),
        test_cases=tuple(replace(case, images=(here,), label=None) for case in dataset.test_cases),
    )


def as_nnunet(source: Path, target: Path, ids: list[str]) -> Path:
    """The named cases of a one-channel Decathlon folder as nnU-Net's raw data, version 2."""
    description = json.loads((source / "dataset.json").read_text())
    for case_id in ids:
        for folder, channel in (("imagesTr", "_0000"), ("labelsTr", "")):
            (target / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(source / folder / f"{case_id}.nii.gz", target / folder / f"{case_id}{channel}.nii.gz")
    content = {
        "name": description["name"],
        "channel_names": description["modality"],
        "labels": {name: int(value) for value, name in description["labels"].items()},
        "numTraining": len(ids),
        "file_ending": ".nii.gz",
    }
    (target / "dataset.json").write_text(json.dumps(content))
    return target


def test_a_decathlon_folder(decathlon):
    dataset = load_dataset(decathlon)
    assert dataset.name == "Tiny"
    assert dataset.folder == decathlon
    assert [case.id for case in dataset.cases] == [f"tiny_{index:03d}" for index in range(6)]
    assert dataset.cases[2].images == (decathlon / "imagesTr" / "tiny_002.nii.gz",)
    assert dataset.cases[2].label == decathlon / "labelsTr" / "tiny_002.nii.gz"
    assert dataset.labels == LabelScheme.from_names({0: "background", 1: "front", 2: "back"})
    assert dataset.channel_names == ("MRI",)
    assert dataset.declared_split is None
    assert load_dataset(decathlon / "dataset.json") == dataset


def test_test_cases_as_paths_or_objects_with_or_without_labels(decathlon, edit_json, nifti):
    nifti([[[0]]], decathlon / "labelsTs" / "b.nii.gz")
    edit_json(decathlon / "dataset.json", test=["./imagesTs/b.nii.gz", {"image": "imagesTs/a.nii.gz"}])
    a, b = load_dataset(decathlon).test_cases
    assert (a.id, a.label) == ("a", None)
    assert (b.id, b.label) == ("b", decathlon / "labelsTs" / "b.nii.gz")


def test_one_file_with_several_channels(decathlon, edit_json):
    edit_json(decathlon / "dataset.json", modality={"1": "T2", "0": "FLAIR"})
    dataset = load_dataset(decathlon)
    assert dataset.channel_names == ("FLAIR", "T2")
    assert len(dataset.cases[0].images) == 1


def test_nnunet_version_1_keeps_a_file_for_each_channel(decathlon, edit_json):
    edit_json(decathlon / "dataset.json", modality={"0": "FLAIR", "1": "T2"})
    for image in list((decathlon / "imagesTr").iterdir()):
        for channel in range(2):
            shutil.copy(image, image.with_name(image.name.replace(".nii", f"_{channel:04d}.nii")))
        image.unlink()
    case = load_dataset(decathlon).cases[1]
    assert case.id == "tiny_001"
    assert [image.name for image in case.images] == ["tiny_001_0000.nii.gz", "tiny_001_0001.nii.gz"]


def test_nnunet_version_2(tmp_path, decathlon, nifti):
    folder = as_nnunet(decathlon, tmp_path / "Dataset099_Tiny", ["tiny_000", "tiny_001"])
    nifti([[[0]]], folder / "imagesTr" / "._tiny_000_0000.nii.gz")
    nifti([[[0]]], folder / "imagesTs" / "later_7_0000.nii.gz")
    dataset = load_dataset(folder)
    assert [case.id for case in dataset.cases] == ["tiny_000", "tiny_001"]
    assert dataset.cases[0].images == (folder / "imagesTr" / "tiny_000_0000.nii.gz",)
    assert dataset.cases[0].label == folder / "labelsTr" / "tiny_000.nii.gz"
    assert [case.id for case in dataset.test_cases] == ["later_7"]
    assert dataset.test_cases[0].label is None


def test_nnunet_cases_with_an_image_or_a_label_alone_are_seen(tmp_path, decathlon):
    folder = as_nnunet(decathlon, tmp_path / "raw", ["tiny_000", "tiny_001", "tiny_002"])
    (folder / "imagesTr" / "tiny_000_0000.nii.gz").unlink()
    (folder / "labelsTr" / "tiny_002.nii.gz").unlink()
    assert [case.id for case in read_dataset(folder).cases] == ["tiny_000", "tiny_001", "tiny_002"]
    with pytest.raises(InputError, match=r"tiny_000_0000.nii.gz: does not exist \(nor do 1 others\)"):
        load_dataset(folder)


def test_the_same_cases_are_the_same_dataset_in_either_layout(tmp_path, decathlon):
    ids = [f"tiny_{index:03d}" for index in range(6)]
    nnunet = load_dataset(as_nnunet(decathlon, tmp_path / "raw", ids))
    assert without_paths(nnunet) == without_paths(load_dataset(decathlon))
    assert split_dataset(nnunet, 3) == split_dataset(load_dataset(decathlon), 3)


@pytest.mark.data
def test_real_cases_are_the_same_dataset_in_either_layout(tmp_path, test_data):
    source = test_data / "mr" / "hippocampus"
    whole = load_dataset(source)
    chosen = whole.cases[:8]
    nnunet = load_dataset(as_nnunet(source, tmp_path / "raw", [case.id for case in chosen]))
    assert without_paths(nnunet) == without_paths(replace(whole, cases=chosen, declared_count=8))
    for ours, theirs in zip(nnunet.cases, chosen, strict=True):
        for a, b in zip(case_files(ours), case_files(theirs), strict=True):
            assert a.read_bytes() == b.read_bytes()


@pytest.mark.data
def test_the_real_hippocampus_has_forty_cases_to_validate_on(test_data):
    dataset = load_dataset(test_data / "mr" / "hippocampus")
    assert len(dataset.cases) == 200
    assert dataset.cases[0].id == "hippocampus_001"
    assert dataset.labels.names == ("background", "Anterior", "Posterior")
    split = split_dataset(dataset)
    assert [len(split.validation(fold)) for fold in range(5)] == [40] * 5
    assert len(split.training(0)) == 160


class TestDatalist:
    @pytest.fixture
    def datalist(self, decathlon) -> Path:
        """A datalist beside its images, without a dataset.json."""
        path = decathlon / "folds.json"
        (decathlon / "dataset.json").rename(path)
        return path

    def test_it_reads_as_the_folder_does(self, datalist):
        dataset = load_dataset(datalist)
        assert dataset.name == "Tiny"
        assert dataset.folder == datalist.parent
        assert len(dataset.cases) == 6
        assert dataset.labels.values == (0, 1, 2)
        assert dataset.channel_names == ("MRI",)

    def test_paths_may_be_absolute_or_lead_elsewhere(self, datalist, edit_json):
        files = {
            "image": str(datalist.parent / "imagesTr" / "tiny_000.nii.gz"),
            "label": f"../{datalist.parent.name}/labelsTr/tiny_000.nii.gz",
        }
        edit_json(datalist, training=[files])
        assert load_dataset(datalist).cases[0].images[0] == Path(files["image"])

    def test_several_files_are_channels(self, datalist, edit_json):
        folder = datalist.parent
        for channel in range(2):
            image = folder / "imagesTr" / f"x_{channel:04d}.nii.gz"
            shutil.copy(folder / "imagesTr" / "tiny_000.nii.gz", image)
        images = ["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz"]
        edit_json(datalist, modality=None, training=[{"image": images, "label": "labelsTr/tiny_000.nii.gz"}])
        dataset = load_dataset(datalist)
        assert dataset.cases[0].images == tuple(folder / image for image in images)
        assert dataset.channel_names == ("channel_0", "channel_1")

    def test_a_modality_without_a_number_stands_for_every_channel(self, datalist, edit_json, nifti):
        nifti([[[[1, 2, 3]]]], datalist.parent / "many.nii.gz")
        case = {"image": "many.nii.gz", "label": "labelsTr/tiny_000.nii.gz"}
        edit_json(datalist, modality="CT", training=[case])
        assert load_dataset(datalist).channel_names == ("CT", "CT", "CT")

    def test_a_channel_number_is_no_part_of_the_id(self, datalist, edit_json):
        folder = datalist.parent
        (folder / "imagesTr" / "tiny_000.nii.gz").rename(folder / "imagesTr" / "tiny_000_0000.nii.gz")
        case = {"image": "imagesTr/tiny_000_0000.nii.gz", "label": "labelsTr/tiny_000.nii.gz"}
        edit_json(datalist, training=[case])
        assert load_dataset(datalist).cases[0].id == "tiny_000"

    def test_a_number_of_four_digits_stays_where_it_names_the_case(self, datalist, edit_json, nifti):
        for name in ("ct_0000.nii.gz", "ct_0001.nii.gz"):
            nifti([[[0, 1]]], datalist.parent / "i" / name)
            nifti([[[0, 1]]], datalist.parent / "l" / name)
        names = ("ct_0000.nii.gz", "ct_0001.nii.gz")
        edit_json(datalist, training=[{"image": f"i/{name}", "label": f"l/{name}"} for name in names])
        assert [case.id for case in load_dataset(datalist).cases] == ["ct_0000", "ct_0001"]

    def test_files_of_one_name_are_told_apart_by_their_folders(self, datalist, edit_json, nifti):
        for patient in ("p1", "p2"):
            nifti([[[0, 1]]], datalist.parent / patient / "t1.nii.gz")
            nifti([[[0, 1]]], datalist.parent / patient / "seg.nii.gz")
        cases = [{"image": f"{p}/t1.nii.gz", "label": f"{p}/seg.nii.gz"} for p in ("p2", "p1")]
        edit_json(datalist, training=cases)
        assert [case.id for case in load_dataset(datalist).cases] == ["p1_t1", "p2_t1"]

    def test_its_folds_are_the_split(self, datalist, edit_json):
        entries = json.loads(datalist.read_text())["training"]
        for index, entry in enumerate(entries):
            entry["fold"] = index % 3
        edit_json(datalist, training=entries)
        dataset = load_dataset(datalist)
        split = split_dataset(dataset)
        assert split == dataset.declared_split == split_dataset(dataset, folds=3)
        assert split.seed is None
        assert split.validation(0) == ("tiny_002", "tiny_005")  # entries 3 and 0: the list runs backwards
        with pytest.raises(ConfigError, match="5 folds are asked for, the dataset declares 3"):
            split_dataset(dataset, folds=5)

    def test_its_validation_list_is_the_one_fold(self, datalist, edit_json):
        entries = json.loads(datalist.read_text())["training"]
        edit_json(datalist, training=entries[:4], validation=entries[4:])
        dataset = load_dataset(datalist)
        split = split_dataset(dataset)
        assert len(dataset.cases) == 6
        assert split.folds == (("tiny_000", "tiny_001"),)
        assert split.training(0) == ("tiny_002", "tiny_003", "tiny_004", "tiny_005")

    def test_without_a_split_of_its_own_it_is_dealt(self, datalist):
        dataset = load_dataset(datalist)
        expected = make_split((case.id for case in dataset.cases), 2, 3)
        assert split_dataset(dataset, 2, 3) == expected

    @pytest.mark.parametrize(
        ("folds", "validation", "reason"),
        [
            ([0, 2], False, "numbers its folds 0, 2; number them 0, 1, 2"),
            ([1, 2], False, "numbers its folds 1, 2"),
            ([0, 0], False, "puts every case into fold 0"),
            ([0, 1], True, "has both a 'validation' list and 'fold' numbers"),
            ([0, "1"], False, r"'training\[1\].fold' is text, an integer is needed"),
        ],
    )
    def test_folds_that_make_no_split_are_refused(self, datalist, edit_json, folds, validation, reason):
        entries = json.loads(datalist.read_text())["training"]
        training = [{**entry, "fold": fold} for entry, fold in zip(entries[:2], folds, strict=True)]
        edit_json(datalist, training=training, validation=entries[4:] if validation else [])
        with pytest.raises(InputError, match=reason):
            load_dataset(datalist)

    def test_without_labels_it_is_refused_with_the_cure(self, datalist, edit_json):
        edit_json(datalist, labels=None)
        with pytest.raises(ConfigError, match="declares no labels; add") as caught:
            load_dataset(datalist)
        assert caught.value.exit_code == 5
        assert str(datalist) in str(caught.value)

    def test_labels_and_modality_may_lie_beside_it(self, datalist, edit_json):
        shutil.copy(datalist, datalist.parent / "dataset.json")
        edit_json(datalist, labels=None, modality=None)
        dataset = load_dataset(datalist)
        assert dataset.labels.names == ("background", "front", "back")
        assert dataset.channel_names == ("MRI",)


class TestRefusals:
    def test_a_folder_without_dataset_json(self, tmp_path):
        with pytest.raises(InputError, match=r"holds no dataset.json; give a folder") as caught:
            load_dataset(tmp_path)
        assert str(tmp_path) in str(caught.value)

    def test_a_file_that_is_no_json(self, tmp_path, nifti):
        with pytest.raises(InputError, match="is no dataset"):
            load_dataset(nifti([[[0]]], tmp_path / "a.nii.gz"))

    def test_a_path_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match="is neither a folder"):
            load_dataset(tmp_path / "nowhere")

    def test_a_name_that_is_nearly_known(self):
        with pytest.raises(InputError, match="did you mean 'Task04_Hippocampus'"):
            load_dataset("Task4_Hippocampus")

    def test_a_known_name_that_is_not_fetched(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
        with pytest.raises(InputError, match="run 'medseg data fetch Task09_Spleen'"):
            load_dataset("Task09_Spleen")

    def test_a_known_name_is_found_where_it_was_fetched_to(self, tmp_path, monkeypatch, decathlon):
        monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        decathlon.rename(tmp_path / "Task09_Spleen")
        assert load_dataset("Task09_Spleen").name == "Tiny"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"training": None}, "has no key 'training'"),
            ({"training": []}, "lists no training case"),
            ({"training": {}}, "'training' is empty, a list is needed"),
            ({"training": [3]}, r"'training\[0\]' is a number, an object with 'image' and 'label'"),
            ({"training": ["a.nii.gz"]}, r"'training\[0\]' has no key 'label'"),
            ({"training": [{"label": "a.nii.gz"}]}, r"'training\[0\]' has no key 'image'"),
            ({"training": [{"image": [], "label": "a.nii"}]}, r"'training\[0\].image' is empty, a path"),
            ({"training": [{"image": [1], "label": "a.nii"}]}, r"'training\[0\].image' is a list, a path"),
            ({"training": [{"image": "a.nii", "label": 1}]}, r"'training\[0\].label' is a number, a path"),
            ({"test": [{}]}, r"'test\[0\]' has no key 'image'"),
            ({"labels": None}, "has no key 'labels'"),
            ({"labels": 3}, "'labels' is a number"),
            ({"labels": {}}, "'labels' is empty"),
            ({"labels": {"organ": [1, 2]}}, "regions are not supported"),
            ({"labels": {"background": 0, "ignore": 1}}, "no label but the background"),
            ({"labels": {"ignore": 0, "organ": 1}}, "of voxels to ignore is a class's, or below 1"),
            ({"labels": {"0": "background", "1": "a", "2": "a"}}, "same name"),
            ({"modality": None}, "has no key 'modality'"),
            ({"modality": {"0": "CT", "2": "MR"}}, "'modality' numbers its channels 0, 2"),
            ({"modality": {"0": 7}}, "'modality' is an object"),
            ({"numTraining": "six"}, "'numTraining' is text, an integer is needed"),
        ],
    )
    def test_a_dataset_json_with_a_wrong_key(self, decathlon, edit_json, changes, reason):
        edit_json(decathlon / "dataset.json", **changes)
        with pytest.raises(InputError, match=reason) as caught:
            load_dataset(decathlon)
        assert str(decathlon / "dataset.json") in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("text", ["{", "[]", "3"])
    def test_a_dataset_json_that_is_no_object(self, decathlon, text):
        (decathlon / "dataset.json").write_text(text)
        with pytest.raises(
            InputError, match=r"dataset\.json: is (not valid JSON|empty, an object|a number, an object)"
        ):
            load_dataset(decathlon)

    @pytest.mark.parametrize(
        "path", ["/etc/passwd.nii", "../a.nii.gz", "imagesTr/../../a.nii.gz", "C:\\a.nii"]
    )
    @pytest.mark.parametrize("key", ["image", "label"])
    def test_paths_that_lead_out_of_a_dataset_folder(self, decathlon, edit_json, path, key):
        entry = {"image": "imagesTr/tiny_000.nii.gz", "label": "labelsTr/tiny_000.nii.gz", key: path}
        edit_json(decathlon / "dataset.json", training=[entry])
        with pytest.raises(InputError, match="leads out of the folder"):
            load_dataset(decathlon)

    def test_a_case_listed_twice(self, decathlon, edit_json):
        entries = json.loads((decathlon / "dataset.json").read_text())["training"]
        edit_json(decathlon / "dataset.json", training=[*entries, entries[0]])
        with pytest.raises(InputError, match=r"'training\[0\]' names a case that is listed twice"):
            load_dataset(decathlon)

    @pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
    def test_a_missing_file(self, decathlon, folder):
        missing = decathlon / folder / "tiny_003.nii.gz"
        missing.unlink()
        with pytest.raises(
            InputError, match="does not exist; see them all with 'medseg data check"
        ) as caught:
            load_dataset(decathlon)
        assert caught.value.where == str(missing)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"file_ending": ".mha"}, "no file in imagesTr or labelsTr ends in '.mha'"),
            ({"file_ending": 3}, "'file_ending' is 3"),
            ({"channel_names": None}, "has no key 'channel_names'"),
        ],
    )
    def test_nnunet_keys(self, tmp_path, decathlon, edit_json, changes, reason):
        folder = as_nnunet(decathlon, tmp_path / "raw", ["tiny_000"])
        edit_json(folder / "dataset.json", **changes)
        with pytest.raises(InputError, match=reason):
            load_dataset(folder)
