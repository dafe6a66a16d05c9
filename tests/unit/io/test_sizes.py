from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from medseg.errors import InputError, ResourceError
from medseg.io import sizes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1.5e9, "1.5 GB"),
        (54e12, "54.0 TB"),
        (2e30, "2000000000000.0 EB"),
    ],
)
def test_bytes_in_words(count: float, text: str) -> None:
    assert sizes.format_bytes(count) == text


@pytest.mark.parametrize(("announced", "stored", "compressed"), [(100, 100, False), (103200, 100, True)])
def test_what_fits_into_the_file_passes(announced: int, stored: int, compressed: bool) -> None:
    sizes.require_in_file(announced, stored, compressed=compressed, shape=(1,), where="a")


@pytest.mark.parametrize(
    ("announced", "stored", "compressed"), [(101, 100, False), (103201, 100, True), (1, -5, False)]
)
def test_what_cannot_fit_is_refused(announced: int, stored: int, compressed: bool) -> None:
    with pytest.raises(InputError, match="a: the header announces 2x3 voxels"):
        sizes.require_in_file(announced, stored, compressed=compressed, shape=(2, 3), where="a")


def test_deflate_never_expands_by_more_than_the_bound() -> None:
    packed = zlib.compress(bytes(10_000_000), 9)
    sizes.require_in_file(10_000_000, len(packed), compressed=True, shape=(1,), where="a")
    assert 10_000_000 / len(packed) > 1000  # the bound is not far off either


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "available_memory_bytes", lambda: 1000)
    sizes.require_memory(1000, "a")
    with pytest.raises(
        ResourceError, match=r"a: needs 1\.0 kB of memory to be read, 1\.0 kB are free"
    ) as caught:
        sizes.require_memory(1001, "a")
    assert caught.value.exit_code == 4


def test_memory_of_this_machine_is_plausible() -> None:
    assert 1e6 < sizes.available_memory_bytes() < 1e15


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_path: Path, encoding: str) -> str:
        raise FileNotFoundError(encoding)

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert 1e6 < sizes.available_memory_bytes() < 1e15


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sizes, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert sizes.available_memory_bytes() == 2000
    (tmp_path / "memory.stat").write_text("anon 2500\ninactive_file 500\n")
    assert sizes.available_memory_bytes() == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert sizes.available_memory_bytes() > 1e6
