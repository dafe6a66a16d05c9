"""Running a bundle where medseg cannot be imported: ``python -m monai.bundle`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import BundleError, ConfigError
from medseg.files import write_text

__all__ = ["CleanPython"]

_HIDDEN = ("medseg", "blosc2", "lightning", "pydantic", "pydicom", "SimpleITK", "typer")
"""What a person with MONAI alone does not have."""

_BLOCK = '''"""Hides packages from a process, as if they were not installed."""
import sys

HIDDEN = {hidden!r}


class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None


sys.meta_path.insert(0, Hide())
'''

_LOOK = """
import importlib.metadata as m, importlib, json, sys
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
def importable(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True
names = ("monai", "torch", "numpy", "nibabel", "pytorch-ignite", "fire", "PyYAML")
print(json.dumps({"python": sys.version.split()[0], **{n: version(n) for n in names},
                  "medseg_importable": importable("medseg")}))
"""
_SHOWN = 300


@dataclass(frozen=True)
class CleanPython:
    """An interpreter for which medseg, and what only medseg needs, is not there.

    Attributes:
        executable: The interpreter.
        scratch: A folder for the file that hides packages.
        hidden: More packages to hide.
    """

    executable: str
    scratch: Path
    hidden: tuple[str, ...] = ()

    @classmethod
    def of(cls, python: str | None, scratch: Path, hidden: tuple[str, ...] = ()) -> CleanPython:
        """This process's interpreter, or another one.

        Raises:
            ConfigError: There is no such interpreter, or it lacks what MONAI's bundles need.
        """
        chosen = python or sys.executable
        # It is started in other folders. A link stays one: by it an interpreter knows its environment.
        executable = str(Path(chosen).absolute()) if len(Path(chosen).parts) > 1 else chosen
        clean = cls(executable, scratch, hidden)
        write_text(_BLOCK.format(hidden=(*_HIDDEN, *hidden)), scratch / "sitecustomize.py")
        found = clean.environment()
        lacking = [name for name, version in found.items() if version is None]
        if lacking:
            raise ConfigError(
                f"lacks {', '.join(lacking)}, which MONAI needs to run a bundle",
                where=clean.executable,
                fix="install them there" if python else "pip install 'medseg[bundle]'",
            )
        if found["medseg_importable"]:
            raise ConfigError(
                "medseg can be imported there in spite of all", where=clean.executable, fix="use another"
            )
        return clean

    def environment(self) -> dict[str, Any]:
        """Versions of Python and of what a bundle needs, ``None`` for what is not there."""
        done = self._run(["-c", _LOOK], self.scratch)
        if done.returncode != 0:
            raise ConfigError(f"does not run: {_last_line(done.stderr)}", where=self.executable)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def bundle(self, folder: Path, *arguments: str, fix: str = "report this") -> str:
        """Run ``python -m monai.bundle`` in a bundle's folder; gives what it printed.

        Args:
            folder: The bundle's.
            *arguments: Of the command.
            fix: What helps where it fails.

        Raises:
            BundleError: It failed.
        """
        done = self._run(["-m", "monai.bundle", *arguments], folder)
        if done.returncode != 0:
            raise BundleError(
                f"does not run outside of medseg: {_last_line(done.stderr)}",
                where=f"monai.bundle {arguments[0]}",
                fix=fix,
            )
        return done.stdout + done.stderr

    def _run(self, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment = {**kept, "PYTHONPATH": str(self.scratch), "PYTHONNOUSERSITE": "1"}
        try:
            return subprocess.run(
                [self.executable, *arguments],
                cwd=folder,
                env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot be started ({error.strerror})",
                where=self.executable,
                fix="give --verify-python a Python interpreter",
            ) from error


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_SHOWN] if lines else "it printed nothing"
