from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from medseg.data import load_dataset
from medseg.data.download import Retries
from medseg.data.fetch import fetch_dataset, fetched_folder, is_fetched
from medseg.data.manifest import Checksum, DatasetEntry, load_manifest
from medseg.errors import InputError, ResourceError

PATIENT = Retries(attempts=2, first_wait_s=0.0)


def tar_bytes(folder: Path, prefix: str = "Task99_Tiny") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, prefix)
    return buffer.getvalue()


@pytest.fixture
def entry(server, decathlon) -> DatasetEntry:
    server.content = tar_bytes(decathlon)
    return entry_for(server)


def entry_for(server, **changes) -> DatasetEntry:
    return DatasetEntry(
        **{
            "name": "Tiny",
            "title": "t",
            "task": "t",
            "modality": "MR",
            "channels": ("MRI",),
            "labels": {0: "background"},
            "licence": "CC0-1.0",
            "layout": "msd",
            "url": server.url,
            "size_bytes": len(server.content),
            "checksum": Checksum(algorithm="md5", value=server.md5),
            **changes,
        }
    )


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "data"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.network
def test_it_downloads_unpacks_and_cleans_up(entry, out, decathlon):
    assert not is_fetched(entry, out)
    folder = fetch_dataset(entry, out, retries=PATIENT)
    assert folder == fetched_folder(entry, out) == out / "Tiny"
    assert is_fetched(entry, out)
    assert names(out) == ["Tiny"]
    ours, theirs = load_dataset(folder), load_dataset(decathlon)
    assert [case.id for case in ours.cases] == [case.id for case in theirs.cases]
    assert ours.cases[0].images[0].read_bytes() == theirs.cases[0].images[0].read_bytes()


@pytest.mark.network
def test_the_second_time_it_asks_nobody(server, entry, out):
    fetch_dataset(entry, out, retries=PATIENT)
    asked = len(server.requests)
    assert fetch_dataset(entry, out, retries=PATIENT) == out / "Tiny"
    assert len(server.requests) == asked


@pytest.mark.network
def test_the_archive_may_be_kept_and_serves_the_next_time(server, entry, out):
    fetch_dataset(entry, out, keep_archive=True, retries=PATIENT)
    assert names(out) == ["Tiny", "archive.tar"]
    (out / "Tiny").rename(out / "elsewhere")
    fetch_dataset(entry, out, keep_archive=True, retries=PATIENT)
    assert len(server.requests) == 1
    assert is_fetched(entry, out)


@pytest.mark.network
def test_a_kept_archive_that_went_bad_is_refused(entry, out):
    out.mkdir()
    (out / "archive.tar").write_bytes(b"bad")
    with pytest.raises(InputError, match="is expected"):
        fetch_dataset(entry, out, retries=PATIENT)


@pytest.mark.network
def test_files_at_the_top_of_the_archive(server, out, decathlon):
    server.content = tar_bytes(decathlon, ".")
    folder = fetch_dataset(entry_for(server), out, retries=PATIENT)
    assert len(load_dataset(folder).cases) == 6
    assert names(out) == ["Tiny"]


@pytest.mark.network
def test_it_goes_on_where_it_stopped(server, entry, out):
    server.cuts = [2000, 0, 0]
    with pytest.raises(ResourceError):
        fetch_dataset(entry, out, retries=PATIENT)
    assert names(out) == ["archive.tar.part", "archive.tar.part.json"]
    server.cuts = []
    fetch_dataset(entry, out, retries=PATIENT)
    assert server.ranges[-1] == "bytes=2000-"
    assert names(out) == ["Tiny"]


@pytest.mark.network
def test_a_wrong_checksum_leaves_nothing(entry, out):
    wrong = entry.model_copy(update={"checksum": Checksum(algorithm="md5", value="0" * 32)})
    with pytest.raises(InputError, match="the file was removed"):
        fetch_dataset(wrong, out, retries=PATIENT)
    assert names(out) == []


@pytest.mark.network
@pytest.mark.parametrize(
    ("member", "reason"),
    [("../evil", "leads out of the folder"), ("Tiny/a.txt", "holds no dataset.json")],
)
def test_an_archive_that_is_no_dataset_leaves_no_folder(server, out, tmp_path, member, reason):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(member), io.BytesIO(b""))
    server.content = buffer.getvalue()
    with pytest.raises(InputError, match=reason):
        fetch_dataset(entry_for(server), out, retries=PATIENT)
    assert names(out) == ["archive.tar"]
    assert not (tmp_path / "evil").exists()


@pytest.mark.network
def test_a_dataset_json_that_leads_outside_is_not_installed(server, out, decathlon, edit_json):
    stolen = {"image": "../../secret.nii.gz", "label": "labelsTr/tiny_000.nii.gz"}
    edit_json(decathlon / "dataset.json", training=[stolen])
    server.content = tar_bytes(decathlon)
    with pytest.raises(InputError, match="leads out of the folder"):
        fetch_dataset(entry_for(server), out, retries=PATIENT)
    assert not is_fetched(entry_for(server), out)


@pytest.mark.network
def test_a_folder_of_that_name_with_something_else_in_it(server, entry, out):
    (out / "Tiny").mkdir(parents=True)
    with pytest.raises(InputError, match="exists but holds no dataset"):
        fetch_dataset(entry, out, retries=PATIENT)
    assert server.requests == []


@pytest.mark.network
def test_an_out_that_is_a_file(server, entry, out):
    out.write_text("")
    with pytest.raises(ResourceError, match="is a file, a folder is needed"):
        fetch_dataset(entry, out, retries=PATIENT)
    assert server.requests == []


def test_phantoms_are_drawn_in_place(tmp_path, monkeypatch):
    from medseg.data import fetch as module
    from medseg.data.phantoms import write_phantom_dataset

    def fewer(folder, kind):
        return write_phantom_dataset(folder, kind, count=2, test_count=1, shape=(16, 16, 16))

    monkeypatch.setattr(module, "write_phantom_dataset", fewer)
    entry = load_manifest().entry("phantoms_ct")
    dataset = load_dataset(fetch_dataset(entry, tmp_path))
    assert names(tmp_path) == ["phantoms_ct"]
    assert dataset.channel_names == entry.channels
    assert dict(zip(dataset.labels.values, dataset.labels.names, strict=True)) == entry.labels
    assert [case.label.parent.name for case in dataset.test_cases if case.label] == ["labelsTs"]
