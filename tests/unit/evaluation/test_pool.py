"""How many processes scoring is worth."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medseg.errors import ConfigError
from medseg.evaluation.pool import workers_for

BIG = 10**9


def test_what_workers_import_is_light() -> None:
    heavy = {"torch", "monai", "lightning", "matplotlib", "typer"}
    code = f"import sys, medseg.evaluation.case; sys.exit(' '.join({heavy!r} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_as_many_workers_as_the_work_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.evaluation.pool.available_cores", lambda: 8)
    monkeypatch.setattr("medseg.evaluation.pool.available_memory_bytes", lambda: 200 * BIG)
    assert workers_for([1000] * 50, None) == 1
    assert workers_for([BIG // 10] * 50, None) == 8
    assert workers_for([BIG // 10] * 3, None) == 3
    assert workers_for([], None) == 1
    monkeypatch.setattr("medseg.evaluation.pool.available_memory_bytes", lambda: 10 * BIG)
    assert workers_for([BIG // 10] * 50, None) == 2
    monkeypatch.setattr("medseg.evaluation.pool.available_memory_bytes", lambda: 0)
    assert workers_for([BIG // 10] * 50, None) == 1
    assert workers_for([BIG // 10] * 50, 12) == 12
    assert workers_for([1000] * 2, 12) == 2
    with pytest.raises(ConfigError, match="0 jobs cannot work"):
        workers_for([1000], 0)
