"""What needs no PyTorch does not import it, for that takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = [
    "medseg",
    "medseg.cli.main",
    "medseg.components",
    "medseg.conversion",
    "medseg.errors",
    "medseg.evaluation",
    "medseg.files",
    "medseg.geometry",
    "medseg.labels",
    "medseg.metrics",
    "medseg.networks",
    "medseg.progress",
    "medseg.ranges",
    "medseg.registry",
    "medseg.volume",
]


@pytest.mark.parametrize("module", LIGHT)
def test_import_of_a_light_module(module: str) -> None:
    heavy = {"torch", "monai", "lightning"}
    code = f"import sys, {module}; sys.exit(' '.join({heavy!r} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
