from __future__ import annotations

import io
import random
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from medseg.data import unpack as module
from medseg.data.unpack import unpack
from medseg.errors import InputError, ResourceError

FILES = {"Tiny/dataset.json": b"{}", "Tiny/imagesTr/a.nii.gz": b"voxels" * 1000}


def tar_of(path: Path, mode: str, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, content if kind == tarfile.REGTYPE else b""


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path, out, mode):
    folder = tar_member("Tiny", kind=tarfile.DIRTYPE)
    unpack(tar_of(tmp_path / "a", mode, [folder, *(tar_member(n, c) for n, c in FILES.items())]), out)
    assert contents(out) == FILES


def test_zip(tmp_path, out):
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("Tiny")
        for name, content in FILES.items():
            archive.writestr(name, content)
    unpack(tmp_path / "a", out)
    assert contents(out) == FILES


def test_what_macos_adds_is_left_out(tmp_path, out):
    extras = ["Tiny/._dataset.json", "__MACOSX/Tiny/a", "Tiny/.DS_Store"]
    members = [tar_member(name) for name in [*extras, "Tiny/dataset.json"]]
    unpack(tar_of(tmp_path / "a.tar", "w", members), out)
    assert list(contents(out)) == ["Tiny/dataset.json"]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (tar_member("/etc/evil"), "is an absolute path"),
        (tar_member("../evil"), "is a path that leads out of the folder"),
        (tar_member("a/../../evil"), "is a path that leads out of the folder"),
        (tar_member("a\\..\\..\\evil"), "is a path that leads out of the folder"),
        (tar_member("C:\\evil"), "is an absolute path"),
        (tar_member("C:evil"), "is an absolute path"),
        (tar_member("/evil", kind=tarfile.DIRTYPE), "is an absolute path"),
        (tar_member("link", kind=tarfile.SYMTYPE, link="/etc"), r"is a link \(to '/etc'\)"),
        (tar_member("link", kind=tarfile.SYMTYPE, link="ok"), "is a link"),
        (tar_member("link", kind=tarfile.LNKTYPE, link="../evil"), "is a link"),
        (tar_member("device", kind=tarfile.CHRTYPE), "is no plain file"),
        (tar_member("device", kind=tarfile.BLKTYPE), "is no plain file"),
        (tar_member("pipe", kind=tarfile.FIFOTYPE), "is no plain file"),
    ],
)
def test_tar_members_that_could_do_harm(tmp_path, out, member, reason):
    archive = tar_of(tmp_path / "a.tar", "w", [member])
    with pytest.raises(InputError, match=reason) as caught:
        unpack(archive, out)
    assert str(archive) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [archive, out]
    assert list(out.iterdir()) == []


def zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def zip_pipe() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("pipe")
    info.external_attr = (stat.S_IFIFO | 0o600) << 16
    return info


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("/etc/evil", "is an absolute path"),
        ("../evil", "leads out of the folder"),
        ("a/../../evil", "leads out of the folder"),
        (zip_link(), "is a link"),
        (zip_pipe(), "is no plain file"),
    ],
)
def test_zip_members_that_could_do_harm(tmp_path, out, member, reason):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(InputError, match=reason):
        unpack(tmp_path / "a.zip", out)
    assert list(out.iterdir()) == []


def test_an_encrypted_zip(tmp_path, out):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x")
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header, then in the central directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted"):
        unpack(path, out)


def test_a_name_that_occurs_twice(tmp_path, out):
    archive = tar_of(tmp_path / "a.tar", "w", [tar_member("a", b"1"), tar_member("a", b"2")])
    with pytest.raises(InputError):
        unpack(archive, out)
    assert contents(out) == {"a": b"1"}


def test_a_bomb_is_stopped_by_what_it_writes(tmp_path, out, monkeypatch):
    usage = shutil.disk_usage(out)._replace(free=1_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    archive = tar_of(tmp_path / "a.tgz", "w:gz", [tar_member(f"zeros{i}", bytes(400_000)) for i in range(5)])
    assert archive.stat().st_size < 10_000
    with pytest.raises(ResourceError, match="unpacks to more than the free disk holds"):
        unpack(archive, out)
    assert sum(map(len, contents(out).values())) <= 950_000


def test_too_many_members(tmp_path, out, monkeypatch):
    monkeypatch.setattr(module, "_MOST_MEMBERS", 3)
    archive = tar_of(tmp_path / "a.tar", "w", [tar_member(str(index)) for index in range(4)])
    with pytest.raises(InputError, match="more than 3 members"):
        unpack(archive, out)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_truncated_tar(tmp_path, out, mode):
    noise = random.Random(0).randbytes(200_000)
    archive = tar_of(tmp_path / "a.tar", mode, [tar_member("a", noise)])
    archive.write_bytes(archive.read_bytes()[:150_000])
    with pytest.raises(InputError, match=r"is a damaged archive|is neither a tar nor"):
        unpack(archive, out)


def test_a_zip_with_a_flipped_bit(tmp_path, out):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x" * 1000)
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged archive"):
        unpack(path, out)


def test_no_archive_at_all(tmp_path, out):
    (tmp_path / "a.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(InputError, match="is neither a tar nor a zip archive"):
        unpack(tmp_path / "a.tar", out)
    with pytest.raises(InputError, match="does not exist"):
        unpack(tmp_path / "b.tar", out)
