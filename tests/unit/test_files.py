"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg.errors import InputError, ResourceError
from medseg.files import atomic_path, read_json, require_writable_folder, sha256_of, write_json, write_text


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_temporary_name_keeps_suffixes_and_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "scan.nii.gz") as path:
        assert path.parent == tmp_path
        assert path.name.endswith("scan.nii.gz")
        assert path.name.startswith(".")
        path.write_bytes(b"new")
        assert not (tmp_path / "scan.nii.gz").exists()
    assert names_in(tmp_path) == ["scan.nii.gz"]


def test_folder_is_created(tmp_path: Path) -> None:
    write_text("text", tmp_path / "a" / "b" / "c.txt")
    assert (tmp_path / "a" / "b" / "c.txt").read_text(encoding="utf-8") == "text"


def test_old_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old, and longer than the new", encoding="utf-8")
    write_text("new", target)
    assert target.read_text(encoding="utf-8") == "new"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")

    def write_half() -> None:
        with atomic_path(target) as path:
            path.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert target.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_failure_before_anything_was_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), atomic_path(tmp_path / "a.txt"):
        raise ValueError("no")
    assert names_in(tmp_path) == []


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_path(target) as first, atomic_path(target) as second:
        assert first != second
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "first"  # the outer one ends last
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, ResourceError), (errno.EACCES, ResourceError), (errno.EIO, InputError)]
)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failure_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int, kind: type[Exception]
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(kind, match=r"a\.txt"):
        write_text("new", target)
    monkeypatch.undo()
    assert target.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="a folder is needed") as caught:
        write_text("text", tmp_path / "file" / "a.txt")
    assert caught.value.where == str(tmp_path / "file" / "a.txt")
    with pytest.raises(InputError, match="a folder is needed"):
        write_text("text", tmp_path / "file" / "deeper" / "a.txt")


def test_folder_where_a_file_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match="a file is needed"):
        write_text("text", tmp_path / "a.txt")
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")
    code = (
        "import sys, time; from medseg.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    handle = path.open('w'); handle.write('half'); handle.flush()\n"
        "    print('written', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert target.read_text(encoding="utf-8") == "old"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_full_disk(small_disk: Path) -> None:
    target = small_disk / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(ResourceError, match="no space left") as caught, atomic_path(target) as path:
        path.write_bytes(bytes(1 << 20))
    assert caught.value.where == str(target)
    assert target.read_bytes() == b"old"
    assert names_in(small_disk) == ["a.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_device_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no space left"), atomic_path(tmp_path / "a.bin"):
        Path("/dev/full").write_bytes(b"text")
    assert names_in(tmp_path) == []


def test_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert require_writable_folder(folder) == folder
    assert require_writable_folder(str(folder)) == folder
    assert names_in(folder) == []


def test_writable_folder_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResourceError, match="is a file, a folder is needed"):
        require_writable_folder(tmp_path / "file")
    with pytest.raises(InputError, match="a part of this path is a file"):
        require_writable_folder(tmp_path / "file" / "deeper")


def test_unwritable_folder_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, _data: bytes) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)  # root may write anywhere, so the test must pretend
    with pytest.raises(ResourceError, match="permission denied") as caught:
        require_writable_folder(tmp_path)
    assert caught.value.where == str(tmp_path)
    with pytest.raises(ResourceError, match="permission denied"):
        require_writable_folder(tmp_path / "new" / "deeper")
    assert names_in(tmp_path) == []


def test_a_folder_that_may_not_be_looked_into_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(ResourceError, match="permission denied"):
        require_writable_folder(tmp_path / "new")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="permission denied"):
        require_writable_folder(tmp_path)
    with pytest.raises(ResourceError, match="permission denied"):
        write_text("text", tmp_path / "a.txt")


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"größe": [1, 2.5, None, True], "nested": {"a": "b"}}
    write_json(value, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        write_json({"value": value}, tmp_path / "a.json")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1"),
        (b'{"a": 1,\n "b": }', "line 2"),
        (b'{"name": "Universit\xe4t"}', "byte 19 is not UTF-8"),
        (b"[" * 1_000_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"is not valid JSON \(.*{words}") as caught:
        read_json(path)
    assert caught.value.where == str(path)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_hash_of_a_file(tmp_path: Path, size: int) -> None:
    content = bytes(position % 251 for position in range(size))
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256_of(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_hash_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        sha256_of(tmp_path / "a.bin")
    with pytest.raises(InputError, match="is a folder"):
        sha256_of(tmp_path)
