"""``medseg data`` from the outside: what it prints, writes, and which exit code it leaves with."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli.main import main
from medseg.data import Split, load_dataset


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "Task99_Tiny"
    rng = np.random.default_rng(0)
    names = [f"tiny_{index:03d}.nii.gz" for index in range(5)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in names:
        nib.save(nib.Nifti1Image(rng.normal(size=(4, 4, 4)), np.eye(4)), folder / "imagesTr" / name)
        nib.save(
            nib.Nifti1Image(np.eye(4, dtype=np.uint8)[None].repeat(4, 0), np.eye(4)),
            folder / "labelsTr" / name,
        )
    description = {
        "name": "Tiny",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "diagonal"},
        "numTraining": 5,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def catalogue(tmp_path, dataset, monkeypatch) -> Iterator[Path]:
    """A manifest whose one archive is served on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = tmp_path / "served"
    served.mkdir()
    archive = served / "tiny.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(dataset, "Task99_Tiny")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served)) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        entry = {
            "name": "Tiny",
            "title": "Tiny volumes",
            "task": "a diagonal",
            "modality": "MR",
            "channels": ["MRI"],
            "labels": {"0": "background", "1": "diagonal"},
            "licence": "CC0-1.0",
            "layout": "msd",
            "url": f"http://127.0.0.1:{running.server_port}/tiny.tar.gz",
            "size_bytes": archive.stat().st_size,
            "checksum": {"algorithm": "sha256", "value": hashlib.sha256(archive.read_bytes()).hexdigest()},
        }
        path = tmp_path / "catalogue.json"
        path.write_text(json.dumps({"schema_version": 1, "datasets": [entry]}))
        try:
            yield path
        finally:
            running.shutdown()
            thread.join()


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


