"""Processes that need not import PyTorch, MONAI and Lightning, which takes seconds: forked from one that has.

They are processes of their own, in sessions of their own, to be killed and interrupted like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import TimeoutExpired

import torch

_IMPORTED = (
    "medseg.cli.main",
    "medseg.comparison",
    "medseg.data.phantoms",
    "medseg.fitting",
    "medseg.segmenters",
    "medseg.training",
)
"""What the commands of the tests import in the end."""

_METHODS = multiprocessing.get_all_start_methods()
_context = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
_context.set_forkserver_preload(list(_IMPORTED))


class Started:
    """A process at work, with the names that :class:`subprocess.Popen` has for it."""

    def __init__(
        self, function: Callable[..., None], *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        Args:
            function: Of a module's top level.
            *arguments: For it.
            environment: Its variables; those of this process if left out.
        """
        self._shown = tempfile.TemporaryDirectory(prefix="shown-")
        folder = Path(self._shown.name)
        self._files = [folder / "stdout", folder / "stderr"]
        for file in self._files:
            file.touch()
        variables = dict(os.environ if environment is None else environment)
        threads = int(variables.get("OMP_NUM_THREADS", torch.get_num_threads()))
        self._process = _context.Process(
            target=_begin, args=(function, arguments, self._files, variables, threads)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; ``None`` while it works."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(str(self._process), timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to standard output and standard error."""
        self.wait(timeout)
        shown, errors = (file.read_text(encoding="utf-8") for file in self._files)
        return shown, errors

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def medseg(arguments: list[str]) -> None:
    """The command ``medseg``, for :class:`Started`."""
    from medseg.cli.main import run

    run(arguments)


def medseg_where_files_stay_small(limit_bytes: int, arguments: list[str]) -> None:
    """The same where no file may grow beyond a limit: writing fails midway, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    medseg(arguments)


def python(code: str, arguments: list[str]) -> None:
    """What ``python -c`` does, for :class:`Started`."""
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


def _begin(
    function: Callable[..., None],
    arguments: tuple[object, ...],
    files: list[Path],
    environment: dict[str, str],
    threads: int,
) -> None:
    if hasattr(os, "setsid"):
        os.setsid()
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    # Whoever is forked starts processes as its parent does, and computes with as many threads as it.
    multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    function(*arguments)
