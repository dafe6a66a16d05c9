from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from monai.apps import DecathlonDataset

import medseg
from medseg.data.anatomy import scene_of
from medseg.data.manifest import Checksum, data_home, load_manifest, manifest_path
from medseg.errors import ConfigError, InputError

GOOD = {
    "name": "Tiny",
    "title": "t",
    "task": "t",
    "modality": "CT",
    "channels": ["CT"],
    "labels": {"0": "background", "1": "a"},
    "licence": "CC0-1.0",
    "layout": "msd",
    "url": "https://localhost/tiny.tar",
    "checksum": {"algorithm": "md5", "value": "0" * 32},
}


def test_the_ten_tasks_of_the_decathlon_are_there_as_monai_knows_them():
    tasks = {entry.name: entry for entry in load_manifest().datasets if entry.layout == "msd"}
    assert set(tasks) == set(DecathlonDataset.resource)
    for name, entry in tasks.items():
        assert entry.url == DecathlonDataset.resource[name]
        assert entry.checksum == Checksum(algorithm="md5", value=DecathlonDataset.md5[name])
        assert entry.licence == "CC-BY-SA-4.0"
        assert entry.labels[0] == "background"
        assert sorted(entry.labels) == list(range(len(entry.labels)))


@pytest.mark.data
def test_the_hippocampus_is_described_as_it_describes_itself(test_data):
    described = json.loads((test_data / "mr" / "hippocampus" / "dataset.json").read_text())
    entry = load_manifest().entry("Task04_Hippocampus")
    assert {str(value): name for value, name in entry.labels.items()} == described["labels"]
    assert list(entry.channels) == list(described["modality"].values())


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_the_phantoms_are_described_as_they_are_drawn(kind):
    entry = load_manifest().entry(f"phantoms_{kind}")
    assert entry.layout == "generated"
    assert entry.labels == {0: "background", **scene_of(kind).names}
    assert entry.channels == (scene_of(kind).modality,)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'Task09_Spleen'"):
        load_manifest().entry("Task9_Spleen")


def test_the_manifest_is_found_inside_an_installed_package_too(tmp_path, monkeypatch):
    shutil.copy(manifest_path(), tmp_path / "data_manifest.json")
    monkeypatch.setattr(medseg, "__file__", str(tmp_path / "__init__.py"))
    assert manifest_path() == tmp_path / "data_manifest.json"
    (tmp_path / "data_manifest.json").unlink()
    monkeypatch.setattr(medseg, "__file__", str(tmp_path / "a" / "__init__.py"))
    with pytest.raises(InputError, match="reinstall medseg"):
        manifest_path()


def test_data_lives_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", "/somewhere")
    assert data_home() == Path("/somewhere")
    monkeypatch.delenv("MEDSEG_DATA")
    assert data_home() == Path.home() / ".medseg" / "data"


def test_a_catalogue_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"schema_version": 1, "datasets": [GOOD]}))
    assert load_manifest(path).entry("tiny").size_bytes is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "ftp://localhost/tiny.tar"}, "datasets.0.url"),
        ({"url": "file:///etc/passwd"}, "datasets.0.url"),
        ({"url": None}, "an archive needs a url and a checksum"),
        ({"checksum": None}, "an archive needs a url and a checksum"),
        ({"checksum": {"algorithm": "md5", "value": "0" * 31}}, "md5 has 32 hexadecimal digits"),
        ({"checksum": {"algorithm": "md5", "value": "G" * 32}}, "checksum.value"),
        ({"checksum": {"algorithm": "crc32", "value": "0" * 8}}, "checksum.algorithm"),
        ({"layout": "generated"}, "generated data has no url"),
        ({"name": "../escape"}, "datasets.0.name"),
        ({"size_bytes": 0}, "datasets.0.size_bytes"),
        ({"sise_bytes": 1}, "datasets.0.sise_bytes"),
    ],
)
def test_an_entry_that_breaks_the_schema_is_refused(tmp_path, changes, reason):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"schema_version": 1, "datasets": [{**GOOD, **changes}]}))
    with pytest.raises(InputError, match=reason) as caught:
        load_manifest(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"schema_version": 2, "datasets": []}, "schema_version"),
        ({"datasets": []}, "schema_version: Field required"),
        ({"schema_version": 1, "datasets": [GOOD, {**GOOD, "name": "TINY"}]}, "same name"),
    ],
)
def test_a_catalogue_that_breaks_the_schema_is_refused(tmp_path, content, reason):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason):
        load_manifest(path)
