"""What can go wrong, by kind: every error says what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import ClassVar

__all__ = [
    "USAGE_EXIT_CODE",
    "BundleError",
    "ConfigError",
    "GeometryError",
    "InputError",
    "MedsegError",
    "ResourceError",
    "did_you_mean",
    "explain_os_errors",
]

USAGE_EXIT_CODE = 64
"""Exit code of a wrong call of the command line (BSD's ``EX_USAGE``)."""


class MedsegError(Exception):
    """Base of every error that medseg raises on purpose.

    Args:
        what: What is wrong, without a final full stop.
        where: The file or argument that is wrong.
        fix: What the user can do about it.

    Example:
        >>> str(InputError("holds 2 dimensions, 3 are needed", where="a.nii", fix="stack the slices"))
        'a.nii: holds 2 dimensions, 3 are needed; stack the slices'
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        head = self.what if self.where is None else f"{self.where}: {self.what}"
        line = head if self.fix is None else f"{head}; {self.fix}"
        return " ".join(part.strip() for part in line.splitlines())

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by Exception's own pickling, and errors cross process borders.
        return _rebuild, (type(self), self.what, self.where, self.fix)


class InputError(MedsegError):
    """A file or folder given by the user cannot be used as it is."""

    exit_code = 2


class GeometryError(MedsegError):
    """Grids disagree, or a geometry is invalid."""

    exit_code = 3


class ResourceError(MedsegError):
    """Memory, disk or permissions do not suffice."""

    exit_code = 4


class ConfigError(MedsegError):
    """A recipe, plan or option is wrong."""

    exit_code = 5


class BundleError(MedsegError):
    """A run or bundle is damaged, unsafe or does not agree with itself."""

    exit_code = 6


def _rebuild(kind: type[MedsegError], what: str, where: str | None, fix: str | None) -> MedsegError:
    return kind(what, where=where, fix=fix)


_RESOURCE_ERRNO = {
    errno.ENOSPC: ("no space left on the disk", "free some space or write elsewhere"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or write elsewhere"),
    errno.EACCES: ("permission denied", "choose a place that you may read and write"),
    errno.EPERM: ("operation not permitted", "choose a place that you may read and write"),
    errno.EROFS: ("the file system is read-only", "write elsewhere"),
    errno.EFBIG: ("the file would be too large for this file system", "write elsewhere"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n) or use fewer jobs"),
    errno.ENOMEM: ("not enough memory", "close other programs or use a smaller --max-ram"),
}


@contextmanager
def explain_os_errors(where: str | PathLike[str]) -> Iterator[None]:
    """Turn the operating system's errors into medseg's, naming ``where``.

    A broken pipe passes as it is: who read from it has gone, and no file is to blame.

    Args:
        where: The file or folder that is being read or written.

    Raises:
        ResourceError: Disk full, no permission, out of memory.
        InputError: The file does not exist, or is of the wrong kind.

    Example:
        >>> with explain_os_errors("missing.nii"):
        ...     open("missing.nii")
        Traceback (most recent call last):
        medseg.errors.InputError: missing.nii: does not exist; check the path
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError("does not exist", where=where, fix="check the path") from error
    except IsADirectoryError as error:
        raise InputError("is a folder, a file is needed", where=where, fix="check the path") from error
    except (NotADirectoryError, FileExistsError) as error:  # the latter where the last part is the file
        what = "a part of this path is a file, a folder is needed"
        raise InputError(what, where=where, fix="check the path") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _RESOURCE_ERRNO:
            what, fix = _RESOURCE_ERRNO[error.errno]
            raise ResourceError(what, where=where, fix=fix) from error
        if error.errno is not None:
            raise InputError(
                f"cannot be read or written ({error.strerror})", where=where, fix="check the file"
            ) from error
        raise
    except MemoryError as error:
        what, fix = _RESOURCE_ERRNO[errno.ENOMEM]
        raise ResourceError(what, where=where, fix=fix) from error


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Suggest the nearest of ``choices``, or list them all.

    Example:
        >>> did_you_mean("unte", ["unet", "segnet"])
        "did you mean 'unet'?"
        >>> did_you_mean("xyz", ["unet", "segnet"])
        'choose one of segnet, unet'
    """
    known = {choice.lower(): choice for choice in sorted(choices)}
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{known[near[0]]}'?"
    return f"choose one of {', '.join(known.values())}"
