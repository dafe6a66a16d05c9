"""Errors: their line, their exit code, and what becomes of the operating system's own."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from medseg.errors import (
    USAGE_EXIT_CODE,
    BundleError,
    ConfigError,
    GeometryError,
    InputError,
    MedsegError,
    ResourceError,
    explain_os_errors,
)

KINDS = [(InputError, 2), (GeometryError, 3), (ResourceError, 4), (ConfigError, 5), (BundleError, 6)]


@pytest.mark.parametrize(("kind", "code"), KINDS)
def test_each_kind_has_its_exit_code(kind: type[MedsegError], code: int) -> None:
    assert issubclass(kind, MedsegError)
    assert kind("wrong").exit_code == code


def test_exit_codes_differ_from_each_other_and_from_the_reserved_ones() -> None:
    codes = [kind.exit_code for kind, _ in KINDS] + [MedsegError.exit_code, USAGE_EXIT_CODE, 130, 0]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("where", "fix", "line"),
    [
        (None, None, "wrong"),
        ("a.nii", None, "a.nii: wrong"),
        (None, "mend it", "wrong; mend it"),
        (Path("folder/a.nii"), "mend it", "folder/a.nii: wrong; mend it"),
    ],
)
def test_line_holds_what_is_known(where: str | Path | None, fix: str | None, line: str) -> None:
    assert str(InputError("wrong", where=where, fix=fix)) == line


def test_message_is_one_line_and_leaves_paths_alone() -> None:
    error = InputError("header says\n   'no'\r\nto it", where="two  spaces.nii", fix="mend\nit")
    assert str(error) == "two  spaces.nii: header says 'no' to it; mend it"


@pytest.mark.parametrize("kind", [MedsegError, *(kind for kind, _ in KINDS)])
def test_errors_cross_process_borders(kind: type[MedsegError]) -> None:
    error = kind("wrong", where=Path("a.nii"), fix="mend it")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind
    assert (twin.what, twin.where, twin.fix, str(twin)) == ("wrong", "a.nii", "mend it", str(error))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "not permitted"),
        (errno.EROFS, "read-only"),
        (errno.EFBIG, "too large"),
        (errno.EMFILE, "too many open files"),
        (errno.ENOMEM, "memory"),
    ],
)
def test_lack_of_resources(code: int, words: str) -> None:
    with pytest.raises(ResourceError, match=words) as caught, explain_os_errors("out.nii"):
        raise OSError(code, os.strerror(code))
    assert caught.value.where == "out.nii"
    assert caught.value.fix
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOENT, "does not exist"),
        (errno.EISDIR, "is a folder, a file is needed"),
        (errno.ENOTDIR, "a part of this path is a file"),
        (errno.EEXIST, "a part of this path is a file"),
        (errno.EIO, "cannot be read or written"),
        (errno.ENAMETOOLONG, "cannot be read or written"),
    ],
)
def test_unusable_paths(code: int, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught, explain_os_errors("in.nii"):
        raise OSError(code, os.strerror(code))
    assert caught.value.where == "in.nii"
    assert caught.value.fix


def test_exhausted_memory() -> None:
    with pytest.raises(ResourceError, match=r"big\.nii: not enough memory"), explain_os_errors("big.nii"):
        raise MemoryError


def test_os_error_without_a_number_is_somebody_elses() -> None:
    with pytest.raises(OSError, match="not a gzip file"), explain_os_errors("a.nii.gz"):
        raise OSError("not a gzip file")


@pytest.mark.parametrize("error", [ValueError("no"), GeometryError("no", where="b.nii")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explain_os_errors("a.nii"):
        raise error
    assert caught.value is error


def test_nothing_happens_where_nothing_fails() -> None:
    with explain_os_errors("a.nii"):
        value = 1
    assert value == 1