class TestList:
    def test_it_names_every_dataset_and_its_licence(self, capsys):
        assert main(["data", "list"]) == 0
        shown = capsys.readouterr().out
        assert "Task04_Hippocampus" in shown
        assert "phantoms_mr" in shown
        assert shown.count("CC-BY-SA-4.0") == 10

    def test_json_follows_the_schema(self, capsys):
        assert main(["data", "list", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert listed["schema_version"] == 1
        assert len(listed["datasets"]) == 12

    def test_it_imports_no_torch(self):
        code = (
            "import sys; from medseg.cli.main import main; "
            "main(['data', '--help']); print('torch' in sys.modules, 'nibabel' in sys.modules)"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown.stdout.splitlines()[-1] == "False False"


@pytest.mark.network
class TestFetch:
    def test_it_fetches_once(self, catalogue, tmp_path, capsys):
        arguments = [
            "data",
            "fetch",
            "tiny",
            "--manifest",
            str(catalogue),
            "--out",
            str(tmp_path / "data"),
            "--json",
        ]
        assert main(arguments) == 0
        first = json.loads(capsys.readouterr().out)
        assert main(arguments) == 0
        second = capsys.readouterr()
        assert first == {"name": "Tiny", "folder": str(tmp_path / "data" / "Tiny"), "was_there": False}
        assert json.loads(second.out)["was_there"] is True
        assert "is there already" in second.err
        assert len(load_dataset(first["folder"]).cases) == 5

    def test_what_was_fetched_is_listed_as_here(self, catalogue, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("MEDSEG_DATA", str(tmp_path / "home"))
        main(["data", "list", "--manifest", str(catalogue)])
        assert "yes" not in capsys.readouterr().out
        assert main(["data", "fetch", "Tiny", "--manifest", str(catalogue), "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")
        main(["data", "list", "--manifest", str(catalogue)])
        assert "yes" in capsys.readouterr().out

    def test_an_archive_that_was_tampered_with(self, catalogue, tmp_path, capsys):
        archive = tmp_path / "served" / "tiny.tar.gz"
        data = bytearray(archive.read_bytes())
        data[100] ^= 1
        archive.write_bytes(data)
        out = tmp_path / "data"
        assert main(["data", "fetch", "Tiny", "--manifest", str(catalogue), "--out", str(out)]) == 2
        assert "the file was removed" in one_line(capsys.readouterr().err)
        assert list(out.iterdir()) == []

    def test_an_archive_that_is_gone(self, catalogue, tmp_path, capsys):
        (tmp_path / "served" / "tiny.tar.gz").unlink()
        out = tmp_path / "data"
        assert main(["data", "fetch", "Tiny", "--manifest", str(catalogue), "--out", str(out)]) == 2
        assert "the server answers 404" in one_line(capsys.readouterr().err)
        assert list(out.iterdir()) == []

    def test_an_unknown_name(self, capsys):
        assert main(["data", "fetch", "Task4_Hippocampus"]) == 5
        assert "did you mean 'Task04_Hippocampus'?" in one_line(capsys.readouterr().err)


class TestCheck:
    def test_a_sound_dataset(self, dataset, capsys):
        assert main(["data", "check", str(dataset)]) == 0
        shown = capsys.readouterr()
        assert shown.out == ""
        assert one_line(shown.err) == "Tiny: 5 cases, 0 errors, 0 warnings"

    def test_errors_are_shown_and_change_the_exit_code(self, dataset, capsys):
        (dataset / "labelsTr" / "tiny_002.nii.gz").unlink()
        assert main(["data", "check", str(dataset)]) == 2
        shown = capsys.readouterr()
        assert "tiny_002" in shown.out
        assert "missing" in shown.out
        assert one_line(shown.err) == "Tiny: 5 cases, 1 errors, 0 warnings"

    def test_warnings_alone_do_not(self, dataset, capsys):
        shutil.copy(dataset / "imagesTr" / "tiny_001.nii.gz", dataset / "imagesTr" / "tiny_003.nii.gz")
        assert main(["data", "check", str(dataset), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "dataset": "Tiny",
            "cases": 5,
            "errors": 0,
            "warnings": 1,
            "findings": [
                {
                    "severity": "warning",
                    "case": "tiny_003",
                    "check": "duplicate",
                    "message": "same image as tiny_001",
                }
            ],
        }

    def test_json_with_errors_leaves_with_their_code(self, dataset, capsys):
        (dataset / "imagesTr" / "tiny_001.nii.gz").write_bytes(b"")
        assert main(["data", "check", str(dataset), "--json", "--jobs", "1"]) == 2
        (finding,) = json.loads(capsys.readouterr().out)["findings"]
        assert (finding["severity"], finding["check"]) == ("error", "unreadable")

    def test_a_folder_without_dataset_json(self, tmp_path, capsys):
        assert main(["data", "check", str(tmp_path)]) == 2
        line = one_line(capsys.readouterr().err)
        assert str(tmp_path) in line
        assert "holds no dataset.json; give a folder" in line

    @pytest.mark.data
    def test_real_data(self, test_data, capsys):
        assert main(["data", "check", str(test_data / "mr" / "hippocampus")]) == 0
        assert one_line(capsys.readouterr().err) == "Hippocampus: 200 cases, 0 errors, 0 warnings"


class TestSplit:
    def test_it_writes_the_folds(self, dataset, tmp_path, capsys):
        out = tmp_path / "split.json"
        assert main(["data", "split", str(dataset), "--folds", "2", "--seed", "3", "--out", str(out)]) == 0
        split = Split.load(out)
        assert [len(fold) for fold in split.folds] == [3, 2]
        assert split.seed == 3
        assert one_line(capsys.readouterr().err).endswith("5 cases, validating in 2 folds: 3, 2")

    def test_json_is_what_the_file_holds(self, dataset, tmp_path, capsys):
        out = tmp_path / "split.json"
        assert main(["data", "split", str(dataset), "--out", str(out), "--json", "--quiet"]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out) == json.loads(out.read_text())
        assert shown.err == ""

    def test_more_folds_than_cases(self, dataset, tmp_path, capsys):
        out = tmp_path / "split.json"
        assert main(["data", "split", str(dataset), "--folds", "6", "--out", str(out)]) == 5
        assert one_line(capsys.readouterr().err) == "medseg: --folds: 6 folds for 5 cases; use fewer folds"
        assert not out.exists()

    def test_a_missing_file_stops_it(self, dataset, tmp_path, capsys):
        (dataset / "labelsTr" / "tiny_002.nii.gz").unlink()
        out = tmp_path / "split.json"
        assert main(["data", "split", str(dataset), "--out", str(out)]) == 2
        assert "tiny_002.nii.gz: does not exist" in one_line(capsys.readouterr().err)
        assert not out.exists()

    def test_without_out_the_call_is_wrong(self, dataset, capsys):
        assert main(["data", "split", str(dataset)]) == 64
        assert "--out" in one_line(capsys.readouterr().err)
